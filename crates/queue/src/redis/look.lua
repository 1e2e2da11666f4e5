-- Reads, at one moment, what may hold a message, main excepted but for its two ends.
-- KEYS: main, processing, delayed, dlq, cursor
-- ARGV: source, mark (the entry that was the newest of main; '' if there is none), most entries of the front,
--       most entered entries, most entries elsewhere
-- Result: {cursor or false, newest entry of main or false, 1 if all of main is given, 1 if `entered` is known,
--          1 if `elsewhere` is given, front, entered, processing, delayed, dlq}
local front, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local main = redis.call('LLEN', KEYS[1])
local whole, known, entered = 0, 0, {}
if main <= front then
  whole, known = 1, 1
elseif ARGV[2] ~= '' then
  local at = redis.call('LPOS', KEYS[1], ARGV[2], 'COUNT', 2, 'MAXLEN', most)
  -- The same bytes twice: which of them was meant cannot be told.
  if #at == 1 then
    known = 1
    if at[1] > 0 then entered = redis.call('LRANGE', KEYS[1], 0, at[1] - 1) end
  elseif #at == 0 and main <= most then
    whole, known = 1, 1
    entered = redis.call('LRANGE', KEYS[1], 0, -1)
  end
end
local others = redis.call('LLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3]) + redis.call('LLEN', KEYS[4])
local given = others <= tonumber(ARGV[5]) and 1 or 0
local function all(command, key) return given == 1 and redis.call(command, key, 0, -1) or {} end
return {
  redis.call('HGET', KEYS[5], ARGV[1]), redis.call('LINDEX', KEYS[1], 0), whole, known, given,
  redis.call('LRANGE', KEYS[1], -front, -1), entered,
  all('LRANGE', KEYS[2]), all('ZRANGE', KEYS[3]), all('LRANGE', KEYS[4]),
}
