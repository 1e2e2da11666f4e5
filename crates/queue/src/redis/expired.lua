-- Lists entries whose lease has run out, and purges leases that have no entry: those that have run out, and of the
-- endless ones a stretch.
-- KEYS: processing, leases
-- ARGV: how many leases to look at, how many bytes to list at most
-- Result: {leases purged, orphans, 1 if there may be more, entry...}
local now = redis.call('TIME')
local limit, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local purged = 0
local function is_there(entry)
  if redis.call('LPOS', KEYS[1], entry, 'RANK', -1) then return true end
  redis.call('ZREM', KEYS[2], entry)
  purged = purged + 1
  return false
end
local orphans = redis.call('ZCOUNT', KEYS[2], '+inf', '+inf')
if orphans > 0 then
  local skip = math.floor(now[2] / 1000) % (math.ceil(orphans / 16)) * 16
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '+inf', '+inf', 'LIMIT', skip, 16)) do
    if not is_there(entry) then orphans = orphans - 1 end
  end
end
local leases = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now[1] * 1000 + math.floor(now[2] / 1000), 'LIMIT', 0, limit)
local answer = {0, orphans, #leases == limit and 1 or 0}
for _, entry in ipairs(leases) do
  if room <= 0 then
    answer[3] = 1
    break
  end
  if is_there(entry) then
    answer[#answer + 1] = entry
    room = room - #entry
  end
end
answer[1] = purged
return answer
