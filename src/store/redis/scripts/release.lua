-- Gives a claim or a lease back, unless it was settled.

local have = get()
if have and have.holder == holder and not have.settled then
  drop()
end
return { text(now) }
