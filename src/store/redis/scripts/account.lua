local ID = 22

local function clear_some()
  local ended = redis.call('ZRANGEBYSCORE', ending, '-inf', text(now), 'LIMIT', 0, PURGE)
  if #ended > 0 then
    redis.call('HDEL', account, unpack(ended))
    redis.call('ZREM', ending, unpack(ended))
  end
end

-- At maxmemory Redis refuses the first write of a script that may take more memory, and none after another write. So what
-- must go on there begins with this one, which changes nothing.
local function begin_writing()
  redis.call('HDEL', account, '')
end

-- A field that ends by itself.
local function put_ending(field, value, ends)
  redis.call('HSET', account, field, value)
  redis.call('ZADD', ending, text(ends), field)
  keep(account, ends)
  keep(ending, ends)
end

local function remember(call, answer)
  put_ending('r' .. call, answer, now + WINDOW)
end

local function recall(call)
  local ends = redis.call('ZSCORE', ending, 'r' .. call)
  if ends and tonumber(ends) > now then
    return redis.call('HGET', account, 'r' .. call)
  end
  return nil
end

-- When that was answered first.
local function recalled_at(call)
  return text(tonumber(redis.call('ZSCORE', ending, 'r' .. call)) - WINDOW)
end

-- The sign-in, or else the cause that its removal left and until when.
local function read(id)
  local kept = redis.call('HGET', account, 'h' .. id)
  if not kept then
    return nil
  end
  local generation, created, used, idle, absolute, offline, key, body_at =
    string.match(kept, '^L:(%d+):(%d+):(%d+):(%d+):(%d+):(%d):([^:]*):()')
  if not generation then
    local cause, ends = string.match(kept, '^X:(%a+):(%d+)$')
    if ends and tonumber(ends) > now then
      return nil, cause, tonumber(ends)
    end
    return nil
  end
  local s = {
    id = id,
    generation = tonumber(generation),
    created = tonumber(created),
    used = tonumber(used),
    idle = tonumber(idle),
    absolute = tonumber(absolute),
    offline = offline,
    key = key,
    body = string.sub(kept, body_at),
  }
  local by_idle, by_age = s.used + s.idle, s.created + s.absolute
  s.ends = math.min(by_idle, by_age)
  s.why = by_age <= by_idle and 'Absolute' or 'Idle'
  return s
end

local function live(id)
  local s = read(id)
  if s and s.ends > now then
    return s
  end
  return nil
end

local function write(s)
  s.ends = math.min(s.used + s.idle, s.created + s.absolute)
  local head = 'L:' .. text(s.generation) .. ':' .. text(s.created) .. ':' .. text(s.used) .. ':' .. text(s.idle) .. ':'
    .. text(s.absolute) .. ':' .. s.offline .. ':' .. s.key .. ':'
  redis.call('HSET', account, 'h' .. s.id, head .. s.body)
  redis.call('ZADD', due, text(s.ends), owner .. s.id)
  keep(account, s.ends + OVERDUE)
  keep(due, s.ends + OVERDUE)
end

local function ids()
  local all = {}
  for id in string.gmatch(redis.call('HGET', account, 's') or '', string.rep('.', ID)) do
    all[#all + 1] = id
  end
  return all
end

local function write_ids(all)
  if #all == 0 then
    redis.call('HDEL', account, 's')
    -- Without a sign-in the account is kept for as long as the last of what ends by itself.
    local last = redis.call('ZRANGE', ending, -1, -1, 'WITHSCORES')
    if last[2] then
      redis.call('PEXPIRE', account, milliseconds(tonumber(last[2])))
    end
  else
    redis.call('HSET', account, 's', table.concat(all))
  end
end

-- Tells every node that its copy of a sign-in is stale. Nothing fails where that is not allowed, or not known yet.
local function announce(what, id, cause)
  local message = what .. ':' .. owner .. ':' .. id .. (cause and ':' .. cause or '')
  local prefix, channel = string.match(news, '^(.*):{%x%x}(:news:%d+)$')
  if prefix then
    redis.pcall('PUBLISH', prefix .. channel, message)
  else
    redis.pcall('SPUBLISH', news, message)
  end
end

-- Leaves the cause of the first removal, for as long as the longest.
local function bury(id, cause, mark_for)
  local _, had, had_until = read(id)
  local ends = math.max(now + math.max(mark_for, WINDOW), had_until or 0)
  put_ending('h' .. id, 'X:' .. (had or cause) .. ':' .. text(ends), ends)
end

-- Why a sign-in leaves to make room: one whose time is up has ended by that.
local function leaving(s)
  return s.ends <= now and s.why or 'Capacity'
end

local function drop_derived(id)
  local fields = { 'n' .. id }
  for name in string.gmatch(redis.call('HGET', account, 'n' .. id) or '', '([^,]+),') do
    fields[#fields + 1] = 'd' .. id .. name
  end
  redis.call('HDEL', account, unpack(fields))
  redis.call('ZREM', derived, owner .. id)
  return #fields - 1
end

-- Takes a sign-in out. `how` has cause, revoke, mark_for, and room: how many items the outbox has room for. Returns what
-- the caller is told of it.
local function take_out(s, cause, how)
  local all, others = ids(), 0
  local left = {}
  for _, id in ipairs(all) do
    if id ~= s.id then
      left[#left + 1] = id
    end
  end
  others = #left
  local count = drop_derived(s.id)
  redis.call('HDEL', account, 't' .. s.id, 'h' .. s.id)
  redis.call('ZREM', due, owner .. s.id)
  bury(s.id, cause, how.mark_for)
  write_ids(left)
  announce('E', s.id, cause)
  local wanted = how.revoke == 'All' or (how.revoke == 'UnlessOffline' and s.offline == '0')
    or (how.revoke == 'OnlySignIn' and others == 0)
  local waits = 0
  -- An address is used once, so its id serves as the item's name.
  if wanted and outbox_has(s.id) then
    waits = 1
  elseif wanted and how.room > 0 then
    outbox_put(s.id, 'e', owner, s.body)
    how.room = how.room - 1
    waits = 1
  end
  return { s.id, text(s.created), text(s.used), cause, count, waits, s.body }
end
