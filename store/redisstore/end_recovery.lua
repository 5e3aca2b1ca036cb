-- end_recovery: drops tombstones, and ends the recovery unless a member is claiming.
-- KEYS  m
-- ARGV  epoch, ready (0|1), sender, its last acknowledged token, then replicas whose
--       tombstones are to be dropped
-- Returns "LOST", "YOUNG" if the store is recovering, or "MATURE".
-- Safe to repeat: all writes are deletions. If a late copy of a join has created a lost
-- epoch again, the stored token of the sender is older than the given one: LOST.
local m, epoch, ready, sender, token = KEYS[1], ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4]

local function reaches(one, other)
  local stream, seq = string.match(one, '^(.*):(%d+)$')
  local stream2, seq2 = string.match(other, '^(.*):(%d+)$')
  return stream == stream2 and tonumber(seq) >= tonumber(seq2)
end

local head = redis.call('HMGET', m, 'birth', '@' .. sender)
local me = member_of(head[2])
if head[1] ~= epoch or not me or not reaches(me.token, token) then return 'LOST' end
for i = 5, #ARGV do redis.call('HDEL', m, '-' .. ARGV[i]) end
local fields = redis.call('HGETALL', m)
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == '@' and member_of(fields[i + 1]).state == 'claiming' then
    ready = false
  end
end
if ready then redis.call('HDEL', m, 'young') end
return redis.call('HEXISTS', m, 'young') == 1 and 'YOUNG' or 'MATURE'
