-- Meets the queue; see meeting.lua.
-- KEYS: reaper, processing, leases
-- ARGV: entry... (taken a moment ago by the caller: no orphans)
-- Result: how many orphans were found
local own = {}
for i = 1, #ARGV do own[ARGV[i]] = true end
return meet(KEYS[1], KEYS[2], KEYS[3], own)
