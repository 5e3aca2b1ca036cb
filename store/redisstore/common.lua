-- Prepended to every script: the data, and functions that read it. Data in Redis and
-- replies keep their names for older replicas: birth is the epoch, young is recovering,
-- mature is ready, dying is expiring, void is without data.
--
-- m  hash   birth = the epoch; young = 1 while recovering; history, settings; gen =
--           the last number of a space; @replica = "token state space";
--           -replica = highest stream of a removed replica; #space = its number
-- t  hash   .b = the epoch; a total per counter and per rule with keys (absent: 0);
--           !counter = up to two replicas last refused there, newest first
-- r  hash   .t = token; what the replica holds of each counter (absent: 0); .a =
--           admissions of the last batch with rates, per entry with a rate
-- w  string per counter or rule with a rate: how many sessions began in the current
--           window; the window ends when the key expires
-- k  string per rule whose keys are bounded: how many keys opened a window w since
--           k began. k lasts as long as one w
local function int(n) return string.format('%d', n) end

local function rule_of(counter) return string.match(counter, '^([^/]*/[^/]*)/') end

local function stream_of(token) return tonumber(string.match(token, ':(%d+):')) end

local function member_of(text)
  if not text then return nil end
  local token, state, space = string.match(text, '^(%S+) (%S+) (%S*)$')
  return { token = token, state = state, space = space }
end

-- give_back subtracts what a replica holds of some counters from the totals. Each
-- total is read and written once. A total of 0 is removed, with its note.
local function give_back(t, counters, own)
  local names, less, set, gone = {}, {}, {}, {}
  for _, c in ipairs(counters) do
    for _, name in ipairs({ c, rule_of(c) }) do
      if not less[name] then names[#names + 1] = name end
      less[name] = (less[name] or 0) + own[c]
    end
  end
  if #names == 0 then return end
  for i, total in ipairs(redis.call('HMGET', t, unpack(names))) do
    local left = tonumber(total or 0) - less[names[i]]
    if left == 0 then
      gone[#gone + 1], gone[#gone + 2] = names[i], '!' .. names[i]
    else
      set[#set + 1], set[#set + 2] = names[i], int(left)
    end
  end
  if #set > 0 then redis.call('HSET', t, unpack(set)) end
  if #gone > 0 then redis.call('HDEL', t, unpack(gone)) end
end

-- forget drops the number of a space unless a member other than this one is on it.
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
