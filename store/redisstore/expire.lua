-- expire: gives back what a replica holds, if its token is still the given one. A
-- replica that leaves expires itself.
-- KEYS  m, t, r of the target
-- ARGV  target, epoch, token, most counters to give back in this call
-- Returns "LOST", "NO" (the target has another token: it lives), "MORE" or "GONE".
-- Safe to repeat: it works on the given token only, and the answer about a former
-- member is GONE.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local target, epoch, token, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local head = redis.call('HMGET', m, 'birth', '@' .. target)
if head[1] ~= epoch then return 'LOST' end
local it = member_of(head[2])
if not it then return 'GONE' end
if it.token ~= token then return 'NO' end
if redis.call('HGET', t, '.b') ~= epoch or redis.call('HGET', r, '.t') ~= token then
  redis.call('UNLINK', m) -- corrupt: the next join creates a new epoch
  return 'LOST'
end

local own, cursor = {}, '0'
repeat
  local page = redis.call('HSCAN', r, cursor, 'COUNT', most)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if string.sub(page[2][i], 1, 1) ~= '.' then own[page[2][i]] = tonumber(page[2][i + 1]) end
  end
  local n = 0
  for _ in pairs(own) do n = n + 1 end
until cursor == '0' or n > most

local counters = {}
for c in pairs(own) do counters[#counters + 1] = c end
table.sort(counters)
local some_left = #counters > most
for i = #counters, most + 1, -1 do counters[i] = nil end
give_back(t, counters, own)
if #counters > 0 then redis.call('HDEL', r, unpack(counters)) end
if some_left then
  redis.call('HSET', m, '@' .. target, token .. ' dying ' .. it.space)
  return 'MORE'
end

redis.call('UNLINK', r)
redis.call('HDEL', m, '@' .. target)
redis.call('HSET', m, '-' .. target, int(stream_of(token)))
forget(m, it.space, target)
return 'GONE'
