-- Takes a lease. ARGV[5..]: for how long, room. Answers 'H' or 'B' with what is left of it, 'F' if there is no room; and
-- whether it is new.

local have = get()
if have then
  return { text(now), have.holder == holder and 'H' or 'B', 0, text(have.ends - now) }
end
if tonumber(ARGV[6]) <= 0 then
  return { text(now), 'F', 0 }
end
put(0, now + tonumber(ARGV[5]))
return { text(now), 'H', 1, ARGV[5] }
