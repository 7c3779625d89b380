-- Takes or keeps a lease.
--
-- KEYS 1 the lease  2 the installation's epoch
-- ARGV 1 run id of this server  2 process  3 for how long, in ms  4 '1': also where nobody has it
--
-- Answers with the epoch, and who has it now: 0 another process, 1 this one, 2 nobody.

local call = redis.call
local known = call('HMGET', KEYS[2], 'run', 'epoch')
if not known[2] or known[1] ~= ARGV[1] then return { 'HEAD' } end
local holder = call('GET', KEYS[1])
if holder and holder ~= '' and holder ~= ARGV[2] then return { 'LEASE', known[2], 0 } end
-- One that was given back is free for everybody.
if not holder and ARGV[4] ~= '1' then return { 'LEASE', known[2], 2 } end
call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return { 'LEASE', known[2], 1 }
