-- Before the scripts about a claim or a lease.
--
-- KEYS  key   string: 'holder:settled:until'
--       all   sorted set of the bucket: names, by when they end; this is what is counted
-- ARGV[3..]   the name, the holder

local key, all = unpack(KEYS)
local name, holder = ARGV[3], ARGV[4]

local function get()
  local who, settled, ends = string.match(redis.call('GET', key) or '', '^([^:]*):(%d):(%d+)$')
  if ends and tonumber(ends) > now then
    return { holder = who, settled = settled == '1', ends = tonumber(ends) }
  end
  return nil
end

local function put(settled, ends)
  redis.call('SET', key, holder .. ':' .. settled .. ':' .. text(ends), 'PX', milliseconds(ends))
  redis.call('ZADD', all, text(ends), name)
  keep(all, ends)
end

local function drop()
  redis.call('DEL', key)
  redis.call('ZREM', all, name)
end

local ended = redis.call('ZRANGEBYSCORE', all, '-inf', text(now), 'LIMIT', 0, PURGE)
if #ended > 0 then
  redis.call('ZREM', all, unpack(ended))
end
