-- Begins a new life of the memory, unless it is begun, and makes a partition part of it.
--
-- KEYS 1 the partition's head  2 the installation's epoch  3 the partitions in use  4 terms
-- ARGV 1 run id of this server  2 a fresh epoch  3 the partition's number  4 an epoch that is not to
--      go on, or ''
--
-- The epoch is all partitions' (in a cluster it would have to be each one's own). Records, claims
-- and due times stay; terms are the newest that are known. What was told before belongs to the old
-- epoch, so the new one's numbers go on behind it ('base').

local call = redis.call
local head, installation = KEYS[1], KEYS[2]
local known = call('HMGET', installation, 'run', 'epoch')
local epoch = known[2]
if not epoch or known[1] ~= ARGV[1] or epoch == ARGV[4] then
  epoch = ARGV[2]
  call('HSET', installation, 'run', ARGV[1], 'epoch', epoch)
end
local is_used = call('SADD', KEYS[3], ARGV[3]) == 0
local h = call('HMGET', head, 'run', 'epoch')
if is_used and not h[2] and epoch ~= ARGV[2] then
  -- The head is lost, and with it which numbers were told.
  epoch = ARGV[2]
  call('HSET', installation, 'epoch', epoch)
end
if h[1] == ARGV[1] and h[2] == epoch then return epoch end
local all = call('HGETALL', head)
for i = 1, #all, 2 do
  local kind, whose = string.match(all[i], '^(%a+):(.*)$')
  if kind == 'seq' then
    call('HSET', head, 'base:' .. whose, all[i + 1])
  elseif kind == 'term' then
    call('HDEL', head, all[i])
  end
end
local terms = call('HGETALL', KEYS[4])
for i = 1, #terms, 2 do
  call('HSET', head, 'term:' .. terms[i], terms[i + 1])
end
call('HSET', head, 'run', ARGV[1], 'epoch', epoch)
return epoch
