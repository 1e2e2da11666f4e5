-- delayed -> main, for what is due.
-- The new place comes first: see retry.lua.
-- KEYS: delayed, main
-- ARGV: how many at most
-- Result: how many
local now = redis.call('TIME')
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now[1] * 1000 + math.floor(now[2] / 1000), 'LIMIT', 0, ARGV[1])
for _, entry in ipairs(due) do
  redis.call('LPUSH', KEYS[2], entry)
  redis.call('ZREM', KEYS[1], entry)
end
return #due
