-- processing -> main or dlq, if the lease has run out: whoever held it is fenced by the other bytes.
-- The new place comes first, and is left again if there was nothing to move: see retry.lua.
-- KEYS: processing, leases, target (main or dlq)
-- ARGV: entry, with
-- Result: 1 moved, 0 extended meanwhile, or gone
local expiry = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not expiry then return 0 end
local now = redis.call('TIME')
if tonumber(expiry) > now[1] * 1000 + math.floor(now[2] / 1000) then return 0 end
redis.call('LPUSH', KEYS[3], ARGV[2])
local removed = redis.call('LREM', KEYS[1], -1, ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if removed == 0 then
  redis.call('LPOP', KEYS[3])
  return 0
end
return 1
