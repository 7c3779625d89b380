-- Records of running commands, by an index.
--
-- KEYS 1 the index: a set, or the due times
-- ARGV 1 due by when, or '' for a set  2 how many records are taken at once
--
-- Answers with the first records, and with the names of the others: a script holds up all commits.

local call = redis.call
local members
if ARGV[1] == '' then
  members = call('SMEMBERS', KEYS[1])
else
  members = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
end
local most = math.min(#members, tonumber(ARGV[2]))
local records, others = {}, {}
for i = 1, most do
  local stored = call('HMGET', members[i], 'record', 'first_seq')
  if stored[1] then
    records[#records + 1] = stored[1]
    records[#records + 1] = stored[2]
  end
end
for i = most + 1, #members do
  others[#others + 1] = members[i]
end
return { records, others }
