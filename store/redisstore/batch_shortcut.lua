-- Prepended to batch.lua: a shortcut for the most frequent kind of batch. Its counters
-- have no keys and no rates, the store is ready, all requested slots are free, and no
-- other replica was recently refused there. Then the replica gets what it needs, and
-- the order of the entries does not matter. The shortcut halves the cost of such a
-- batch. For any other batch it writes nothing and returns what it has read.
local function shortcut(n)
  local counters, totals = { '.t' }, {}
  for i = 1, n do
    local name = ARGV[4 + 5 * i]
    if string.find(name, '^[^/]*/[^/]*/') then return end
    counters[i + 1] = name
    totals[i], totals[n + i] = name, '!' .. name
  end
  totals[2 * n + 1] = '.b'
  local replica, epoch, new = ARGV[1], ARGV[2], ARGV[4]
  local head = redis.call('HMGET', KEYS[1], 'birth', 'young', '@' .. replica, 'history')
  counters = redis.call('HMGET', KEYS[3], unpack(counters))
  totals = redis.call('HMGET', KEYS[2], unpack(totals))
  local state, space = string.match(head[3] or '', '^%S+ (%S+) (%S*)$')
  local read = { head = head, own = counters, totals = totals }
  if head[1] ~= epoch or not in_history(head[4]) or totals[2 * n + 1] ~= epoch or counters[1] ~= ARGV[3] or head[2]
    or not state or state == 'dying' then
    return read
  end

  local reply, rset, rdel, tset, tdel = { 'OK', 0, 0 }, { '.t', new }, {}, {}, {}
  for i = 1, n do
    local at = 4 + 5 * i
    local own, total = tonumber(counters[i + 1] or 0), tonumber(totals[i] or 0)
    local most, need = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 4])
    local now = total + need - own
    if totals[n + i] or (most >= 0 and now > most) then return read end
    if need ~= own then
      if need == 0 then rdel[#rdel + 1] = ARGV[at] else rset[#rset + 1], rset[#rset + 2] = ARGV[at], ARGV[at + 4] end
      if now == 0 then tdel[#tdel + 1] = ARGV[at] else tset[#tset + 1], tset[#tset + 2] = ARGV[at], now end
    end
    reply[4 * i], reply[4 * i + 1], reply[4 * i + 2], reply[4 * i + 3] = need, now, 0, 0
  end
  redis.call('HSET', KEYS[3], unpack(rset))
  if rdel[1] then redis.call('HDEL', KEYS[3], unpack(rdel)) end
  if tset[1] then redis.call('HSET', KEYS[2], unpack(tset)) end
  if tdel[1] then redis.call('HDEL', KEYS[2], unpack(tdel)) end
  redis.call('HSET', KEYS[1], '@' .. replica, new .. ' ok ' .. space)
  return nil, reply
end

local read, done
if #KEYS == 3 and ARGV[6] == '0' and ARGV[7] == '' then
  read, done = shortcut((#ARGV - 8) / 5)
  if done then return done end
end
