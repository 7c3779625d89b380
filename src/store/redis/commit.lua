-- Writes a command's next state and what is told of it: all or nothing.
--
-- KEYS  1 head  2 record  3 stream  4 due  5 at the stack  6 ended holds and ends
--       7 ended starts and transfers  8 where its session's entries stand  9... what it claims, then
--       sets that name it: of what it watches, of who performs for it
-- ARGV  see below, in this order; entries come last.
--
-- Every check stands before the first write. The first write is one that Redis refuses when it is
-- out of memory, so that a refusal is whole. Redis takes nothing back of a script that fails later
-- (a right that was taken away, a key of another type). So what is added comes first; then entries,
-- record and head, which are all or nothing; and what is taken away last. What a commit that failed
-- added is written again when it is repeated, or names a record that is not there.

local call = redis.call
local head, me, stream, due_set, at_stack, ended_others, ended_calls, of_session =
  unpack(KEYS, 1, 8)
local run, epoch, nonce, not_after, term, version, quota, keep, tenant, stack, ended, due, linger,
  places_calls, record, channel, entries_for, entries_bytes, most_ended, claim_count, takings,
  session = unpack(ARGV, 1, 22)
local FIRST_KEY, FIRST_ENTRY, LATEST = 9, 23, 1e12
claim_count = tonumber(claim_count)
ended = ended == '1'

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Redis takes texts faster than numbers.
local at_now, until_then = string.format('%.0f', now), tonumber(not_after)

-- The store's life.
local h = call('HMGET', head, 'run', 'epoch', 'seq:' .. tenant, 'running:' .. tenant,
  'bytes:' .. tenant, 'oldest:' .. tenant, 'term:' .. stack, 'lasts:' .. tenant)
if not h[2] or h[1] ~= run then return { 'HEAD' } end
local seq, running = tonumber(h[3] or 0), tonumber(h[4] or 0)
local bytes, oldest = tonumber(h[5] or 0), tonumber(h[6] or nil)

-- A repeat.
local old = call('HMGET', me, 'version', 'applied', 'claims', 'sets', 'ended')
local applied = old[2] or ''
-- What has ended is not looked for any more, and goes by itself: later than this commit may be
-- repeated, and than its claims linger.
local function bury()
  local expires = math.max(now + keep, until_then + 1)
  if linger ~= '' then expires = math.max(expires, tonumber(linger)) end
  expires = math.min(expires, now + LATEST)
  local kept_in = places_calls == '1' and ended_calls or ended_others
  call('ZADD', kept_in, expires, me)
  if call('PTTL', kept_in) < expires - now then call('PEXPIREAT', kept_in, expires) end
  call('ZREM', due_set, me)
  call('SREM', at_stack, me)
  call('PEXPIREAT', me, expires)
end
local from, to = string.find(applied, '\n' .. nonce .. ' ', 1, true)
if from then
  if ended and call('PTTL', me) < 0 then bury() end
  local line = string.match(applied, '[^\n]+', to + 1)
  local stored = call('HMGET', me, 'record', 'first_seq')
  return { 'AGAIN', line, stored[1], stored[2] }
end

if h[2] ~= epoch then return { 'EPOCH', h[2] } end
if now > until_then then return { 'LATE' } end
if term ~= '' and tonumber(term) < tonumber(h[7] or 0) then return { 'FENCED', h[7] } end

-- Its version.
local begins = version == '1'
local known = old[1]
if begins and known then
  local stored = call('HMGET', me, 'record', 'first_seq')
  return { 'EXISTS', stored[1], stored[2] }
elseif not begins and not known then
  return { 'GONE' }
elseif known and tonumber(known) + 1 ~= tonumber(version) then
  local stored = call('HMGET', me, 'record', 'first_seq')
  return { 'STALE', stored[1], stored[2] }
end

-- What it claims anew.
local function words(text)
  local list, set = {}, {}
  for word in string.gmatch(text or '', '%S+') do
    list[#list + 1] = word
    set[word] = true
  end
  return list, set
end
local function holder(claim)
  local value = call('GET', claim)
  if not value then return nil end
  local at, by = string.match(value, '^(%d+) (.*)$')
  return by, tonumber(at)
end
-- A claim without a time goes with its record; one whose record is gone is nobody's.
local function is_held(at, by)
  return at > 0 or call('EXISTS', by) == 1
end
local claimed_before, had = words(old[3])
local claims_now, still, new_claims, overtaken = {}, {}, {}, {}
for i = 1, claim_count do
  local claim = KEYS[FIRST_KEY + i - 1]
  still[claim] = true
  if not had[claim] then
    local by, at = holder(claim)
    if by and by ~= me and is_held(at, by) then
      local asks = string.sub(takings, i, i) == '?'
      if asks and (at == 0 or at > now) then return { 'BUSY', i, by, at } end
      if at == 0 then overtaken[#overtaken + 1] = by end
    end
    new_claims[#new_claims + 1] = claim
  end
end
if begins and quota ~= '' and running >= tonumber(quota) then return { 'OVER' } end

-- Where its entries will stand.
if not h[3] and call('EXISTS', stream) == 1 then
  -- The head was lost and the stream was not: what is in it was told under an epoch before.
  local about = call('XINFO', 'STREAM', stream)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' then seq = tonumber(string.match(about[i + 1], '^%d+')) end
  end
  call('HSET', head, 'base:' .. tenant, seq)
end
local prefix = string.sub(of_session, 1, #of_session - #session)
local first_seq, old_bytes, added = seq + 1, bytes, 0
for i = FIRST_ENTRY, #ARGV do
  added = added + #ARGV[i]
end
seq = seq + #ARGV - FIRST_ENTRY + 1
-- What is written last is all of it or nothing: should it not be allowed to, that shows here.
call('HSET', head, 'run', run)

-- What came before this commit: kept by time, and as far as there is room.
if oldest and (oldest + entries_for <= now or old_bytes > tonumber(entries_bytes)) then
  local removed, more, sessions, kept_from = 0, true, {}, nil
  while more and removed < 256 do
    local some = call('XRANGE', stream, '-', '(' .. first_seq .. '-0', 'COUNT', 32)
    more = #some > 0
    if not more then old_bytes, oldest = 0, nil end
    local keep_from
    for _, entry in ipairs(some) do
      local written = tonumber(entry[2][2])
      if written + entries_for > now and old_bytes <= tonumber(entries_bytes) then
        oldest, more = written, false
        keep_from = entry[1]
        break
      end
      old_bytes = old_bytes - #entry[2][4]
      removed = removed + 1
      sessions[entry[2][6]] = true
      keep_from = (tonumber(string.match(entry[1], '^%d+')) + 1) .. '-0'
    end
    if keep_from then call('XTRIM', stream, 'MINID', keep_from) end
    kept_from = keep_from or kept_from
  end
  for trimmed in pairs(sessions) do
    local before = '(' .. string.match(kept_from, '^%d+')
    call('ZREMRANGEBYSCORE', prefix .. trimmed, '-inf', before)
  end
end
local lasts
if added > 0 then
  oldest = oldest or now
  -- A stream that nobody writes to goes as a whole. Set for longer than needed, and so less often.
  if now + entries_for > tonumber(h[8] or 0) then lasts = now + 2 * entries_for end
  -- By its last entry; it lasts as the stream does.
  call('ZADD', of_session, seq, first_seq)
  if call('PTTL', of_session) < tonumber(entries_for) then
    call('PEXPIREAT', of_session, now + 2 * entries_for)
  end
end
bytes = math.max(old_bytes, 0) + added

-- Claims.
for _, claim in ipairs(new_claims) do
  call('SET', claim, '0 ' .. me)
  claims_now[#claims_now + 1] = claim
end
-- Only those on calls linger.
local function lingers(claim)
  return linger ~= '' and string.find(claim, '^cp:%w+:{%d+}:call:')
end
local freed = {}
for _, claim in ipairs(claimed_before) do
  if still[claim] then
    claims_now[#claims_now + 1] = claim
  elseif holder(claim) == me then
    if lingers(claim) then claims_now[#claims_now + 1] = claim end
    freed[#freed + 1] = claim
  end
end

-- The sets that name it.
local sets_before, was_in = words(old[4])
local sets_now, is_in = {}, {}
for i = FIRST_KEY + claim_count, #KEYS do
  local set = KEYS[i]
  sets_now[#sets_now + 1] = set
  is_in[set] = true
  if not was_in[set] then call('SADD', set, me) end
end

-- The record, with the commits that may be repeated.
local repeatable = {}
for line in string.gmatch(applied, '[^\n]+') do
  local last = tonumber(string.match(line, '^%S+ %S+ %S+ (%S+)'))
  -- A little longer: the last repeat of it may be under way for a second.
  if last + 2000 >= now then repeatable[#repeatable + 1] = '\n' .. line end
end
local line = { nonce, first_seq, at_now, not_after }
for _, by in ipairs(overtaken) do line[#line + 1] = by end
repeatable[#repeatable + 1] = '\n' .. table.concat(line, ' ')
local first_end = ended and not old[5]
local fields = { 'version', version, 'record', record, 'applied', table.concat(repeatable) }
local function set(field, value) fields[#fields + 1], fields[#fields + 2] = field, value end
local claims_text, sets_text = table.concat(claims_now, ' '), table.concat(sets_now, ' ')
if claims_text ~= (old[3] or '') then set('claims', claims_text) end
if sets_text ~= (old[4] or '') then set('sets', sets_text) end
if first_end then set('ended', 1) end
if begins then
  set('first_seq', first_seq)
  running = running + 1
end
if due ~= '' then
  call('ZADD', due_set, due, me)
  if begins then call('SADD', at_stack, me) end
end

if first_end then running = math.max(running - 1, 0) end

-- It is committed.
local function write(at)
  local entry = ARGV[FIRST_ENTRY + at - first_seq]
  return redis.pcall('XADD', stream, at .. '-0', 't', at_now, 'e', entry, 's', session)
end
for at = first_seq, seq do
  local written = write(at)
  if written.err and at == first_seq and string.find(written.err, 'smaller', 1, true) then
    -- Somebody else wrote to the stream. What is in it can't be told from what was committed.
    for _, entry in ipairs(call('XRANGE', stream, first_seq .. '-0', '+')) do
      call('ZREMRANGEBYSCORE', prefix .. (entry[2][6] or session), first_seq, '+inf')
    end
    call('DEL', stream)
    call('ZADD', of_session, seq, first_seq)
    bytes, oldest, lasts = added, now, now + 2 * entries_for
    written = write(at)
  end
  if written.err then return written end
end
call('HSET', me, unpack(fields))
fields = {}
if added > 0 then set('seq:' .. tenant, seq) end
if lasts then set('lasts:' .. tenant, lasts) end
if bytes ~= tonumber(h[5] or nil) then set('bytes:' .. tenant, bytes) end
if running ~= tonumber(h[4] or nil) then set('running:' .. tenant, running) end
if oldest and oldest ~= tonumber(h[6] or nil) then set('oldest:' .. tenant, oldest) end
if term ~= '' and term ~= h[7] then set('term:' .. stack, term) end
if #fields > 0 then call('HSET', head, unpack(fields)) end
if not oldest and h[6] then call('HDEL', head, 'oldest:' .. tenant) end

-- What is not so any more.
for _, claim in ipairs(freed) do
  if lingers(claim) then
    call('SET', claim, linger .. ' ' .. me, 'PXAT', math.min(linger + 1, now + LATEST))
  else
    call('DEL', claim)
  end
end
for _, set in ipairs(sets_before) do
  if not is_in[set] then call('SREM', set, me) end
end
if first_end then
  -- Makes room: holds and ends go first.
  for _, set in ipairs({ ended_others, ended_calls }) do
    call('ZREMRANGEBYSCORE', set, '-inf', now)
  end
  local kept = call('ZCARD', ended_others) + call('ZCARD', ended_calls)
  local removed = 0
  while kept >= tonumber(most_ended) and removed < 64 do
    local gone = call('ZPOPMIN', ended_others)[1] or call('ZPOPMIN', ended_calls)[1]
    if not gone then break end
    local theirs = words(call('HGET', gone, 'claims') or '')
    for _, claim in ipairs(theirs) do
      if holder(claim) == gone then call('DEL', claim) end
    end
    call('DEL', gone)
    kept, removed = kept - 1, removed + 1
  end
end
if ended then bury() end
if lasts then call('PEXPIREAT', stream, lasts) end
if added > 0 then
  local entries = table.concat(ARGV, '\n', FIRST_ENTRY)
  call('PUBLISH', channel, epoch .. ' ' .. first_seq .. '\n' .. entries)
end
return { 'APPLIED', table.concat(line, ' ', 2) }
