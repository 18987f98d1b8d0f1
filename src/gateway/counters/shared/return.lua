-- Gives units back, of a call that was not made.
--
-- KEYS: the counters. ARGV: for each its window in microseconds, the time at which its units were taken, and how many.
local time = redis.call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function number(value)
  return string.format('%.0f', value)
end

for at, key in ipairs(KEYS) do
  local window, when, cost = tonumber(ARGV[at * 3 - 2]), tonumber(ARGV[at * 3 - 1]), tonumber(ARGV[at * 3])
  local kept = redis.call('HMGET', key, 'h', 't', 'u', 'm')
  if kept[1] and when + window > math.max(clock, tonumber(kept[4])) then
    for place = tonumber(kept[2]) - 1, tonumber(kept[1]), -1 do
      local start, latest, units = string.match(redis.call('HGET', key, place), '^(%d+),(%d+),(%d+)$')
      if tonumber(latest) < when then break end
      if tonumber(start) <= when then
        local back = math.min(cost, tonumber(units))
        -- The entry stays where it is, with nothing in it.
        redis.call('HSET', key, place, start .. ',' .. latest .. ',' .. number(tonumber(units) - back),
          'u', number(tonumber(kept[3]) - back))
        break
      end
    end
  end
end
return 'OK'
