-- Prepended to join.lua and batch.lua: is the data still of the same replication history?
-- Redis changes its master_replid at each start and each promotion. Acknowledged writes
-- of before may be missing then, even if the server process and its connections are the
-- same. So an epoch of another history is not continued, and late copies of requests
-- have no effect.
-- A plain search takes a tenth of the time of cutting the name out of the text.
local replication = redis.call('INFO', 'replication')

local function in_history(name)
  return name and string.find(replication, '\nmaster_replid:' .. name .. '\r', 1, true)
end

