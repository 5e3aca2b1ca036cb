-- mature: drops tombstones, and ends the young state once it is ripe.
-- KEYS  m
-- ARGV  birth, ripe (0|1), then holders whose tombstones are to be dropped
-- Returns "LOST", "YOUNG" or "MATURE".
-- Safe to repeat: both writes are deletions.
local m, birth, ripe = KEYS[1], ARGV[1], ARGV[2] == '1'
if redis.call('HGET', m, 'birth') ~= birth then return 'LOST' end
for i = 3, #ARGV do redis.call('HDEL', m, '-' .. ARGV[i]) end
local fields = redis.call('HGETALL', m)
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == '@' and member_of(fields[i + 1]).state == 'claiming' then
    ripe = false
  end
end
if ripe then redis.call('HDEL', m, 'young') end
return redis.call('HEXISTS', m, 'young') == 1 and 'YOUNG' or 'MATURE'
