-- Prepended to every script: the data, and what of it all scripts read.
--
-- m  hash   birth, young, history, settings, gen; @holder = "token state space";
--           -holder = stream of a removed holder; #space = its number
-- t  hash   .b = birth; a total per counter and per rule with keys (absent: 0);
--           !counter = up to two holders last refused there, newest first
-- r  hash   .t = token; the holder's own count per counter (absent: 0); .a =
--           admissions of the last batch with rates, per entry with a rate
-- w  string per counter or rule with a rate: how many sessions began in the
--           window that runs; it ends with the key's expiry
local function int(n) return string.format('%d', n) end

local function rule_of(counter) return string.match(counter, '^([^/]*/[^/]*)/') end

local function stream_of(token) return tonumber(string.match(token, ':(%d+):')) end

local function member_of(text)
  if not text then return nil end
  local token, state, space = string.match(text, '^(%S+) (%S+) (%S*)$')
  return { token = token, state = state, space = space }
end

-- give_back takes what a holder has of some counters off the totals, each of
-- which is read and written once. A note goes with its total.
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
