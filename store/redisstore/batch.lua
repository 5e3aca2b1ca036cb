-- batch: one step of a replica's stream, and its heartbeat.
-- KEYS  m, t, r of the replica; then w of each level that has a rate, and k of each
--       rule whose keys are bounded
-- ARGV  replica, epoch, previous token, new token, strict (0|1), more claims
--       follow (0|1), space ("" if unchanged), its number; then per entry: counter,
--       max, rule's max, live, need; then per w or k: counter or rule (k: + and the
--       rule), n, milliseconds; and if there is any w, one digit per entry for the rates that apply to it:
--       0 none, 1 the counter's, 2 its rule's, 3 both
-- Returns {"LOST"} or {"OK", recovering (0|1), number of the space (0 if none was
--       given), then per entry: granted, total, rule's total, contended (0|1), and
--       if it has a rate: admitted, windows used up (1 the counter's, 2 its rule's,
--       plus 4 if the key has none and may open none)}.
-- Safe to repeat: the new token is compared first. A copy that finds it reads and
-- writes nothing. A copy that comes after a later batch or a new stream finds
-- neither token and is refused.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local replica, epoch, prev, new = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local strict, more, space, hint = ARGV[5] == '1', ARGV[6] == '1', ARGV[7], tonumber(ARGV[8])

local head = read and read.head or redis.call('HMGET', m, 'birth', 'young', '@' .. replica, 'history')
local me, recovering = member_of(head[3]), head[2] and true or false
local windows = #KEYS - 3
local tail = windows > 0 and #ARGV - 3 * windows or #ARGV + 1
local book = open_book(t, r, replica, 9, tail - 1, read)
if head[1] ~= epoch or not in_history(head[4]) or book.epoch ~= epoch or not me or me.state == 'dying'
  or (book.token ~= prev and book.token ~= new) then
  return { 'LOST' }
end
if windows > 0 then read_windows(book, tail) end
if book.token == new then
  if windows > 0 then recall(book) end
  local n = space == '' and 0 or tonumber(redis.call('HGET', m, '#' .. space) or 0)
  return answer({ 'OK', recovering and 1 or 0, n }, book)
end

apply(book, strict, recovering, more)
finish(book, new)
redis.call('HSET', m, '@' .. replica, new .. (more and ' claiming ' or ' ok ') .. (space == '' and me.space or space))
local n = 0
if space ~= '' then
  n = number(m, space, hint)
  if space ~= me.space then forget(m, me.space, replica) end
end
return answer({ 'OK', recovering and 1 or 0, n }, book)
