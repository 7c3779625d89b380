-- Tells that a process lives, and who else does.
--
-- KEYS 1 the processes  2 how far leaders are  3 the installation's epoch
-- ARGV 1 run id of this server  2 process  3 alive for, in ms  4 told of as silent for, in ms
--      5 'lives', or how it ends: 'over', 'left'  6... a stack, and up to when what it reported is applied

local call = redis.call
local known = call('HMGET', KEYS[3], 'run', 'epoch')
if not known[2] or known[1] ~= ARGV[1] then return { 'HEAD' } end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[5] == 'over' then
  call('ZREM', KEYS[1], ARGV[2])
else
  call('ZADD', KEYS[1], ARGV[5] == 'left' and now - ARGV[3] or now, ARGV[2])
end
-- Told to a server whose clock was ahead of this one's: who died then is to be missed in time.
for _, pod in ipairs(call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  call('ZADD', KEYS[1], now, pod)
end
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])
for i = 6, #ARGV, 2 do
  if tonumber(ARGV[i + 1]) > tonumber(call('HGET', KEYS[2], ARGV[i]) or 0) then
    call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
local border = now - ARGV[3]
local alive = call('ZRANGEBYSCORE', KEYS[1], '(' .. border, '+inf')
local silent = call('ZRANGEBYSCORE', KEYS[1], '-inf', border)
return { 'PULSE', known[2], string.format('%.0f', now), alive, silent, call('HGETALL', KEYS[2]) }
