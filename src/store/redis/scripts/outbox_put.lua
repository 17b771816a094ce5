-- Puts an item. ARGV[3..]: id, account, what is to be revoked, room. Answers whether it is there, and whether it is new.

local id, owner, payload, room = unpack(ARGV, 3, 6)
outbox_purge(PURGE)
if outbox_has(id) then
  return { text(now), 1, 0 }
end
if tonumber(room) <= 0 then
  return { text(now), 0, 0 }
end
outbox_put(id, 'r', owner, payload)
return { text(now), 1, 1 }
