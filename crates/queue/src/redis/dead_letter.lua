-- processing -> dlq.
-- KEYS: processing, leases, dlq
-- ARGV: entry, dead-letter entry, end of the list to search from (1 head, -1 tail)
-- Result: 1 moved, 0 no longer yours
if redis.call('LREM', KEYS[1], ARGV[3], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
