-- processing -> main or delayed: another attempt, with other bytes.
-- Redis rolls nothing back when a later command fails, so the new place comes first: a failure leaves two rather than none.
-- KEYS: processing, leases, main, delayed
-- ARGV: entry, with, after_ms (0: main at once), end of the list to search from (1 head, -1 tail)
-- Result: 1 moved, 0 no longer yours
local after_ms = tonumber(ARGV[3])
local was_delayed = false
if after_ms == 0 then
  redis.call('LPUSH', KEYS[3], ARGV[2])
else
  local now = redis.call('TIME')
  was_delayed = redis.call('ZSCORE', KEYS[4], ARGV[2])
  redis.call('ZADD', KEYS[4], 'NX', now[1] * 1000 + math.floor(now[2] / 1000) + after_ms, ARGV[2])
end
if redis.call('LREM', KEYS[1], ARGV[4], ARGV[1]) == 0 then
  if after_ms == 0 then
    redis.call('LPOP', KEYS[3])
  elseif not was_delayed then
    redis.call('ZREM', KEYS[4], ARGV[2])
  end
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
