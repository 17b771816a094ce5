-- Puts an item back. ARGV[3..]: id, how often it had been handed out before, after how long. Only for the holder that was
-- handed it last: another's late answer must not take it away from that one.

local id, before, after = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local item = outbox_read(id)
if item and item.holder ~= '' and item.handed == before + 1 then
  outbox_let_go(id, item)
  outbox_write(id, item)
  redis.call('ZADD', ready, text(now + after), id)
end
return { text(now) }
