-- publish: makes a text the newest generation, and drops the oldest ones.
-- KEYS  g, x
-- ARGV  the newest number that there must be, or "-" if any lower one will do;
--       number, id, description and text of the generation; how many to keep
-- Returns the newest number after that, and its id.
-- Safe to repeat: a copy finds its own number, and writes nothing.
local g, x = KEYS[1], KEYS[2]
local after, number, id, about, text, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local latest = redis.call('HGET', g, 'n') or '0'
if after == '-' then
  if (tonumber(latest) or 0) >= tonumber(number) then return { latest, redis.call('HGET', g, 'id') or '' } end
elseif latest ~= after then
  return { latest, redis.call('HGET', g, 'id') or '' }
end
redis.call('HSET', g, 'n', number, 'id', id, number, about)
redis.call('HSET', x, number, text)

local kept = {}
local fields = redis.call('HGETALL', g)
for i = 1, #fields, 2 do
  local n = tonumber(fields[i])
  if n then kept[#kept + 1] = { n, fields[i] } end
end
table.sort(kept, function(a, b) return a[1] > b[1] end)
for i = keep + 1, #kept do
  redis.call('HDEL', g, kept[i][2])
  redis.call('HDEL', x, kept[i][2])
end
return { number, id }
