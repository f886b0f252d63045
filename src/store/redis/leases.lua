-- The terms of all instances' leases: `coherence::lease::Registry::renew`, where they are.
-- KEYS[1]: where they stand. ARGV: the caller's own term in ms, or 0; how long it stands for in ms; the longest term that
-- there may be in ms, a millisecond more than which stands for as long in the place of what was lost; the key's lifetime in ms.
-- Returns what stands there now, and in how many ms the first of it is overdue; or -1.
local text = redis.pcall('GET', KEYS[1])
-- Of what may not be read nothing is known, and it is not replaced.
if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then return text end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own, longest = tonumber(ARGV[1]), tonumber(ARGV[3])
local terms, known = {}, type(text) == 'string'
if known and text ~= '-' then
  for word in string.gmatch(text .. ' ', '([^ ]*) ') do
    local term, till = string.match(word, '^(%d+)@(%d+)$')
    if not term then known = false break end
    terms[tonumber(term)] = tonumber(till)
  end
end
local sorted, lost = {}, not known
if not known then terms = {} end
for term, till in pairs(terms) do
  if till <= now then
    terms[term] = nil
    if term ~= longest + 1 then lost = true end
  end
end
-- Whose it was may have leases still.
if lost then terms[longest + 1] = now + longest end
if own > 0 then terms[own] = math.max(terms[own] or 0, now + tonumber(ARGV[2])) end
for term in pairs(terms) do sorted[#sorted + 1] = term end
table.sort(sorted)
local words, first = {}, -1
for n, term in ipairs(sorted) do
  local left = terms[term] - now
  if first < 0 or left < first then first = left end
  words[n] = string.format('%.0f@%.0f', term, terms[term])
end
local after = #words > 0 and table.concat(words, ' ') or '-'
redis.call('SET', KEYS[1], after, 'PX', ARGV[4])
return { after, first }
