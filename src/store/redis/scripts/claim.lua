-- Claims a name. ARGV[5..]: for how long, room. Answers 'H', 'T' if it is taken, 'F' if there is no room; and whether it is
-- new.

local have = get()
if have then
  return { text(now), have.holder == holder and not have.settled and 'H' or 'T', 0 }
end
if tonumber(ARGV[6]) <= 0 then
  return { text(now), 'F', 0 }
end
put(0, now + tonumber(ARGV[5]))
return { text(now), 'H', 1 }
