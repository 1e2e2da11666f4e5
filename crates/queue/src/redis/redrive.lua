-- dlq -> main.
-- The new place comes first, and is left again if there was nothing to move: see retry.lua.
-- KEYS: dlq, main
-- ARGV: dead-letter entry, message
-- Result: 1 moved, 0 not there
redis.call('LPUSH', KEYS[2], ARGV[2])
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  redis.call('LPOP', KEYS[2])
  return 0
end
return 1
