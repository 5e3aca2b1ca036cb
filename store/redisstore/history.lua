-- Prepended to join.lua and batch.lua: what Redis calls the history of its data. It
-- changes with each start of a server and each promotion of a Redis replica. What
-- was acknowledged before may be missing afterwards, even if the server process and
-- the connections to it are the same. So nothing is built on an epoch of another
-- history, and a late copy finds nothing to act on.
-- A plain search costs a tenth of cutting the name out of the text.
local replication = redis.call('INFO', 'replication')

local function in_history(name)
  return name and string.find(replication, '\nmaster_replid:' .. name .. '\r', 1, true)
end

