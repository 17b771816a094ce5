-- Before every script that touches the outbox of a bucket.
--
-- items  hash: 'i' .. id = 'kind:account:created:handed out:holder', 'p' .. id = what is to be revoked,
--        'h' .. holder = the ids that it holds, with commas
-- ready  sorted set: id by the time from which it can be handed out (again)
-- age    sorted set: id by the time it came in

local function outbox_read(id)
  local info = redis.call('HGET', items, 'i' .. id)
  if not info then
    return nil
  end
  local kind, account, created, handed, holder = string.match(info, '^(%a):([^:]*):(%d+):(%d+):([^:]*)$')
  return { kind = kind, account = account, created = created, handed = tonumber(handed), holder = holder }
end

local function outbox_write(id, item)
  local info = item.kind .. ':' .. item.account .. ':' .. item.created .. ':' .. text(item.handed) .. ':' .. item.holder
  redis.call('HSET', items, 'i' .. id, info)
end

-- Each item that has a holder is in that one's list, and in no other.
local function outbox_let_go(id, item)
  if item.holder == '' then
    return
  end
  local field = 'h' .. item.holder
  local held = redis.call('HGET', items, field) or ''
  -- Not as a pattern: ids have hyphens.
  local first, last = string.find(held, id .. ',', 1, true)
  if first then
    held = string.sub(held, 1, first - 1) .. string.sub(held, last + 1)
  end
  if held == '' then
    redis.call('HDEL', items, field)
  else
    redis.call('HSET', items, field, held)
  end
  item.holder = ''
end

local function outbox_drop(id)
  local item = outbox_read(id)
  if item then
    outbox_let_go(id, item)
  end
  redis.call('HDEL', items, 'i' .. id, 'p' .. id)
  redis.call('ZREM', ready, id)
  redis.call('ZREM', age, id)
end

local function outbox_purge(limit)
  local aged = redis.call('ZRANGEBYSCORE', age, '-inf', text(now - OUTBOX_AGE), 'LIMIT', 0, limit)
  for _, id in ipairs(aged) do
    outbox_drop(id)
  end
  return #aged
end

-- An item of that name that is there already stays as it is.
local function outbox_put(id, kind, account, payload)
  redis.call('HSET', items, 'i' .. id, kind .. ':' .. account .. ':' .. text(now) .. ':0:', 'p' .. id, payload)
  redis.call('ZADD', ready, text(now), id)
  redis.call('ZADD', age, text(now), id)
  for _, key in ipairs({ items, ready, age }) do
    keep(key, now + OUTBOX_AGE)
  end
end

local function outbox_has(id)
  return redis.call('HEXISTS', items, 'i' .. id) == 1
end
