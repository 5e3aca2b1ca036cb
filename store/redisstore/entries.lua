-- Prepended to join.lua and batch.lua: what a replica's entries do to the counts. The
-- first pass takes the entries that shrink, the second those that grow. All counts are
-- read before the first pass, and written once after the second, in finish.
-- store/internal/model/entries.go is the same in Go.
--
-- A row is a counter or a rule with keys: name, own (what the replica holds of a
-- counter), count (the total), note (the two names, or false), held (freed by this
-- batch, and kept for the next replica that asks), window. This runs for every
-- batch. So one command reads all rows, one writes them, and tables are built only if
-- they are needed.
local NOLIMIT, UNLIMITED, STRIDE = '-1', 2 ^ 52, 5
local min, max = math.min, math.max

local function row_of(rows, name)
  local row = rows[name]
  if not row then
    row = { name = name, held = 0 }
    rows[name] = row
    rows[#rows + 1] = row
  end
  return row
end

local function limit_of(text) return text == NOLIMIT and UNLIMITED or tonumber(text) end

-- open_book reads the entries from ARGV (counter, max, rule's max, live, need) and
-- the rows that they name, with the token of r and the epoch of t, unless
-- batch_shortcut.lua has read them.
local function open_book(t, r, replica, first, last, read)
  local b = { t = t, r = r, replica = replica, rows = {} }
  local rows, own = b.rows, { '.t' }
  for i = first, last, STRIDE do
    local name = ARGV[i]
    local rule = rule_of(name)
    b[#b + 1] = {
      row = row_of(rows, name), max = limit_of(ARGV[i + 1]),
      rule = rule and row_of(rows, rule), rule_max = limit_of(ARGV[i + 2]),
      live = tonumber(ARGV[i + 3]), need = tonumber(ARGV[i + 4]),
    }
    own[#own + 1] = name
  end
  own = read and read.own or redis.call('HMGET', r, unpack(own))
  b.token = own[1]
  for i, e in ipairs(b) do e.row.own = tonumber(own[i + 1] or 0) end
  local n, fields = #rows, {}
  for i, row in ipairs(rows) do
    fields[i], fields[n + i] = row.name, '!' .. row.name
  end
  fields[2 * n + 1] = '.b'
  fields = read and read.totals or redis.call('HMGET', t, unpack(fields))
  b.epoch = fields[2 * n + 1]
  for i, row in ipairs(rows) do
    row.count, row.note = tonumber(fields[i] or 0), fields[n + i]
  end
  return b
end

-- shorten ends a used-up window after the length of its rate at the latest. It would
-- last longer if the clock of Redis was set back after it began, or if a longer rate of
-- its pool opened it. Redis users made for an older version may not be allowed PTTL:
-- then the window stays as it is.
local function shorten(w)
  local left = redis.pcall('PTTL', w.key)
  if type(left) == 'number' and (left > tonumber(w.per) or left < 0) then
    redis.call('SET', w.key, int(w.used), 'PX', w.per)
  end
end

-- full reports whether Redis is above maxmemory. Scripts run even then, because they
-- also release slots. But the window of a key outlives the session. So above maxmemory
-- no key opens a window.
local is_full
local function full()
  if is_full == nil then
    local memory = redis.call('INFO', 'memory')
    local most = tonumber(string.match(memory, '\nmaxmemory:(%d+)') or 0)
    is_full = most > 0 and tonumber(string.match(memory, '\nused_memory:(%d+)')) > most
  end
  return is_full
end

-- read_windows reads the rates after the entries, one per key from KEYS[4] on (level,
-- n, milliseconds), how much of each window is used, and which rates apply to which
-- entry. The level of a k is its rule with a + in front.
local function read_windows(b, at)
  local which = ARGV[#ARGV]
  b.windows = {}
  local opened = {}
  for i, used in ipairs(redis.call('MGET', unpack(KEYS, 4))) do
    used = tonumber(used or '')
    local w = {
      key = KEYS[3 + i], n = tonumber(ARGV[at + 1]), per = ARGV[at + 2],
      runs = used ~= nil, used = used or 0, taken = 0,
    }
    if w.runs and w.used >= w.n then shorten(w) end
    w.out_of_memory = not w.runs and rule_of(ARGV[at]) and full()
    b.windows[i] = w
    if string.sub(ARGV[at], 1, 1) == '+' then
      opened[string.sub(ARGV[at], 2)] = w
    else
      b.rows[ARGV[at]].window = w
    end
    at = at + 3
  end
  for i, e in ipairs(b) do
    local held = tonumber(string.sub(which, i, i))
    e.throttled = held > 0
    e.window = held % 2 == 1 and e.row.window
    if e.window and e.rule then e.window.opened = opened[e.rule.name] end
    e.rule_window = held > 1 and e.rule.window
    e.uncounted = e.throttled and e.max == UNLIMITED and (not e.rule or e.rule_max == UNLIMITED)
  end
end

local function notes_another(b, row) return row.note and row.note ~= b.replica end

local function set_note(row, names)
  if row.note ~= names then row.note, row.noted = names, true end
end

-- other is the newest name in a note that is not the replica's, or nil.
local function other(b, row)
  for name in string.gmatch(row.note or '', '%S+') do
    if name ~= b.replica then return name end
  end
end

-- note puts the replica first and keeps the newest other name.
local function note(b, row)
  local name = other(b, row)
  set_note(row, name and b.replica .. ' ' .. name or b.replica)
end

local function names_replica(b, row)
  return string.find(' ' .. row.note .. ' ', ' ' .. b.replica .. ' ', 1, true)
end

-- take_out removes the replica from a note, take_others_out all but the replica.
local function take_out(b, row)
  if row.note and names_replica(b, row) then set_note(row, other(b, row) or false) end
end

local function take_others_out(b, row)
  set_note(row, names_replica(b, row) and b.replica or false)
end

local function add(row, diff)
  row.count, row.changed = row.count + diff, true
  if row.count == 0 then set_note(row, false) end
end

local function set_own(e, to)
  local diff = to - e.row.own
  if diff == 0 then return end
  e.row.own, e.row.moved = to, true
  add(e.row, diff)
  if e.rule then add(e.rule, diff) end
end

local function room_of(e)
  local room = e.max - e.row.count
  return e.rule and min(room, e.rule_max - e.rule.count) or room
end

-- wanted reports whether another replica was refused there. The first entry that frees
-- a slot removes the note. The entries after it know from held.
local function wanted(b, row) return row.held > 0 or notes_another(b, row) end

local function hold(b, row, freed)
  if not wanted(b, row) then return end
  row.held = row.held + freed
  if row.note then take_others_out(b, row) end
end

local function shrink(b, e)
  local own = e.row.own
  if own == 0 then return end
  local to = min(own, e.need)
  if own > e.live and (wanted(b, e.row) or e.rule and wanted(b, e.rule)) then
    to = min(to, e.live)
  end
  local room = room_of(e) + own - to
  if room < 0 then to = max(min(to, e.live), to + room) end
  if to == own then return end
  hold(b, e.row, own - to)
  if e.rule then hold(b, e.rule, own - to) end
  set_own(e, to)
end

local function runs(w) return w.runs or w.taken > 0 end

-- no_window reports whether a key has no window and may open none: as many keys of
-- its rule have opened one as may, or Redis is out of memory.
local function no_window(w)
  if not w or runs(w) then return false end
  return w.out_of_memory or w.opened and w.opened.used >= w.opened.n
end

-- tokens is how many of the waiting sessions the rates admit.
local function tokens(e, claims)
  local n = e.need - e.live
  if not e.throttled then return n end
  if claims or no_window(e.window) then return 0 end
  if e.window then n = min(n, max(0, e.window.n - e.window.used)) end
  if e.rule_window then n = min(n, max(0, e.rule_window.n - e.rule_window.used)) end
  return n
end

local function take(window, n)
  if window then window.used, window.taken = window.used + n, window.taken + n end
end

-- begin uses up n places in the windows of both levels. A key that opens its window
-- uses up one of its rule's places for keys.
local function begin(e, n)
  e.admitted = n
  if n > 0 and e.window and not runs(e.window) then take(e.window.opened, 1) end
  take(e.window, n)
  take(e.rule_window, n)
end

-- settle_note notes the replica if it was refused because nothing is left, and
-- removes it if it has what it needs.
local function settle_note(b, row, most, satisfied)
  if satisfied then
    take_out(b, row)
  elseif row.count >= max(most, 1) then
    note(b, row)
  end
end

local function grow(b, e, strict, frozen, claims)
  local may = tokens(e, claims)
  if e.uncounted then return begin(e, may) end
  local row, rule = e.row, e.rule
  local free = e.max - row.count - row.held
  if rule then free = min(free, e.rule_max - rule.count - rule.held) end
  if frozen then free = min(free, 0) end
  local floor = e.live
  if strict then floor = min(e.live, row.own + max(0, room_of(e))) end
  local to = min(e.need, max(floor, row.own + free), e.live + may)
  set_own(e, to)
  if e.throttled then begin(e, max(0, to - e.live)) end
  if frozen then return end
  settle_note(b, row, e.max, to == e.need)
  if rule then settle_note(b, rule, e.rule_max, to == e.need) end
end

-- apply works all entries. With claims nothing grows, and no session begins.
local function apply(b, strict, recovering, claims)
  for _, e in ipairs(b) do shrink(b, e) end
  for _, e in ipairs(b) do grow(b, e, strict, recovering or claims, claims) end
end

-- admitted_of lists the admissions of the entries with a rate, and recall reads
-- them for the entries of a duplicate.
local function admitted_of(b)
  local out = {}
  for _, e in ipairs(b) do
    if e.throttled then out[#out + 1] = int(e.admitted) end
  end
  return table.concat(out, ' ')
end

local function recall(b)
  local admitted = string.gmatch(redis.call('HGET', b.r, '.a') or '', '%d+')
  for _, e in ipairs(b) do
    if e.throttled then e.admitted = tonumber(admitted() or 0) end
  end
end

-- use writes what was taken of a window. The first session in it opens it: only then
-- is its end set.
local function use(w)
  if w.taken == 0 then return end
  if w.runs then
    redis.call('INCRBY', w.key, int(w.taken))
  else
    redis.call('SET', w.key, int(w.taken), 'PX', w.per)
  end
end

local function write(key, set, del)
  if #set > 0 then redis.call('HSET', key, unpack(set)) end
  if #del > 0 then redis.call('HDEL', key, unpack(del)) end
end

local function put(set, del, field, value)
  if value then
    set[#set + 1], set[#set + 2] = field, value
  else
    del[#del + 1] = field
  end
end

-- finish writes what apply changed, and the replica's new token. Fields at 0
-- are deleted.
local function finish(b, token)
  local rset, rdel, tset, tdel = { '.t', token }, {}, {}, {}
  if b.windows then
    put(rset, rdel, '.a', admitted_of(b))
    for _, w in ipairs(b.windows) do use(w) end
  end
  for _, row in ipairs(b.rows) do
    if row.moved then put(rset, rdel, row.name, row.own ~= 0 and int(row.own)) end
    if row.changed then put(tset, tdel, row.name, row.count ~= 0 and int(row.count)) end
    if row.noted then put(tset, tdel, '!' .. row.name, row.note) end
  end
  write(b.r, rset, rdel)
  write(b.t, tset, tdel)
end

local function used_up(window) return window and window.used >= window.n end

-- answer appends per entry: granted, total, rule's total and contended (0 or 1); and
-- if it has a rate, how many were admitted, and which windows are used up now: 1
-- the counter's, 2 its rule's, 3 both; plus 4 if the key may open none.
local function answer(reply, b)
  local n = #reply
  for _, e in ipairs(b) do
    local row, rule = e.row, e.rule
    local contended = notes_another(b, row) or rule and notes_another(b, rule)
    reply[n + 1], reply[n + 2] = row.own, row.count
    reply[n + 3], reply[n + 4] = rule and rule.count or 0, contended and 1 or 0
    n = n + 4
    if e.throttled then
      reply[n + 1] = e.admitted
      reply[n + 2] = (used_up(e.window) and 1 or 0) + (used_up(e.rule_window) and 2 or 0)
        + (no_window(e.window) and 4 or 0)
      n = n + 2
    end
  end
  return reply
end

-- number returns the number of a space. If it has none, it gets one, preferably the
-- one that the caller knows it by.
local function number(m, space, hint)
  if space == '' then return 0 end
  local n = tonumber(redis.call('HGET', m, '#' .. space) or 0)
  if n > 0 then return n end
  n = max(tonumber(redis.call('HGET', m, 'gen') or 0) + 1, hint)
  redis.call('HSET', m, '#' .. space, int(n), 'gen', int(n))
  return n
end
