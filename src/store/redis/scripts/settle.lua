-- Keeps a claim. ARGV[5]: for how long.

local have = get()
if not have or have.holder ~= holder then
  return { text(now), 0 }
end
if not have.settled then
  put(1, now + tonumber(ARGV[5]))
end
return { text(now), 1 }
