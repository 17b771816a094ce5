-- Takes out again what a failover, or a restart from an old snapshot, has brought back. ARGV[4..]: when it was taken out first,
-- cause, revoke, mark_for, iat of the logout token, whether all of the account were meant that had been created by then, but
-- for which; then of each that was taken out: id, cause, revoke. Answers how many were there.

local at, cause, revoke, mark_for, iat, whole, keep_id = unpack(ARGV, 4, 10)
at = tonumber(at)
-- Whatever it puts into the outbox had room there before.
local how = { mark_for = tonumber(mark_for), room = math.huge }
local count = 0
begin_writing()
clear_some()

-- What is there goes first, and what may take more memory is done afterwards.
local missing = {}
for n = 11, #ARGV, 3 do
  local s = read(ARGV[n])
  if s then
    how.revoke = ARGV[n + 2]
    take_out(s, ARGV[n + 1], how)
    count = count + 1
  else
    missing[#missing + 1] = n
  end
end
if whole == '1' then
  how.revoke = revoke
  for _, id in ipairs(ids()) do
    local s = id ~= keep_id and read(id)
    -- What came later is another sign-in, which that removal did not mean.
    if s and s.created <= at then
      take_out(s, cause, how)
      count = count + 1
    end
  end
  if at + how.mark_for > now then
    local mark, ends = mark_add(redis.call('HGET', account, 'm'), how.mark_for, iat, at)
    put_ending('m', mark, ends)
  end
end
for _, n in ipairs(missing) do
  bury(ARGV[n], ARGV[n + 1], how.mark_for)
end
-- Also what was only remembered must end by itself.
write_ids(ids())
return { text(now), count }
