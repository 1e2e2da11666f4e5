-- processing -> main, at the end that is taken from, unchanged.
-- KEYS: processing, leases, main
-- ARGV: entry, end of the list to search from (1 head, -1 tail)
-- Result: 1 moved, 0 no longer yours
if redis.call('LREM', KEYS[1], ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[1])
return 1
