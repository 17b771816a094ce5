-- Hands items out. ARGV[3..]: holder, for how long, how many at most. Answers id, kind, account, created, how often it was
-- handed out before, what is to be revoked.

local holder, hold, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
repeat until outbox_purge(PURGE) == 0
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ready, '-inf', text(now), 'LIMIT', 0, limit)) do
  local item = outbox_read(id)
  if item then
    outbox_let_go(id, item)
    found[#found + 1] = { id, item.kind, item.account, item.created, item.handed, redis.call('HGET', items, 'p' .. id) }
    item.holder = holder
    item.handed = item.handed + 1
    outbox_write(id, item)
    redis.call('HSET', items, 'h' .. holder, (redis.call('HGET', items, 'h' .. holder) or '') .. id .. ',')
    redis.call('ZADD', ready, text(now + hold), id)
  else
    redis.call('ZREM', ready, id)
  end
end
return { text(now), found }
