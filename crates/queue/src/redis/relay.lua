-- outside -> main, together with the step of the source's cursor, if the cursor is where it is expected.
-- The cursor goes first: where it cannot be written nothing may be pushed, or every repetition would push again. Where
-- pushing fails (the key holds something else, the user may not) the cursor goes back, or the entries would be lost.
-- KEYS: cursor, main
-- ARGV: source, expected position ('' if there must be none), next position, entry... (oldest first)
-- Result: {1} pushed and moved, {0, actual position or false} refused
local actual = redis.call('HGET', KEYS[1], ARGV[1])
if (actual or '') ~= ARGV[2] then return {0, actual} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for from = 4, #ARGV, 1000 do
  local pushed = redis.pcall('LPUSH', KEYS[2], unpack(ARGV, from, math.min(from + 999, #ARGV)))
  if type(pushed) == 'table' and pushed.err then
    if actual then
      redis.call('HSET', KEYS[1], ARGV[1], actual)
    else
      redis.call('HDEL', KEYS[1], ARGV[1])
    end
    return pushed
  end
end
return {1}
