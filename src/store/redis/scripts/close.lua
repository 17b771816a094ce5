-- Marks the selector and answers its members. KEYS[4]: where the answer is remembered. ARGV[4..]: for how long, iat of the
-- logout token.

local answer = redis.call('GET', KEYS[4])
local ends, remembered = string.match(answer or '', '^(%d+):(.*)$')
if ends and tonumber(ends) > now then
  return { text(now), cmsgpack.unpack(remembered), text(tonumber(ends) - WINDOW) }
end
local written, until_mark = mark_add(redis.call('GET', mark), tonumber(ARGV[4]), ARGV[5])
redis.call('SET', mark, written, 'PX', milliseconds(until_mark))
local found = redis.call('ZRANGE', members, 0, -1)
redis.call('SET', KEYS[4], text(now + WINDOW) .. ':' .. cmsgpack.pack(found), 'PX', milliseconds(now + WINDOW))
return { text(now), found }
