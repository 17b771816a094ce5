-- The account's sign-ins, the newest first: id, head, entry.

local found = {}
local all = ids()
for n = #all, 1, -1 do
  if live(all[n]) then
    local values = redis.call('HMGET', account, 'h' .. all[n], 'b' .. all[n])
    found[#found + 1] = { all[n], values[1], values[2] or '' }
  end
end
return { text(now), found }
