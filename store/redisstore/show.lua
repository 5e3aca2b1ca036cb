-- show: a replica shows its card, and gets the cards of all replicas.
-- KEYS  c
-- ARGV  replica, its card, for how many milliseconds cards are kept
-- Returns for each card: how many milliseconds ago it was shown, the card.
-- Safe to repeat: the card is shown again.
local c, keep = KEYS[1], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', c, ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
local cards, shown = redis.call('HGETALL', c), {}
for i = 1, #cards, 2 do
  local at, card = string.match(cards[i + 1], '^(%d+) (.*)$')
  local age = at and now - tonumber(at)
  if not age or age > keep then
    redis.call('HDEL', c, cards[i])
  else
    shown[#shown + 1] = math.max(age, 0)
    shown[#shown + 1] = card
  end
end
return shown
