-- Entries of a tenant's stream behind a position.
--
-- KEYS 1 head  2 stream
-- ARGV 1 run id  2 epoch  3 tenant  4 after  5 at most  6 how long entries are kept, in ms
--      7 only those of this session, or ''
--
-- Answers with the newest position, the last one looked at, and each entry behind its position.

local LOOK_AT = 4096
local call = redis.call
local h = call('HMGET', KEYS[1], 'run', 'epoch', 'seq:' .. ARGV[3])
if not h[2] or h[1] ~= ARGV[1] then return { 'HEAD' } end
if h[2] ~= ARGV[2] then return { 'EPOCH', h[2] } end
local seq, after, most, only = tonumber(h[3] or 0), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
if after > seq then return { 'AHEAD' } end
local page = { 'PAGE', tostring(seq), ARGV[4] }
if after == seq then return page end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = only == '' and math.min(most, LOOK_AT) or LOOK_AT
local some = call('XRANGE', KEYS[2], after + 1, '+', 'COUNT', math.max(count, 1))
-- They are in order of time: where the first is there, all are.
if not some[1] or some[1][1] ~= (after + 1) .. '-0' or some[1][2][2] + ARGV[6] <= now then
  return { 'TRIMMED' }
end
local taken = 0
for _, entry in ipairs(some) do
  if taken >= most then break end
  local place = string.match(entry[1], '^%d+')
  page[3] = place
  if only == '' or entry[2][6] == only then
    page[#page + 1] = place
    page[#page + 1] = entry[2][4]
    taken = taken + 1
  end
end
return page
