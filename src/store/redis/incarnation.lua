-- Which life of the store's data this is. KEYS[1]: where it stands. ARGV: who the server says it is; 8 random hex
-- digits; the key's lifetime in ms; `first`, `again` or `anew`; the notice time in ms.
-- Returns the life, and for how many ms yet no epoch is to be made or trusted in it.
-- Another server than the one that stands there begins another life, for it may have missed writes; so does one
-- in which nothing stands. Then all instances first put back the holds of their writes in flight, which is what the
-- notice time is for; whoever is here for the first time cannot know that there are none.
local text = redis.pcall('GET', KEYS[1])
-- Of what may not be read nothing is known, and it is not replaced.
if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then return text end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local who, life, trusted
if type(text) == 'string' then
  who, life, trusted = string.match(text, '^(%S+) (%x%x%x%x%x%x%x%x) (%d+)$')
end
if who ~= ARGV[1] or ARGV[4] == 'anew' then
  trusted = now + ARGV[5]
  life = ARGV[2]
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. life .. ' ' .. string.format('%.0f', trusted), 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return { life, math.max(0, tonumber(trusted) - now) }
