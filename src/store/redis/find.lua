-- Records of running commands, by an index.
--
-- KEYS 1 the index: a set, or the due times   ARGV 1 due by when, or '' for a set

local call = redis.call
local members
if ARGV[1] == '' then
  members = call('SMEMBERS', KEYS[1])
else
  members = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
end
local found = {}
for _, member in ipairs(members) do
  local stored = call('HMGET', member, 'record', 'first_seq')
  if stored[1] then
    found[#found + 1] = stored[1]
    found[#found + 1] = stored[2]
  end
end
return found
