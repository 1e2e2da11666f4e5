-- main -> dlq, for what no consumer could read.
-- KEYS: main, dlq
-- ARGV: entry, dead-letter entry
-- Result: 1 moved, 0 not there
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
