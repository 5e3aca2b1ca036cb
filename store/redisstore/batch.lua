-- batch: one step of a holder's stream, and its heartbeat.
-- KEYS  m, t, r of the holder
-- ARGV  holder, birth, prev token, new token, strict (0|1), more (0|1),
--       space ("" if unchanged), its number; then per entry: counter, max,
--       rule's max, live, need
-- Returns {"LOST"} or {"OK", young (0|1), number of the space (0 if it was
--       not given), then per entry: own, total, rule's total, contended (0|1)}.
-- Safe to repeat: the new token is compared first, and a copy that finds it
-- already there reads and writes nothing; one that comes after a later batch
-- or a new stream finds neither token and is refused.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local holder, birth, prev, new = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local strict, more, space, hint = ARGV[5] == '1', ARGV[6] == '1', ARGV[7], tonumber(ARGV[8])

local head = redis.call('HMGET', m, 'birth', 'young', '@' .. holder)
local me, young = member_of(head[3]), head[2] and true or false
local list = read_entries(9)
local book = open_book(t, r, holder, list)
if head[1] ~= birth or book.birth ~= birth or not me or me.state == 'dying'
  or (book.token ~= prev and book.token ~= new) then
  return { 'LOST' }
end
if book.token == new then
  local n = space == '' and 0 or tonumber(redis.call('HGET', m, '#' .. space) or 0)
  return answer({ 'OK', young and 1 or 0, n }, book, list)
end

apply(book, list, strict, young or more)
finish(book, list, new)
redis.call('HSET', m, '@' .. holder, new .. (more and ' claiming ' or ' ok ') .. (space == '' and me.space or space))
local n = 0
if space ~= '' then
  n = number(m, space, hint)
  if space ~= me.space then forget(m, me.space, holder) end
end
return answer({ 'OK', young and 1 or 0, n }, book, list)
