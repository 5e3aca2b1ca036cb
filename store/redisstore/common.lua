-- Prepended to every script: how the keys are read, and, for join.lua and
-- batch.lua, what a holder's entries do to the counts (two passes, all that
-- shrinks before all that grows). Entries are read whole before they are
-- worked, and written once at the end, in finish. store/memstore/entries.go is
-- the same in Go.
--
-- m  hash   birth, young, run, settings, gen; @holder = "token state space";
--           -holder = stream of a removed holder; #space = its number
-- t  hash   .b = birth; a total per counter and per rule with keys (absent: 0);
--           !counter = up to two holders last refused there, newest first
-- r  hash   .t = token; the holder's own count per counter (absent: 0)
local NOLIMIT, UNLIMITED, STRIDE = -1, 2 ^ 52, 5

local function int(n) return string.format('%d', n) end

local function rule_of(counter) return string.match(counter, '^([^/]*/[^/]*)/') end

local function member_of(text)
  if not text then return nil end
  local token, state, space = string.match(text, '^(%S+) (%S+) (%S*)$')
  return { token = token, state = state, space = space }
end

local function birth_of(token) return string.match(token, '^([^:]*):') end

local function stream_of(token) return tonumber(string.match(token, ':(%d+):')) end

local function older(a, b)
  local s1, q1 = string.match(a, ':(%d+):(%d+)$')
  local s2, q2 = string.match(b, ':(%d+):(%d+)$')
  s1, q1, s2, q2 = tonumber(s1), tonumber(q1), tonumber(s2), tonumber(q2)
  return s1 < s2 or (s1 == s2 and q1 < q2)
end

-- entries reads ARGV from first on: counter, max, rule's max, live, need.
local function read_entries(first)
  local list = {}
  for i = first, #ARGV, STRIDE do
    local e = { counter = ARGV[i], live = tonumber(ARGV[i + 3]), need = tonumber(ARGV[i + 4]) }
    e.levels = { { name = e.counter, max = tonumber(ARGV[i + 1]) } }
    e.rule = rule_of(e.counter)
    if e.rule then e.levels[2] = { name = e.rule, max = tonumber(ARGV[i + 2]) } end
    list[#list + 1] = e
  end
  return list
end

-- book is what the entries speak of: own counts, totals and notes, read at
-- once, with the token of r and the birth of t.
local function open_book(t, r, holder, list)
  local b = { t = t, r = r, holder = holder, own = {}, count = {}, notes = {}, wrote = {} }
  local counters, names, seen = { '.t' }, {}, {}
  for _, e in ipairs(list) do
    counters[#counters + 1] = e.counter
    for _, l in ipairs(e.levels) do
      if not seen[l.name] then
        seen[l.name] = true
        names[#names + 1] = l.name
      end
    end
  end
  local own = redis.call('HMGET', r, unpack(counters))
  b.token = own[1]
  for i = 2, #counters do b.own[counters[i]] = tonumber(own[i] or 0) end
  local fields = {}
  for i, name in ipairs(names) do
    fields[i] = name
    fields[#names + i] = '!' .. name
  end
  fields[#fields + 1] = '.b'
  local values = redis.call('HMGET', t, unpack(fields))
  b.birth = values[#fields]
  for i, name in ipairs(names) do
    b.count[name] = tonumber(values[i] or 0)
    b.notes[name] = {}
    for h in string.gmatch(values[#names + i] or '', '%S+') do
      table.insert(b.notes[name], h)
    end
  end
  return b
end

local function notes_another(b, name)
  local n = b.notes[name]
  return (n[1] and n[1] ~= b.holder) or (n[2] and n[2] ~= b.holder) or false
end

local function keep_notes(b, name, keep)
  local left = {}
  for _, h in ipairs(b.notes[name]) do
    if keep(h) then left[#left + 1] = h end
  end
  if #left ~= #b.notes[name] then
    b.notes[name] = left
    b.wrote[name] = true
  end
end

-- note puts the holder first and keeps the newest other name.
local function note(b, name)
  local names = { b.holder }
  for _, h in ipairs(b.notes[name]) do
    if h ~= b.holder then
      names[2] = h
      break
    end
  end
  b.notes[name] = names
  b.wrote[name] = true
end

local function room_of(b, e)
  local room = UNLIMITED
  for _, l in ipairs(e.levels) do
    if l.max ~= NOLIMIT then room = math.min(room, l.max - b.count[l.name]) end
  end
  return room
end

local function set_own(b, e, to)
  local diff = to - b.own[e.counter]
  if diff == 0 then return end
  b.own[e.counter] = to
  b.wrote[e] = true
  for _, l in ipairs(e.levels) do
    b.count[l.name] = b.count[l.name] + diff
    b.wrote[l.name] = true
    if b.count[l.name] == 0 then b.notes[l.name] = {} end
  end
end

local function shrink(b, e, held)
  local own = b.own[e.counter]
  local to = math.min(own, e.need)
  if own > e.live then
    for _, l in ipairs(e.levels) do
      if notes_another(b, l.name) then to = math.min(to, e.live) end
    end
  end
  local room = room_of(b, e) + own - to
  if room < 0 then to = math.max(math.min(to, e.live), to + room) end
  local freed = own - to
  if freed == 0 then return end
  for _, l in ipairs(e.levels) do
    if notes_another(b, l.name) then
      held[l.name] = (held[l.name] or 0) + freed
      keep_notes(b, l.name, function(h) return h == b.holder end)
    end
  end
  set_own(b, e, to)
end

local function grow(b, e, held, strict, frozen)
  local own, free, room = b.own[e.counter], UNLIMITED, room_of(b, e)
  for _, l in ipairs(e.levels) do
    if l.max ~= NOLIMIT then
      free = math.min(free, l.max - b.count[l.name] - (held[l.name] or 0))
    end
  end
  if frozen then free = math.min(free, 0) end
  local floor = e.live
  if strict then floor = math.min(e.live, own + math.max(0, room)) end
  local to = math.min(e.need, math.max(floor, own + free))
  set_own(b, e, to)
  if frozen then return end
  for _, l in ipairs(e.levels) do
    if to == e.need then
      keep_notes(b, l.name, function(h) return h ~= b.holder end)
    elseif l.max ~= NOLIMIT and b.count[l.name] >= math.max(l.max, 1) then
      note(b, l.name)
    end
  end
end

-- apply works all entries. frozen: the store is young or these are claims.
local function apply(b, list, strict, frozen)
  local held = {}
  for _, e in ipairs(list) do shrink(b, e, held) end
  for _, e in ipairs(list) do grow(b, e, held, strict, frozen) end
end

local function write(key, set, del)
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if #del > 0 then redis.call('HDEL', key, unpack(del)) end
end

-- finish writes what apply changed, and the holder's new token. Fields at 0
-- are deleted.
local function finish(b, list, token)
  local rset, rdel, tset, tdel, done = { '.t', token }, {}, {}, {}, {}
  for _, e in ipairs(list) do
    if b.wrote[e] and not done[e.counter] then
      done[e.counter] = true
      if b.own[e.counter] == 0 then
        rdel[#rdel + 1] = e.counter
      else
        rset[#rset + 1] = e.counter
        rset[#rset + 1] = int(b.own[e.counter])
      end
    end
    for _, l in ipairs(e.levels) do
      local name = l.name
      if b.wrote[name] and not done['t' .. name] then
        done['t' .. name] = true
        if b.count[name] == 0 then
          tdel[#tdel + 1] = name
        else
          tset[#tset + 1] = name
          tset[#tset + 1] = int(b.count[name])
        end
        if #b.notes[name] == 0 then
          tdel[#tdel + 1] = '!' .. name
        else
          tset[#tset + 1] = '!' .. name
          tset[#tset + 1] = table.concat(b.notes[name], ' ')
        end
      end
    end
  end
  write(b.r, rset, rdel)
  write(b.t, tset, tdel)
end

-- answer appends own, total, rule's total and contended (0 or 1) per entry.
local function answer(reply, b, list)
  for _, e in ipairs(list) do
    local contended = 0
    for _, l in ipairs(e.levels) do
      if notes_another(b, l.name) then contended = 1 end
    end
    reply[#reply + 1] = b.own[e.counter]
    reply[#reply + 1] = b.count[e.counter]
    reply[#reply + 1] = e.rule and b.count[e.rule] or 0
    reply[#reply + 1] = contended
  end
  return reply
end

-- forget drops the number of a space that no member but the given is on.
local function forget(m, space, but)
  if space == '' then return end
  local fields = redis.call('HGETALL', m)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 1) == '@' and fields[i] ~= '@' .. but
      and member_of(fields[i + 1]).space == space then
      return
    end
  end
  redis.call('HDEL', m, '#' .. space)
end

-- number returns the space's number, giving it one if it has none: the
-- caller's own if that is free.
local function number(m, space, hint)
  if space == '' then return 0 end
  local n = tonumber(redis.call('HGET', m, '#' .. space) or 0)
  if n > 0 then return n end
  n = math.max(tonumber(redis.call('HGET', m, 'gen') or 0) + 1, hint)
  redis.call('HSET', m, '#' .. space, int(n), 'gen', int(n))
  return n
end
