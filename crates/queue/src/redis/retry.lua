-- processing -> main or delayed: another attempt, with other bytes.
-- KEYS: processing, leases, main, delayed
-- ARGV: entry, with, after_ms (0: main at once), end of the list to search from (1 head, -1 tail)
-- Result: 1 moved, 0 no longer yours
if redis.call('LREM', KEYS[1], ARGV[4], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
local after_ms = tonumber(ARGV[3])
if after_ms == 0 then
  redis.call('LPUSH', KEYS[3], ARGV[2])
else
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[4], now[1] * 1000 + math.floor(now[2] / 1000) + after_ms, ARGV[2])
end
return 1
