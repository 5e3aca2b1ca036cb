-- Prepended to join.lua and batch.lua: what Redis calls the history of its data,
-- another one with each start of a server and each promotion of a replica. What
-- was acknowledged before may be missing after it, even if the server and the
-- connections to it have outlived it. So nothing is built on data that was born
-- in another history, and a copy that comes late finds nothing to act on.
-- A plain search costs a tenth of taking the name out of the text.
local replication = redis.call('INFO', 'replication')

local function in_history(name)
  return name and string.find(replication, '\nmaster_replid:' .. name .. '\r', 1, true)
end

