-- outside -> main, together with the step of the source's cursor, if the cursor is where it is expected.
-- The cursor goes first: where it cannot be written nothing may be pushed, or every repetition would push again. Where
-- pushing fails (the key holds something else, the user may not) the cursor goes back, or the entries would be lost.
-- A queue without this cursor may never have been met, or have lost everything: it is met first, so that nothing published
-- from here on can pass for an orphan, whoever takes it.
-- KEYS: cursor, main, reaper, processing, leases
-- ARGV: source, expected cursor ('' if there must be none), next cursor, entry... (oldest first)
-- Result: {1} pushed and moved, {0, actual cursor or false} refused
local actual = redis.call('HGET', KEYS[1], ARGV[1])
if (actual or '') ~= ARGV[2] then return {0, actual} end
if not actual then meet(KEYS[3], KEYS[4], KEYS[5], {}) end
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
