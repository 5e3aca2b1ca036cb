-- exchange: a replica reports what is in force on it, and learns what is published.
-- KEYS  on, on:replica, g, x
-- ARGV  replica, its report, how many milliseconds to keep that, the id of the last
--       generation that the replica has dealt with
-- Returns {latest number, its id}, and behind these its description and its text
--       unless the replica has dealt with it; {"0", ""} if nothing is published.
-- Safe to repeat: the report is written again.
local on, alive, g, x = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('HSET', on, ARGV[1], ARGV[2])
redis.call('SET', alive, '1', 'PX', ARGV[3])
local head = redis.call('HMGET', g, 'n', 'id')
local number, id = head[1], head[2]
if not number or not id then return { '0', '' } end
if id == ARGV[4] then return { number, id } end
return { number, id, redis.call('HGET', g, number) or '', redis.call('HGET', x, number) or '' }
