-- The first meeting with a queue: what lies in processing without a lease was left by others, and is held for good
-- (a lease without end) until somebody says that it may be reaped. Later meetings change nothing. `own` says which entries
-- are no orphans. Answers how many orphans were found.
local function meet(reaper, processing, leases, own)
  local now = redis.call('TIME')
  if redis.call('HSETNX', reaper, 'met', now[1] * 1000 + math.floor(now[2] / 1000)) == 0 then return 0 end
  local orphans = 0
  local length = redis.call('LLEN', processing)
  for from = 0, length - 1, 100 do
    for _, entry in ipairs(redis.call('LRANGE', processing, from, from + 99)) do
      if not own[entry] then orphans = orphans + redis.call('ZADD', leases, 'NX', '+inf', entry) end
    end
  end
  return orphans
end
