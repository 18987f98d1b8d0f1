-- Takes units of the counters of one call, or of none of them.
--
-- KEYS: for each counter its key and the two lists of its owner's keys (all of them, and those of equal calls).
-- ARGV: 1 to take, 0 to look; how many keys an owner may have, and how many of them of equal calls; then for each counter its
--   max, its window in microseconds, the cost, 1 if it is enforced, 1 if it has an owner, 1 if it counts equal calls.
-- Returns a code. 0, taken: then for each counter the time at which its units were taken, 0 if none were (a counter that is
--   not enforced refuses nothing), and then for each counter the units in use. 1, counter n refuses: then n, for how many
--   microseconds, or for ever (-1), and then for each counter the units in use. 2, counter n has no room: then n.
--
-- A counter is a hash: h and t, the numbers of the first entry and of the next one; u, the units in use; m, the latest time
-- that was seen; and the entries, each 'start,latest,units'. Time is this server's. If its clock goes back, it stands still.
local TAKE, MOST, MOST_CALLS = ARGV[1] == '1', tonumber(ARGV[2]), tonumber(ARGV[3])
local EXACT = 1024
local time = redis.call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function entry(key, number)
  local text = redis.call('HGET', key, number)
  local start, latest, units = string.match(text, '^(%d+),(%d+),(%d+)$')
  return tonumber(start), tonumber(latest), tonumber(units)
end

local function number(value)
  return string.format('%.0f', value)
end

local function open(at)
  local base = 3 + (at - 1) * 6
  local key = KEYS[(at - 1) * 3 + 1]
  local counter = {
    key = key,
    all = KEYS[(at - 1) * 3 + 2],
    calls = KEYS[(at - 1) * 3 + 3],
    max = tonumber(ARGV[base + 1]),
    window = tonumber(ARGV[base + 2]),
    cost = tonumber(ARGV[base + 3]),
    enforced = ARGV[base + 4] == '1',
    owned = ARGV[base + 5] == '1',
    call = ARGV[base + 6] == '1',
  }
  local kept = redis.call('HMGET', key, 'h', 't', 'u', 'm')
  counter.new = not kept[1]
  counter.h, counter.t, counter.u = tonumber(kept[1] or 0), tonumber(kept[2] or 0), tonumber(kept[3] or 0)
  counter.now = math.max(clock, tonumber(kept[4] or 0))
  local forgotten = {}
  while counter.h < counter.t do
    local _, latest, units = entry(key, counter.h)
    if latest + counter.window > counter.now then break end
    counter.u = counter.u - units
    forgotten[#forgotten + 1] = counter.h
    counter.h = counter.h + 1
    if #forgotten == 512 then
      redis.call('HDEL', key, unpack(forgotten))
      forgotten = {}
    end
  end
  if #forgotten > 0 then redis.call('HDEL', key, unpack(forgotten)) end
  if not counter.new then
    redis.call('HSET', key, 'h', number(counter.h), 'u', number(counter.u), 'm', number(counter.now))
  end
  return counter
end

-- Microseconds until the units are free; 0 if they are, -1 if they never will be.
local function wait(counter)
  if counter.cost > counter.max then return -1 end
  local over = counter.u + counter.cost - counter.max
  if over <= 0 then return 0 end
  for at = counter.h, counter.t - 1 do
    local _, latest, units = entry(counter.key, at)
    over = over - units
    if over <= 0 then return latest + counter.window - counter.now end
  end
  return -1
end

-- Whether another key of the owner may be kept.
local function has_room(counter)
  if not counter.new or not counter.owned then return true end
  for _, list in ipairs({ { counter.all, MOST }, { counter.calls, counter.call and MOST_CALLS } }) do
    if list[2] then
      redis.call('ZREMRANGEBYSCORE', list[1], '-inf', number(counter.now))
      if redis.call('ZCARD', list[1]) >= list[2] then return false end
    end
  end
  return true
end

local function take(counter)
  local key, now = counter.key, counter.now
  local start, latest, units
  if counter.h < counter.t then start, latest, units = entry(key, counter.t - 1) end
  local slot = math.floor(counter.window / EXACT)
  local same = latest == now or (latest and counter.t - counter.h >= EXACT and now - start <= slot)
  if same then
    redis.call('HSET', key, counter.t - 1, number(start) .. ',' .. number(now) .. ',' .. number(units + counter.cost))
  else
    redis.call('HSET', key, counter.t, number(now) .. ',' .. number(now) .. ',' .. number(counter.cost))
    counter.t = counter.t + 1
  end
  counter.u = counter.u + counter.cost
  redis.call('HSET', key, 'h', number(counter.h), 't', number(counter.t), 'u', number(counter.u), 'm', number(now))
  -- A second longer than it counts, and longer if the clock stands still.
  local lasts = number(math.ceil((now - clock + counter.window) / 1000) + 1000)
  redis.call('PEXPIRE', key, lasts)
  if counter.owned then
    local lists = counter.call and { counter.all, counter.calls } or { counter.all }
    for _, list in ipairs(lists) do
      redis.call('ZADD', list, number(now + counter.window), key)
      if redis.call('PTTL', list) < tonumber(lasts) then redis.call('PEXPIRE', list, lasts) end
    end
  end
  return number(now)
end

local counters, worst, worst_at = {}, 0, 0
for at = 1, #KEYS / 3 do
  local counter = open(at)
  counters[at] = counter
  counter.room = has_room(counter)
  counter.wait = wait(counter)
  if counter.enforced then
    if not counter.room then return { '2', number(at) } end
    local left = counter.wait
    if left == -1 then
      if worst ~= -1 then worst, worst_at = -1, at end
    elseif worst ~= -1 and left > worst then
      worst, worst_at = left, at
    end
  end
end
local result = { '0' }
if worst_at > 0 then
  result = { '1', number(worst_at), number(worst) }
  for _, counter in ipairs(counters) do result[#result + 1] = number(counter.u) end
  return result
end
for at, counter in ipairs(counters) do
  if TAKE and counter.room and counter.wait == 0 then
    result[at + 1] = take(counter)
  else
    result[at + 1] = '0'
  end
end
for _, counter in ipairs(counters) do result[#result + 1] = number(counter.u) end
return result
