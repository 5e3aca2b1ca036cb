-- join: who a holder is, and the sessions that it holds already.
-- KEYS  m, t, r of the holder
-- ARGV  holder, candidate birth, stream, settings, last acknowledged token (""
--       if none), strict (0|1), more claims follow (0|1), space, its number,
--       reluctant (0|1); then per entry as in batch.lua, without rates
-- Returns {"STALE"}, {"MISMATCH", settings of others}, {"DYING", birth, token},
--       {"VOID"} if data would have to be born and the join is reluctant, or {"OK", birth, young (0|1), kept (0|1), number, then per entry as
--       in batch.lua}.
-- Never sent twice: after an unknown outcome the next join has a higher
-- stream, and this one, should it still arrive, is refused as stale.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local holder, candidate, stream = ARGV[1], ARGV[2], tonumber(ARGV[3])
local settings, last, strict, more = ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7] == '1'
local space, hint, reluctant = ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'

local function birth_of(token) return string.match(token, '^([^:]*):') end

local function older(a, b)
  local s1, q1 = string.match(a, ':(%d+):(%d+)$')
  local s2, q2 = string.match(b, ':(%d+):(%d+)$')
  s1, q1, s2, q2 = tonumber(s1), tonumber(q1), tonumber(s2), tonumber(q2)
  return s1 < s2 or (s1 == s2 and q1 < q2)
end

local roster = { members = {} }
local fields = redis.call('HGETALL', m)
for i = 1, #fields, 2 do
  local kind = string.sub(fields[i], 1, 1)
  if kind == '@' then
    roster.members[string.sub(fields[i], 2)] = member_of(fields[i + 1])
  else
    roster[fields[i]] = fields[i + 1]
  end
end
local me = roster.members[holder]
local token = redis.call('HGET', r, '.t')

if tonumber(roster['-' .. holder] or 0) >= stream or (token and stream_of(token) >= stream) then
  return { 'STALE' }
end
local birth, born = roster.birth, redis.call('HGET', t, '.b')
if birth == candidate or born == candidate then
  return { 'STALE' } -- a copy of the join that bore this data, of which a part is lost
end
if roster.settings ~= settings then
  for other in pairs(roster.members) do
    if other ~= holder then return { 'MISMATCH', roster.settings } end
  end
end

-- The data cannot be built on if its parts disagree, if it was born in another
-- history, or if it went back behind what was acknowledged.
local anew = not birth or born ~= birth or not in_history(roster.history)
  or (me and token ~= me.token) or (not me and token and birth_of(token) == birth)
  or (token and last ~= '' and birth_of(token) == birth_of(last) and older(token, last))
if not anew and me and me.state == 'dying' then
  return { 'DYING', birth, me.token }
end

if anew and reluctant then return { 'VOID' } end

local left = me and me.space or ''
if anew then
  birth, left = candidate, ''
  redis.call('UNLINK', m, t)
  redis.call('HSET', m, 'birth', birth, 'young', '1', 'history', string.match(replication, '\nmaster_replid:(%x+)'))
  redis.call('HSET', t, '.b', birth)
  roster.young = '1'
end
redis.call('HSET', m, 'settings', settings)

local kept = token and birth_of(token) == birth and last ~= '' and birth_of(last) == birth
if not kept then
  if token and birth_of(token) == birth then
    -- A join of its own that was never answered: at most 64 counters.
    local fields, counters, own = redis.call('HGETALL', r), {}, {}
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 1) ~= '.' then
        counters[#counters + 1], own[fields[i]] = fields[i], tonumber(fields[i + 1])
      end
    end
    give_back(t, counters, own)
  end
  redis.call('UNLINK', r)
end

local book = open_book(t, r, holder, 11, #ARGV)
apply(book, strict, true, true)
local now = birth .. ':' .. int(stream) .. ':0'
finish(book, now)
local n = number(m, space, hint)
redis.call('HSET', m, '@' .. holder, now .. (more and ' claiming ' or ' ok ') .. space)
if left ~= space then forget(m, left, holder) end
return answer({ 'OK', birth, roster.young and 1 or 0, kept and 1 or 0, n }, book)
