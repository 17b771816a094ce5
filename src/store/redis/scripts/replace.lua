-- Writes an entry over one generation. ARGV[4..]: id, generation, call, idle, absolute, offline, subjects, entry. Answers
-- 'D' with the generation and the entry that was there, 'C' if there is another generation, 'G' if the sign-in has ended.

local id, generation, call, idle, absolute, offline, subjects, body = unpack(ARGV, 4, 11)
call = call .. 'p' .. id
clear_some()
local s = live(id)
if not s or s.generation ~= tonumber(generation) then
  local answer = recall(call)
  if answer then
    return { text(now), 'D', answer, '' }
  end
  return { text(now), s and 'C' or 'G' }
end

local old = s.body
s.generation = s.generation + 1
s.idle, s.absolute, s.offline, s.body = tonumber(idle), tonumber(absolute), offline, body
write(s)
redis.call('HSET', account, 't' .. id, subjects)
announce('C', id)

-- Downstream tokens go with the token that they were obtained with.
local names, count = '', 0
for name in string.gmatch(redis.call('HGET', account, 'n' .. id) or '', '([^,]+),') do
  local field = 'd' .. id .. name
  local subject = string.match(redis.call('HGET', account, field) or '', '^([^:]*):')
  if subject and string.find(subjects, ',' .. subject .. ',', 1, true) then
    names, count = names .. name .. ',', count + 1
  else
    redis.call('HDEL', account, field)
  end
end
if count == 0 then
  redis.call('HDEL', account, 'n' .. id)
  redis.call('ZREM', derived, owner .. id)
else
  redis.call('HSET', account, 'n' .. id, names)
  redis.call('ZADD', derived, count, owner .. id)
end
remember(call, text(s.generation))
return { text(now), 'D', text(s.generation), old }
