-- Takes sign-ins out. ARGV[4..]: call, cause, revoke, mark_for, iat of the logout token, room in the outbox, and what:
--   'one' id | 'at' id generation | 'all' | 'but' id | 'due' id … (if their time is up) | 'evict' id (by its lifetime,
--   or for want of room)

local call, cause, revoke, mark_for, iat, room, what = unpack(ARGV, 4, 10)
local first, second = ARGV[11], ARGV[12]
local how = { revoke = revoke, mark_for = tonumber(mark_for), room = tonumber(room) }
call = call .. what .. (first or '') .. (what == 'at' and second or '')
clear_some()

local answer = recall(call)
if answer then
  return { text(now), cmsgpack.unpack(answer), 0, recalled_at(call) }
end

begin_writing()
local found = {}
if what == 'all' or what == 'but' then
  for _, id in ipairs(ids()) do
    if id ~= first then
      found[#found + 1] = read(id)
    end
  end
  local mark, ends = mark_add(redis.call('HGET', account, 'm'), how.mark_for, iat)
  put_ending('m', mark, ends)
elseif what == 'due' then
  for n = 11, #ARGV do
    local s = read(ARGV[n])
    if not s then
      redis.call('ZREM', due, owner .. ARGV[n])
      redis.call('ZREM', derived, owner .. ARGV[n])
    elseif s.ends <= now then
      found[#found + 1] = s
    end
  end
else
  local s = read(first)
  if s and (what ~= 'at' or s.generation == tonumber(second)) then
    found[1] = s
  elseif not s and what == 'one' then
    -- Its creation may be under way: it must find out that it came too late.
    bury(first, cause, how.mark_for)
  end
end

local removed = {}
for n, s in ipairs(found) do
  local why = cause
  if what == 'due' then
    why = s.why
  elseif what == 'evict' then
    why = leaving(s)
  end
  removed[n] = take_out(s, why, how)
end
if #removed > 0 or (what ~= 'due' and what ~= 'evict') then
  remember(call, cmsgpack.pack(removed))
end
-- Also what was only remembered must end by itself.
write_ids(ids())
return { text(now), removed, #removed }
