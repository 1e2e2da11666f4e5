-- processing, longer lease. Nothing is granted to an entry that is not there.
-- KEYS: processing, leases
-- ARGV: lease_ms, entry...
-- Result: for each entry 1 extended, 0 no longer yours
local now = redis.call('TIME')
local expiry = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[1])
local answers = {}
for i = 2, #ARGV do
  if redis.call('LPOS', KEYS[1], ARGV[i]) then
    redis.call('ZADD', KEYS[2], expiry, ARGV[i])
    answers[i - 1] = 1
  else
    redis.call('ZREM', KEYS[2], ARGV[i])
    answers[i - 1] = 0
  end
end
return answers
