-- Puts a sign-in. ARGV[4..]: id, key, start, iat, call, revoke, mark_for, idle, absolute, offline, subjects, entry,
-- most of the account, room in the outbox. Answers 'D' with those that had to leave, 'O' if another is there, 'R' if it
-- came too late.

local id, key, at, iat, call, revoke, mark_for = unpack(ARGV, 4, 10)
local idle, absolute, offline, subjects, body, most, room = unpack(ARGV, 11, 17)
local how = { revoke = revoke, mark_for = tonumber(mark_for), room = tonumber(room) }
call = call .. 'c' .. id
clear_some()

local s, cause = read(id)
local answer = recall(call)
if s then
  if s.key ~= key or s.ends <= now then
    return { text(now), 'O' }
  end
  return { text(now), 'D', answer and answer ~= 'R' and cmsgpack.unpack(answer) or {}, 0 }
end
if cause or answer == 'R' then
  return { text(now), 'R' }
end
-- Of its start on, no mark is sure to be there still.
local too_late = at ~= '' and now - tonumber(at) >= how.mark_for
if too_late or mark_refuses(redis.call('HGET', account, 'm'), at, iat) then
  remember(call, 'R')
  return { text(now), 'R' }
end

local evicted = {}
local all = ids()
while #all >= tonumber(most) do
  local oldest
  for _, other in ipairs(all) do
    local have = read(other)
    if have and (not oldest or have.used < oldest.used) then
      oldest = have
    end
  end
  if not oldest then
    break
  end
  evicted[#evicted + 1] = take_out(oldest, leaving(oldest), how)
  all = ids()
end

all[#all + 1] = id
write({
  id = id, generation = 1, created = now, used = now, idle = tonumber(idle), absolute = tonumber(absolute),
  offline = offline, key = key, body = body,
})
redis.call('HSET', account, 't' .. id, subjects, 's', table.concat(all))
if #evicted > 0 then
  remember(call, cmsgpack.pack(evicted))
end
return { text(now), 'D', evicted, 1 }
