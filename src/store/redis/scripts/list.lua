-- The account's sign-ins, the newest first: id, head with entry.

local found = {}
local all = ids()
for n = #all, 1, -1 do
  if live(all[n]) then
    found[#found + 1] = { all[n], redis.call('HGET', account, 'h' .. all[n]) }
  end
end
return { text(now), found }
