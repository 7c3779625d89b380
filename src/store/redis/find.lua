-- Records of running commands, by indexes of one partition.
--
-- KEYS sets that name records, or the due times
-- ARGV 1 due by when, or '' for sets  2 how many records are taken at once
--
-- Answers with the first records, and with the names of the others: a script holds up all commits.
-- What names a record that is gone, or waits for one that has ended (a commit that failed in its
-- middle), is removed.

local call = redis.call
-- How long one that has ended is kept that does not know it, in ms.
local OVER = 900000
local members, known, named_by = {}, {}, {}
for _, index in ipairs(KEYS) do
  local some
  if ARGV[1] == '' then
    some = call('SMEMBERS', index)
  else
    some = call('ZRANGEBYSCORE', index, '-inf', ARGV[1])
  end
  for _, member in ipairs(some) do
    if not known[member] then
      known[member] = true
      named_by[member] = index
      members[#members + 1] = member
    end
  end
end
local most = math.min(#members, tonumber(ARGV[2]))
local records, others = {}, {}
for i = 1, most do
  local stored = call('HMGET', members[i], 'record', 'first_seq', 'ended')
  if stored[1] and stored[3] and ARGV[1] ~= '' then
    call('ZREM', named_by[members[i]], members[i])
    if call('PTTL', members[i]) < 0 then call('PEXPIRE', members[i], OVER) end
  elseif stored[1] then
    records[#records + 1] = stored[1]
    records[#records + 1] = stored[2]
  else
    call(ARGV[1] == '' and 'SREM' or 'ZREM', named_by[members[i]], members[i])
  end
end
for i = most + 1, #members do
  others[#others + 1] = members[i]
end
return { records, others }
