-- Marks the selector again, with the time of the first. ARGV[4..]: that time, for how long, iat of the logout token.

local written, ends = mark_add(redis.call('GET', mark), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[4]))
if ends > now then
  redis.call('SET', mark, written, 'PX', milliseconds(ends))
end
return { text(now), 0 }
