-- mature: drops tombstones, and ends the young state once it is ripe.
-- KEYS  m
-- ARGV  birth, ripe (0|1), sender, its token as last acknowledged, then holders
--       whose tombstones are to be dropped
-- Returns "LOST", "YOUNG" or "MATURE".
-- Safe to repeat: the writes are deletions, and on data that was lost and born
-- again by a late copy of a join, the sender has not come as far as its token.
local m, birth, ripe, sender, token = KEYS[1], ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

local function reaches(one, other)
  local stream, seq = string.match(one, '^(.*):(%d+)$')
  local stream2, seq2 = string.match(other, '^(.*):(%d+)$')
  return stream == stream2 and tonumber(seq) >= tonumber(seq2)
end

local head = redis.call('HMGET', m, 'birth', '@' .. sender)
local me = member_of(head[2])
if head[1] ~= birth or not me or not reaches(me.token, token) then return 'LOST' end
for i = 5, #ARGV do redis.call('HDEL', m, '-' .. ARGV[i]) end
local fields = redis.call('HGETALL', m)
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == '@' and member_of(fields[i + 1]).state == 'claiming' then
    ripe = false
  end
end
if ripe then redis.call('HDEL', m, 'young') end
return redis.call('HEXISTS', m, 'young') == 1 and 'YOUNG' or 'MATURE'
