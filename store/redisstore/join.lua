-- join: makes a replica a member and takes its claims.
-- KEYS  m, t, r of the replica
-- ARGV  replica, candidate for a new epoch, stream, settings, last acknowledged
--       token ("" if none), strict (0|1), more claims follow (0|1), space, its
--       number, must not create an epoch (0|1); then per entry as in batch.lua,
--       without rates
-- Returns {"STALE"}; {"MISMATCH", settings of others}; {"DYING", epoch, token} if
--       the replica's counts are being given back; {"VOID"} if the join would have
--       to create an epoch and must not; or {"OK", epoch, recovering (0|1), kept
--       (0|1), number, then per entry as in batch.lua}.
-- Never sent twice: after an unknown outcome the next join has a higher stream, and
-- this one is refused as stale if it still arrives.
local m, t, r = KEYS[1], KEYS[2], KEYS[3]
local replica, candidate, stream = ARGV[1], ARGV[2], tonumber(ARGV[3])
local settings, last, strict, more = ARGV[4], ARGV[5], ARGV[6] == '1', ARGV[7] == '1'
local space, hint, must_not_create = ARGV[8], tonumber(ARGV[9]), ARGV[10] == '1'

local function epoch_of(token) return string.match(token, '^([^:]*):') end

local function older(a, b)
  local s1, q1 = string.match(a, ':(%d+):(%d+)$')
  local s2, q2 = string.match(b, ':(%d+):(%d+)$')
  s1, q1, s2, q2 = tonumber(s1), tonumber(q1), tonumber(s2), tonumber(q2)
  return s1 < s2 or (s1 == s2 and q1 < q2)
end

local membership = { members = {} }
local fields = redis.call('HGETALL', m)
for i = 1, #fields, 2 do
  local kind = string.sub(fields[i], 1, 1)
  if kind == '@' then
    membership.members[string.sub(fields[i], 2)] = member_of(fields[i + 1])
  else
    membership[fields[i]] = fields[i + 1]
  end
end
local me = membership.members[replica]
local token = redis.call('HGET', r, '.t')

if tonumber(membership['-' .. replica] or 0) >= stream or (token and stream_of(token) >= stream) then
  return { 'STALE' }
end
local epoch, totals_epoch = membership.birth, redis.call('HGET', t, '.b')
if epoch == candidate or totals_epoch == candidate then
  return { 'STALE' } -- a copy of the join that created this epoch, of which a part is lost
end
if membership.settings ~= settings then
  for other in pairs(membership.members) do
    if other ~= replica then return { 'MISMATCH', membership.settings } end
  end
end

-- The replica cannot build on the data if its parts disagree, if the epoch is of
-- another history, or if the data is older than what was acknowledged.
local create = not epoch or totals_epoch ~= epoch or not in_history(membership.history)
  or (me and token ~= me.token) or (not me and token and epoch_of(token) == epoch)
  or (token and last ~= '' and epoch_of(token) == epoch_of(last) and older(token, last))
if not create and me and me.state == 'dying' then
  return { 'DYING', epoch, me.token }
end

if create and must_not_create then return { 'VOID' } end

local left = me and me.space or ''
if create then
  epoch, left = candidate, ''
  redis.call('UNLINK', m, t)
  redis.call('HSET', m, 'birth', epoch, 'young', '1', 'history', string.match(replication, '\nmaster_replid:(%x+)'))
  redis.call('HSET', t, '.b', epoch)
  membership.young = '1'
end
redis.call('HSET', m, 'settings', settings)

local kept = token and epoch_of(token) == epoch and last ~= '' and epoch_of(last) == epoch
if not kept then
  if token and epoch_of(token) == epoch then
    -- An earlier join of this replica that was never answered: at most 64 counters.
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

local book = open_book(t, r, replica, 11, #ARGV)
apply(book, strict, true, true)
local now = epoch .. ':' .. int(stream) .. ':0'
finish(book, now)
local n = number(m, space, hint)
redis.call('HSET', m, '@' .. replica, now .. (more and ' claiming ' or ' ok ') .. space)
if left ~= space then forget(m, left, replica) end
return answer({ 'OK', epoch, membership.young and 1 or 0, kept and 1 or 0, n }, book)
