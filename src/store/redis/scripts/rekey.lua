-- Gives a sign-in a new key. ARGV[4..]: id, key, new key.

local id, key, new = unpack(ARGV, 4, 6)
local s = live(id)
if s and s.key == key then
  s.key = new
  write(s)
  announce('C', id)
end
return { text(now), s and s.key == new and 1 or 0 }
