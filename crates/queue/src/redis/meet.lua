-- The first meeting with a queue: what lies in processing without a lease was left by others, and is held for good
-- (a lease without end) until somebody says that it may be reaped. Later meetings change nothing.
-- KEYS: reaper, processing, leases
-- ARGV: entry... (taken a moment ago by the caller: no orphans)
-- Result: how many orphans were found
local now = redis.call('TIME')
if redis.call('HSETNX', KEYS[1], 'met', now[1] * 1000 + math.floor(now[2] / 1000)) == 0 then return 0 end
local orphans = 0
local own = {}
for i = 1, #ARGV do own[ARGV[i]] = true end
local length = redis.call('LLEN', KEYS[2])
for from = 0, length - 1, 100 do
  for _, entry in ipairs(redis.call('LRANGE', KEYS[2], from, from + 99)) do
    if not own[entry] then orphans = orphans + redis.call('ZADD', KEYS[3], 'NX', '+inf', entry) end
  end
end
return orphans
