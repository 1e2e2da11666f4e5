-- outside -> main, together with the step of the source's cursor, if the cursor is where it is expected.
-- KEYS: cursor, main
-- ARGV: source, expected position ('' if there must be none), next position, entry... (oldest first)
-- Result: {1} pushed and moved, {0, actual position or false} refused
local actual = redis.call('HGET', KEYS[1], ARGV[1])
if (actual or '') ~= ARGV[2] then return {0, actual} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for from = 4, #ARGV, 1000 do
  redis.call('LPUSH', KEYS[2], unpack(ARGV, from, math.min(from + 999, #ARGV)))
end
return {1}
