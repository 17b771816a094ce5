-- Keeps a token that was obtained with one of a sign-in's tokens. ARGV[4..]: id, name, subject, end of its life (empty if
-- unknown), the sealed token.

local MOST = 64
local id, name, subject, ends, body = unpack(ARGV, 4, 8)
local s = live(id)
if not s then
  return { text(now), 0 }
end
local subjects = redis.call('HGET', account, 't' .. id) or ''
if not string.find(subjects, ',' .. subject .. ',', 1, true) then
  return { text(now), 0 }
end

local names, count, first, first_ends = {}, 0, nil, nil
for have in string.gmatch(redis.call('HGET', account, 'n' .. id) or '', '([^,]+),') do
  if have ~= name then
    count = count + 1
    names[count] = have
  end
end
if count >= MOST then
  -- The one that ends first leaves; one of unknown end leaves last.
  for at, have in ipairs(names) do
    local value = redis.call('HGET', account, 'd' .. id .. have) or ''
    local its = tonumber(string.match(value, '^[^:]*:(%d*):')) or math.huge
    if not first or its < first_ends then
      first, first_ends = at, its
    end
  end
  redis.call('HDEL', account, 'd' .. id .. names[first])
  table.remove(names, first)
end
names[#names + 1] = name
redis.call('HSET', account, 'd' .. id .. name, subject .. ':' .. ends .. ':' .. body,
  'n' .. id, table.concat(names, ',') .. ',')
redis.call('ZADD', derived, #names, owner .. id)
keep(derived, s.ends + OVERDUE)
return { text(now), 1 }
