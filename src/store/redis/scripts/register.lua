-- Adds an address, for a while at least. ARGV[4..]: address, start, iat, for how long, room, whether only one that is there
-- is prolonged. Answers 'D', 'R' if the selector was closed after the start, 'F' if there is no room; and whether it is new.

local address, at, iat, long, room, only = unpack(ARGV, 4, 9)
local ends = now + tonumber(long)
local had = tonumber(redis.call('ZSCORE', members, address))
if only == '1' then
  if had then
    enter(address, math.max(had, ends))
  end
  return { text(now), 'D', 0 }
end
if mark_refuses(redis.call('GET', mark), at, iat) then
  return { text(now), 'R', 0 }
end
if not had and tonumber(room) <= 0 then
  return { text(now), 'F', 0 }
end
enter(address, math.max(had or 0, ends))
return { text(now), 'D', had and 0 or 1 }
