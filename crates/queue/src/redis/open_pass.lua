-- Opens a reaper's pass: notes the time, and after a time in which no reaper ran renews every lease, because nobody
-- could extend one either. Orphans become ordinary entries when told so.
-- KEYS: reaper, leases
-- ARGV: first_sight_ms, outage_after_ms, reap orphans (1 or 0)
-- Result: {leases renewed, where the walk over processing goes on}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = now + tonumber(ARGV[1])
local last = redis.call('HGET', KEYS[1], 'pass')
redis.call('HSET', KEYS[1], 'pass', now)
local renewed = 0
local function renew(from, to)
  repeat
    local entries = redis.call('ZRANGEBYSCORE', KEYS[2], from, to, 'LIMIT', 0, 100)
    for _, entry in ipairs(entries) do redis.call('ZADD', KEYS[2], expiry, entry) end
    renewed = renewed + #entries
  until #entries < 100
end
if ARGV[3] == '1' then renew('+inf', '+inf') end
if not last or now - tonumber(last) > tonumber(ARGV[2]) then renew('-inf', '(' .. expiry) end
return {renewed, redis.call('HGET', KEYS[1], 'walk') or '0'}
