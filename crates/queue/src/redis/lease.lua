-- Gives a lease to each entry of a stretch of processing that has none. Counted from the tail, the oldest end.
-- KEYS: reaper, processing, leases
-- ARGV: first_sight_ms, entries to skip, entries to look at
-- Result: {entries looked at, leases given}
local now = redis.call('TIME')
local expiry = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[1])
local skip, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local entries = redis.call('LRANGE', KEYS[2], -(skip + count), -(skip + 1))
local leased = 0
for _, entry in ipairs(entries) do leased = leased + redis.call('ZADD', KEYS[3], 'NX', expiry, entry) end
redis.call('HSET', KEYS[1], 'walk', #entries < count and 0 or skip + count)
return {#entries, leased}
