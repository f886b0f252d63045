-- One step on one state: `coherence::protocol::State::apply`, where the state is.
-- KEYS[1]: the state. ARGV: the state's lifetime in ms, the step, and its arguments.
-- Returns the state after the step, with one of its holds if it has any, and whether the step's own hold was there before.
--
-- A family that is written a lot bears many holds, and a loop over them is what costs most by far. So they stand in the order of
-- their deadlines, each as wide as the other: the first says whether any is overdue, the last how long the state must live, and
-- one's own is found as a piece of text. Only what is not so, or has an overdue one, is taken apart.
local text = redis.pcall('GET', KEYS[1])
if type(text) ~= 'string' then text = '-' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime, step, hold = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local epoch, holds = string.match(text, '^(%x+%-%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x)(.*)$')
if not epoch or (holds ~= '' and string.sub(holds, 1, 1) ~= ' ') then
  epoch, holds = '-', string.match(text, '^%S*(.*)$')
end

local width = 31
local first = tonumber(string.match(holds, '^ %x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x@(%d%d%d%d%d%d%d%d%d%d%d%d%d)'))
local last = tonumber(string.match(string.sub(holds, -14), '^@(%d+)$'))
local sweeps, own = step == 'open' or step == 'begin', false
local deadline
if step == 'begin' or step == 'ambiguous' then deadline = now + tonumber(ARGV[4]) end

if holds == '' or (first and last and #holds % width == 0 and not (sweeps and first <= now)
    and not (deadline and deadline < last)) then
  if step ~= 'open' then
    local at = string.find(holds, ' ' .. hold .. '@', 1, true)
    if at then
      own = true
      if step ~= 'ambiguous' then holds = string.sub(holds, 1, at - 1) .. string.sub(holds, at + width) end
    end
  end
  if step == 'begin' or (step == 'ambiguous' and not own) then
    holds = holds .. string.format(' %s@%.0f', hold, deadline)
    last = deadline
  end
else
  local left, swept = {}, false
  for id, its in string.gmatch(holds, ' (%x+)@(%d+)') do
    its = tonumber(its)
    if sweeps and its <= now then
      swept = true
    elseif step ~= 'open' and id == hold then
      own = true
      if step == 'ambiguous' then left[#left + 1] = { id, its } end
    else
      left[#left + 1] = { id, its }
    end
  end
  if swept then epoch = '-' end
  if step == 'begin' or (step == 'ambiguous' and not own) then left[#left + 1] = { hold, deadline } end
  table.sort(left, function(one, other) return one[2] < other[2] end)
  holds, last = '', nil
  for n, held in ipairs(left) do
    left[n], last = string.format(' %s@%.0f', held[1], held[2]), held[2]
  end
  holds = table.concat(left)
end

local function made(fresh)
  local micros = time[1] * 1000000 + time[2]
  return string.format('%x%05x', math.floor(micros / 1048576), micros % 1048576) .. '-' .. fresh
end

if step == 'open' then
  -- An epoch of another life of the store is as good as none: the first half of what follows its time says which.
  if string.match(epoch, '%-(%x%x%x%x%x%x%x%x)%x+$') ~= string.sub(ARGV[3], 1, 8) then epoch = '-' end
  if epoch == '-' and holds == '' then epoch = made(ARGV[3]) end
elseif step == 'renew' then
  local life = string.match(epoch, '%-(%x%x%x%x%x%x%x%x)%x+$')
  if own and holds == '' and life == string.sub(ARGV[4], 1, 8) then epoch = made(ARGV[4]) else epoch = '-' end
elseif step == 'outdate' and epoch ~= '-' then
  -- The generation stands before the 13 digits of the epoch's microseconds.
  local before, rest = string.match(epoch, '^(%x+)(%-%x+)$')
  local micros = string.sub(before, -13)
  local generation = (tonumber(string.sub(before, 1, -14), 16) or 0) + 1
  if generation > 4095 then epoch = '-' else
    epoch = string.format('%x', generation) .. string.rep('0', 13 - #micros) .. micros .. rest
  end
elseif step == 'changed' or step == 'ambiguous' or step == 'purge' then
  epoch = '-'
end

local after = epoch .. holds
if after == '-' then
  if text ~= '-' or redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
elseif after ~= text or step == 'begin' then
  -- A state outlives its copies and its holds: never shortened, always past the last deadline.
  local left = redis.call('PTTL', KEYS[1])
  if holds ~= '' and last - now + 1000 > lifetime then lifetime = last - now + 1000 end
  if left > lifetime then lifetime = left end
  redis.call('SET', KEYS[1], after, 'PX', string.format('%.0f', lifetime))
end
local second = string.find(holds, ' ', 2, true)
return { second and epoch .. string.sub(holds, 1, second - 1) or after, own and step ~= 'begin' and 1 or 0 }
