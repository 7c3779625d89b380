-- Tells the highest term that was drawn at a stack.
--
-- KEYS 1 the terms that were drawn  2 the installation's epoch
-- ARGV 1 run id of this server  2 the stack
--
-- Answers with the epoch, and the term; '0' where none was.

local known = redis.call('HMGET', KEYS[2], 'run', 'epoch')
if not known[2] or known[1] ~= ARGV[1] then return { 'HEAD' } end
return { 'NEWEST', known[2], redis.call('HGET', KEYS[1], ARGV[2]) or '0' }
