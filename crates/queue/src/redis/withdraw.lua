-- main -> dlq, for what no consumer could read.
-- The new place comes first, and is left again if there was nothing to move: see retry.lua.
-- KEYS: main, dlq
-- ARGV: entry, dead-letter entry
-- Result: 1 moved, 0 not there
redis.call('LPUSH', KEYS[2], ARGV[2])
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  redis.call('LPOP', KEYS[2])
  return 0
end
return 1
