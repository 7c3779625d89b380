-- Gives a lease back.
--
-- KEYS 1 the lease
-- ARGV 1 process

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
-- Nobody's for a moment: so those who look know that its holder has not died.
redis.call('SET', KEYS[1], '', 'PX', 500)
return 1
