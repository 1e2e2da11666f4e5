-- processing -> gone, with the lease. The hot path is a bare LREM instead, which may leave a lease behind: see purge.lua.
-- KEYS: processing, leases
-- ARGV: entry, end of the list to search from (1 head, -1 tail)
-- Result: 1 gone, 0 no longer yours
if redis.call('LREM', KEYS[1], ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
