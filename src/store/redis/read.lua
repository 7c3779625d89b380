-- Entries of a tenant's stream behind a position.
--
-- KEYS 1 head  2 stream  3 where the session's entries stand, if one is named
-- ARGV 1 run id  2 epoch  3 tenant  4 after  5 at most  6 how long entries are kept, in ms
--
-- Answers with the newest position, the last one looked at, and each entry behind its position. Of a
-- session only its own are looked at, however many others stand between. What stands behind the
-- head's position was not committed.

local call = redis.call
local h = call('HMGET', KEYS[1], 'run', 'epoch', 'seq:' .. ARGV[3])
if not h[2] or h[1] ~= ARGV[1] then return { 'HEAD' } end
if h[2] ~= ARGV[2] then return { 'EPOCH', h[2] } end
local seq, after, most, of_session =
  tonumber(h[3] or 0), tonumber(ARGV[4]), tonumber(ARGV[5]), KEYS[3]
if after > seq then return { 'AHEAD' } end
local page = { 'PAGE', tostring(seq), ARGV[4] }
if after == seq then return page end

local function entries(from, to, count)
  return call('XRANGE', KEYS[2], from, to, 'COUNT', math.max(count, 1))
end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local some = entries(after + 1, seq, of_session and 1 or most)
-- They are in order of time: where the first is there, all are.
if not some[1] or some[1][1] ~= (after + 1) .. '-0' or some[1][2][2] + ARGV[6] <= now then
  return { 'TRIMMED' }
end
local session, taken = of_session and string.match(of_session, '[^:]+$'), 0
local function take(list)
  for _, entry in ipairs(list) do
    if taken >= most then break end
    page[3] = string.match(entry[1], '^%d+')
    -- A commit that failed may have left a place that others have taken since.
    if not of_session or entry[2][6] == session then
      page[#page + 1] = page[3]
      page[#page + 1] = entry[2][4]
      taken = taken + 1
    end
  end
end
if not of_session then
  take(some)
  return page
end
local runs =
  call('ZRANGEBYSCORE', of_session, '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #runs, 2 do
  if taken >= most then break end
  -- A run that a failed commit left may overlap another one.
  local from = math.max(tonumber(runs[i]), after + 1, tonumber(page[3]) + 1)
  local to = math.min(tonumber(runs[i + 1]), seq)
  if from <= to then take(entries(from, to, to - from + 1)) end
end
if taken < most then page[3] = page[2] end
return page
