-- The items that a holder still has. ARGV[3]: holder. Answers as `outbox_take` did.

local found = {}
for id in string.gmatch(redis.call('HGET', items, 'h' .. ARGV[3]) or '', '([^,]+),') do
  local item, ends = outbox_read(id), tonumber(redis.call('ZSCORE', ready, id))
  local is_young = item and tonumber(item.created) + OUTBOX_AGE > now
  if is_young and ends and ends > now then
    local body = redis.call('HGET', items, 'p' .. id)
    found[#found + 1] = { id, item.kind, item.account, item.created, math.max(0, item.handed - 1), body }
  end
end
return { text(now), found }
