-- Reads processing and its leases at one moment.
-- KEYS: processing, leases
-- ARGV: none
-- Result: {now in ms, entries of processing (newest first), leased entry, expiry, ...}
local now = redis.call('TIME')
return {
  now[1] * 1000 + math.floor(now[2] / 1000),
  redis.call('LRANGE', KEYS[1], 0, -1),
  redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
}
