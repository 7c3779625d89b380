-- Draws a leader's term, higher than all before.
--
-- KEYS 1 the terms that were drawn
-- ARGV 1 the stack
--
-- By the time, so that it is the highest also where this server has forgotten the one before.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
local term = string.format('%.0f', math.max(now, before + 1))
redis.call('HSET', KEYS[1], ARGV[1], term)
return term
