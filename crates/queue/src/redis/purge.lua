-- Purges leases whose entry is gone, if there are more leases than entries: what acks on the hot path have left behind.
-- KEYS: processing, leases
-- ARGV: how long processing may be for it to be looked at
-- Result: leases purged
local most = tonumber(ARGV[1])
local length = redis.call('LLEN', KEYS[1])
if length > most or redis.call('ZCARD', KEYS[2]) <= length then return 0 end
local there = {}
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do there[entry] = true end
local purged = 0
for _, entry in ipairs(redis.call('ZRANGE', KEYS[2], 0, 2 * most - 1)) do
  if not there[entry] then purged = purged + redis.call('ZREM', KEYS[2], entry) end
end
return purged
