-- One step on each of some states: `coherence::protocol::State::apply`, where the states are. One after the other: that
-- nobody sees it in between makes it cheap, and nothing relies on it.
-- ARGV: the step; how long a state lives, in ms; how long holds are to last, in ms, or the life and the fresh bits of an epoch; then for
-- each state the step's hold, or those of several steps that are done one after the other.
-- KEYS: the states. Behind them `begin`, `purge` and `outdate` have the key of the leases' terms, which is read when all is done,
-- and `enter`, which is `open` if the store still lives the life that it names, the key of that record.
-- Returns a line for each state as the steps have left it: `*` if it is held, its epoch, or `-`; before it for each hold a `!` if it
-- was there and a `.` if not. After those come the terms, or nothing; alone for `begin`, which leaves all states held. `enter` returns
-- `?` and the record where that names another life, and nothing where there is none.
--
-- What costs most here is calls, then each text that is made, the more so the longer it is: a family that is written a lot bears
-- many holds. They stand in the order of their deadlines, each as wide as the other: so the first says whether any is overdue, the
-- last until when the state must live, and one's own is found as a piece of text. What is common has a short way; all else is taken apart.
local call, pcall, find, sub = redis.call, redis.pcall, string.find, string.sub
local step, lifetime, more = ARGV[1], ARGV[2], ARGV[3]
-- Of all ambiguous writes together: `HoldId::AMBIGUOUS`.
local AMBIGUOUS = 'ffffffffffffffff'
local WIDTH, ID, EPOCH = 31, 16, '^%x+%-%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x$'
-- A state with a hold lives at least to the end of the ten seconds in which its last hold runs out, so not every hold need prolong it.
local TEN_SECONDS = 10000

local states, beside = #KEYS, nil
if step == 'begin' or step == 'purge' or step == 'outdate' or step == 'enter' then
  beside, states = KEYS[states], states - 1
end

if step == 'enter' then
  local record = pcall('GET', beside)
  if type(record) ~= 'string' then return false end
  if not find(record, ' ' .. sub(more, 1, 8) .. ' ', 1, true) then return '?' .. record end
  step, beside = 'open', nil
end

-- Two numbers of seconds and microseconds. Numbers beyond 32 bits are written in two halves: `%.0f` costs as much as a call.
local time, now, deadline, until_then, life, fresh
if step ~= 'changed' and step ~= 'unchanged' then
  time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  if step == 'begin' or step == 'ambiguous' then
    deadline = now + more
    until_then = string.format('%d%03d', math.floor(deadline / 1000), deadline % 1000)
  elseif step == 'open' or step == 'renew' then
    local micros = time[1] * 1000000 + time[2]
    life = sub(more, 1, 8)
    fresh = string.format('%x%05x-%s', math.floor(micros / 1048576), micros % 1048576, more)
  end
end

local said = {}
for n = 1, states do
  local key, holds = KEYS[n], ARGV[3 + n] or '-'
  local many, flags, after = #holds > ID, '', nil

  -- Several at once, where all that stands there is in order.
  if many and step == 'begin' and deadline > now then
    local held = string.gsub(holds, '................', ' %0@' .. until_then)
    local text = pcall('SET', key, '-' .. held, 'NX', 'GET', 'PX', lifetime)
    if not text then
      after = '*'
    elseif type(text) == 'string' then
      local at = find(text, ' ', 1, true)
      local epoch = at and sub(text, 1, at - 1) or text
      local first, last = deadline, deadline
      if at then
        first, last = tonumber(sub(text, at + 18, at + 30)), tonumber(sub(text, -13))
      end
      local in_order = (epoch == '-' or find(epoch, EPOCH)) and first and last and first > now and last <= deadline
        and (not at or (#text + 1 - at) % WIDTH == 0)
      for k = 1, #holds, ID do
        in_order = in_order and not find(text, ' ' .. sub(holds, k, k + ID - 1) .. '@', 1, true)
      end
      if in_order then
        after = '*'
        call('APPEND', key, held)
        call('PEXPIRE', key, lifetime, 'GT')
      end
    end
  elseif many and (step == 'changed' or step == 'unchanged') then
    local text = pcall('GET', key)
    local at = type(text) == 'string' and find(text, ' ', 1, true)
    local epoch = at and sub(text, 1, at - 1)
    if at and (#text + 1 - at) % WIDTH == 0 and sub(text, at + 17, at + 17) == '@' and sub(text, -14, -14) == '@'
      and (epoch == '-' or find(epoch, EPOCH)) then
      local own = {}
      for k = 1, #holds, ID do own[sub(holds, k, k + ID - 1)] = '.' end
      -- What lies between them stays.
      local left, from = { step == 'changed' and '-' or epoch }, at
      for each = at, #text, WIDTH do
        local id = sub(text, each + 1, each + ID)
        if own[id] then
          own[id] = '!'
          if each > from then left[#left + 1] = sub(text, from, each - 1) end
          from = each + WIDTH
        end
      end
      if from <= #text then left[#left + 1] = sub(text, from) end
      after = #left > 1 and '*' or left[1]
      if after == '-' then call('DEL', key) else call('SET', key, table.concat(left), 'KEEPTTL') end
      for k = 1, #holds, ID do flags = flags .. own[sub(holds, k, k + ID - 1)] end
    end
  end

  for k = 1, after and 0 or #holds, ID do
    local hold, own = many and sub(holds, k, k + ID - 1) or holds, nil
    local own_hold = ' ' .. hold .. '@'
    -- What is left of the write in the state; of an ambiguous one it has another name.
    local name = step == 'ambiguous' and AMBIGUOUS or hold
    local held = deadline and ' ' .. name .. '@' .. until_then
    after = nil
    -- What stands there; if nothing does, what the step makes of that stands there now.
    local of_nothing = held and '-' .. held or (step == 'open' and fresh)
    local text
    if of_nothing then
      text = pcall('SET', key, of_nothing, 'NX', 'GET', 'PX', lifetime)
    else
      text = pcall('GET', key)
    end
    -- Of what may not be read nothing is known, and it is not replaced: others' holds may stand there.
    if type(text) == 'table' and not find(text.err, 'WRONGTYPE', 1, true) then return text end
    if not text then
      after = held and '*' or of_nothing or '-'
    elseif type(text) == 'string' then
      local at = find(text, ' ', 1, true)
      local epoch = at and sub(text, 1, at - 1) or text
      if epoch ~= '-' and step ~= 'changed' and not find(epoch, EPOCH) then
        -- None of ours.
      elseif step == 'begin' or step == 'open' then
        local first, last = deadline, deadline
        if at then
          first, last = tonumber(sub(text, at + 18, at + 30)), tonumber(sub(text, -13))
        end
        local in_order = not at or (first and last and first > now and (#text + 1 - at) % WIDTH == 0)
        if not in_order then
          -- Or overdue.
        elseif step == 'open' then
          local of_it = sub(epoch, -16, -9) == life
          if at and (of_it or epoch == '-') then after = '*' elseif of_it then after = text end
        elseif last <= deadline and not (at and find(text, own_hold, at, true)) then
          after = '*'
          call('APPEND', key, held)
          if not at or math.floor(last / TEN_SECONDS) < math.floor(deadline / TEN_SECONDS) then
            call('PEXPIRE', key, lifetime, 'GT')
          end
        end
      elseif step == 'ambiguous' then
        -- Of its hold and theirs the one that ends later stays, in its place and by their name.
        local found = at and (#text + 1 - at) % WIDTH == 0 and find(text, own_hold, at, true)
        local theirs = found and find(text, ' ' .. AMBIGUOUS .. '@', at, true)
        if found then
          own, after = true, '*'
          local renamed = ' ' .. AMBIGUOUS .. sub(text, found + 17, found + 30)
          if not theirs then
            call('SET', key, '-' .. sub(text, at, found - 1) .. renamed .. sub(text, found + WIDTH), 'KEEPTTL')
          elseif sub(text, theirs + 18, theirs + 30) >= sub(text, found + 18, found + 30) then
            call('SET', key, '-' .. sub(text, at, found - 1) .. sub(text, found + WIDTH), 'KEEPTTL')
          elseif theirs < found then
            call('SET', key, '-' .. sub(text, at, theirs - 1) .. sub(text, theirs + WIDTH, found - 1) .. renamed
              .. sub(text, found + WIDTH), 'KEEPTTL')
          else
            own, after = nil, nil
          end
        end
      elseif step == 'changed' or step == 'unchanged' then
        local found = at and find(text, own_hold, at, true)
        local behind = found and found + WIDTH
        own = found and (behind > #text or string.byte(text, behind) == 32)
        if own then
          if step == 'changed' then epoch = '-' end
          if found > at or behind <= #text then
            after = '*'
            call('SET', key, epoch .. sub(text, at, found - 1) .. sub(text, behind), 'KEEPTTL')
          else
            after = epoch
            if after ~= '-' then call('SET', key, after, 'KEEPTTL') end
          end
        elseif not at then
          after = step == 'changed' and '-' or epoch
        end
        if after == '-' then call('DEL', key) end
      end
    end

    if not after then
      if not time then
        time = call('TIME')
        now = time[1] * 1000 + math.floor(time[2] / 1000)
      end
      own = false
      local epoch, holds = '-', ''
      if type(text) == 'string' then
        epoch, holds = string.match(text, '^(%S*)(.*)$')
        if not find(epoch, EPOCH) then epoch = '-' end
      end
      local left, last, ends = {}, nil, nil
      for id, its in string.gmatch(holds, ' (%x+)@(%d+)') do
        its = tonumber(its)
        if (step == 'begin' or step == 'open') and its <= now then
          -- Overdue: its write may have come to pass.
          epoch = '-'
        elseif step ~= 'open' and (id == hold or (id == name and deadline)) then
          own = own or id == hold
          -- It ends no earlier than it would have.
          ends = math.max(ends or its, its)
        else
          left[#left + 1] = { id, its }
        end
      end
      if step == 'begin' or (step == 'ambiguous' and not own) then ends = math.max(ends or deadline, deadline) end
      if deadline and ends then left[#left + 1] = { name, ends } end
      table.sort(left, function(one, other) return one[2] < other[2] end)
      for n, each in ipairs(left) do
        left[n], last = string.format(' %s@%.0f', each[1], each[2]), each[2]
      end
      holds = table.concat(left)

      if step == 'open' then
        -- An epoch of another life of the store is as good as none: the first half of what follows its time says which.
        if sub(epoch, -16, -9) ~= life then epoch = '-' end
        if epoch == '-' and holds == '' then epoch = fresh end
      elseif step == 'renew' then
        local alone = own and holds == '' and sub(epoch, -16, -9) == life
        epoch = alone and fresh or '-'
      elseif step == 'outdate' and epoch ~= '-' then
        -- The generation stands before the 13 digits of the epoch's microseconds.
        local before, rest = string.match(epoch, '^(%x+)(%-%x+)$')
        local micros = sub(before, -13)
        local generation = (tonumber(sub(before, 1, -14), 16) or 0) + 1
        if generation > 4095 then epoch = '-' else
          epoch = string.format('%x', generation) .. string.rep('0', 13 - #micros) .. micros .. rest
        end
      elseif step == 'changed' or step == 'ambiguous' or step == 'purge' then
        epoch = '-'
      end

      after = epoch .. holds
      if after == '-' then
        call('DEL', key)
      elseif after ~= text or step == 'begin' then
        -- A state outlives its copies and its holds: never shortened, always past the last deadline.
        local longest = math.max(tonumber(lifetime), call('PTTL', key))
        if last then longest = math.max(longest, last - now + TEN_SECONDS + 1000) end
        call('SET', key, after, 'PX', string.format('%.0f', longest))
      end
      if last then after = '*' end
    end
    if hold ~= '-' then flags = flags .. (own and '!' or '.') end
  end
  said[n] = flags .. after
end

if beside then
  local terms = pcall('GET', beside)
  if type(terms) ~= 'string' then terms = '' end
  if step == 'begin' then return terms end
  said[states + 1] = terms
end
return table.concat(said, '\n')
