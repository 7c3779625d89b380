-- Begins a new life of a partition's memory, unless somebody did so already.
--
-- KEYS 1 head   ARGV 1 run id of the server asked  2 the epoch that was seen, or ''  3 a fresh one
--
-- Records, claims and due times stay. Terms are void: their leaders mint new ones. What was told
-- before belongs to the old epoch, so the new one's numbers go on behind it ('base').

local call = redis.call
local h = call('HMGET', KEYS[1], 'run', 'epoch')
if h[2] and (h[1] == ARGV[1] or h[2] ~= ARGV[2]) then return h[2] end
local all = call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local kind, whose = string.match(all[i], '^(%a+):(.*)$')
  if kind == 'seq' then
    call('HSET', KEYS[1], 'base:' .. whose, all[i + 1])
  elseif kind == 'term' then
    call('HDEL', KEYS[1], all[i])
  end
end
call('HSET', KEYS[1], 'run', ARGV[1], 'epoch', ARGV[3])
return ARGV[3]
