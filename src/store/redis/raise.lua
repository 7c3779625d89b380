-- Fences the terms before this one in a partition.
--
-- KEYS 1 head
-- ARGV 1 the stack  2 the term

local field = 'term:' .. ARGV[1]
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], field) or 0) then
  redis.call('HSET', KEYS[1], field, ARGV[2])
end
return 1
