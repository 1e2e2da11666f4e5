-- processing -> main, at the end that is taken from, unchanged.
-- The new place comes first, and is left again if there was nothing to move: see retry.lua.
-- KEYS: processing, leases, main
-- ARGV: entry, end of the list to search from (1 head, -1 tail)
-- Result: 1 moved, 0 no longer yours
redis.call('RPUSH', KEYS[3], ARGV[1])
if redis.call('LREM', KEYS[1], ARGV[2], ARGV[1]) == 0 then
  redis.call('RPOP', KEYS[3])
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
