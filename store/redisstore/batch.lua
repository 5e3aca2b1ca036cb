-- batch: one step of a holder's stream, and its heartbeat.
-- KEYS  m, t, r of the holder
-- ARGV  holder, birth, prev token, new token, strict (0|1), more (0|1),
--       space ("" if unchanged), its number; then per entry: counter, max,
--       rule's max, live, need
-- Returns {"LOST"} or {"OK", young (0|1), number, then per entry: own, total,
--       rule's total, contended (0|1)}.
-- Safe to repeat: the new token is compared first, and a copy that finds it
-- already there reads and writes nothing; one that comes after a later batch
-- or a new stream finds neither token and is refused.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local holder, birth, prev, new = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local strict, more, space, hint = ARGV[5] == '1', ARGV[6] == '1', ARGV[7], tonumber(ARGV[8])

local head = redis.call('HMGET', m, 'birth', 'young', '@' .. holder)
local me, young = member_of(head[3]), head[2] and true or false
local token = redis.call('HGET', r, '.t')
if head[1] ~= birth or redis.call('HGET', t, '.b') ~= birth or not me or me.state == 'dying'
  or (token ~= prev and token ~= new) then
  return { 'LOST' }
end

local list = read_entries(9)
local book = open_book(t, r, holder, list)
if token == new then
  local n = tonumber(redis.call('HGET', m, '#' .. me.space) or 0)
  return answer({ 'OK', young and 1 or 0, n }, book, list)
end

apply(book, list, strict, young or more)
finish(book, list)
redis.call('HSET', r, '.t', new)
if space == '' then space = me.space end
redis.call('HSET', m, '@' .. holder, new .. (more and ' claiming ' or ' ok ') .. space)
local n
if space == me.space then
  n = tonumber(redis.call('HGET', m, '#' .. space) or 0)
else
  n = number(m, space, hint)
  forget(m, me.space, holder)
end
return answer({ 'OK', young and 1 or 0, n }, book, list)
