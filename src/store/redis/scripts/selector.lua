-- Before the scripts about a selector.
--
-- KEYS  members   sorted set: addresses, by when they end if nobody takes them out
--       mark      string: its mark
--       all       sorted set of the bucket of selectors: selector .. address, by the same time; this is what is counted
-- ARGV[3]         the selector

local members, mark, all = unpack(KEYS)
local selector = ARGV[3]

local function leave(address)
  redis.call('ZREM', members, address)
  redis.call('ZREM', all, selector .. address)
end

local function enter(address, ends)
  redis.call('ZADD', members, text(ends), address)
  redis.call('ZADD', all, text(ends), selector .. address)
  keep(members, ends)
  keep(all, ends)
end

redis.call('ZREMRANGEBYSCORE', members, '-inf', text(now))
local ended = redis.call('ZRANGEBYSCORE', all, '-inf', text(now), 'LIMIT', 0, PURGE)
if #ended > 0 then
  redis.call('ZREM', all, unpack(ended))
end
