-- dlq -> main.
-- KEYS: dlq, main
-- ARGV: dead-letter entry, message
-- Result: 1 moved, 0 not there
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
