-- One step on one state: `coherence::protocol::State::apply`, where the state is.
-- KEYS[1]: the state. ARGV: the state's lifetime in ms, the step, and its arguments.
-- Returns the state after the step, and whether the step's own hold was there before.
local text = redis.pcall('GET', KEYS[1])
if type(text) ~= 'string' then text = '-' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lifetime, step, hold = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local pattern = '^(%x+%-' .. string.rep('%x', 16) .. ')'
local epoch = string.match(text, pattern .. '$') or string.match(text, pattern .. ' ') or '-'
local holds, swept, own, last = {}, false, false, 0
for id, deadline in string.gmatch(text, ' (%x+)@(%d+)') do
  deadline = tonumber(deadline)
  if (step == 'open' or step == 'begin') and deadline <= now then
    swept = true
  elseif step ~= 'open' and id == hold then
    own = true
    if step == 'ambiguous' then holds[#holds + 1] = { id, deadline } end
  else
    holds[#holds + 1] = { id, deadline }
  end
end
if swept then epoch = '-' end

local function made(fresh)
  local micros = time[1] * 1000000 + time[2]
  return string.format('%x%05x', math.floor(micros / 1048576), micros % 1048576) .. '-' .. fresh
end

if step == 'open' then
  -- An epoch of another life of the store is as good as none: the first half of what follows its time says which.
  if string.match(epoch, '%-(%x%x%x%x%x%x%x%x)%x+$') ~= string.sub(ARGV[3], 1, 8) then epoch = '-' end
  if epoch == '-' and #holds == 0 then epoch = made(ARGV[3]) end
elseif step == 'begin' or (step == 'ambiguous' and not own) then
  holds[#holds + 1] = { hold, now + tonumber(ARGV[4]) }
end
if step == 'renew' then
  local life = string.match(epoch, '%-(%x%x%x%x%x%x%x%x)%x+$')
  if own and #holds == 0 and life == string.sub(ARGV[4], 1, 8) then epoch = made(ARGV[4]) else epoch = '-' end
end
if step == 'outdate' and epoch ~= '-' then
  -- The generation stands before the 13 digits of the epoch's microseconds.
  local first, rest = string.match(epoch, '^(%x+)(%-%x+)$')
  local micros = string.sub(first, -13)
  local generation = (tonumber(string.sub(first, 1, -14), 16) or 0) + 1
  if generation > 4095 then epoch = '-' else
    epoch = string.format('%x', generation) .. string.rep('0', 13 - #micros) .. micros .. rest
  end
end
if step == 'changed' or step == 'ambiguous' or step == 'purge' then epoch = '-' end

local after = epoch
for _, held in ipairs(holds) do
  after = after .. string.format(' %s@%.0f', held[1], held[2])
  if held[2] > last then last = held[2] end
end
if after == '-' then
  if text ~= '-' or redis.call('EXISTS', KEYS[1]) == 1 then redis.call('DEL', KEYS[1]) end
elseif after ~= text or step == 'begin' then
  -- A state outlives its copies and its holds: never shortened, always past the last deadline.
  local left = redis.call('PTTL', KEYS[1])
  if last - now + 1000 > lifetime then lifetime = last - now + 1000 end
  if left > lifetime then lifetime = left end
  redis.call('SET', KEYS[1], after, 'PX', string.format('%.0f', lifetime))
end
return { after, own and step ~= 'begin' and 1 or 0 }
