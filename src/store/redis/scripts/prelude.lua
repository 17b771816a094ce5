-- Before every script: the time, and what keys and marks have in common.
--
-- ARGV[1]  the store's time in microseconds; empty for this server's own clock
-- ARGV[2]  milliseconds that keys live longer than they are good for (0, but with a clock of a test's own)
--
-- All numbers are below 2^53, which Lua's doubles hold exactly. An answer begins with the time.

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[1])
end
local slack = tonumber(ARGV[2])

-- For how long an answer is remembered, and an item of the outbox kept.
local WINDOW = 60 * 1000000
local OUTBOX_AGE = 24 * 3600 * 1000000
-- How long a sign-in whose time is up waits to be collected.
local OVERDUE = 24 * 3600 * 1000000
-- How much of what has ended a call clears away: more than it can add.
local PURGE = 16

local function text(number)
  return string.format('%.0f', number)
end

local function milliseconds(ends)
  return text(math.max(1, math.ceil((ends - now) / 1000) + slack))
end

-- Keeps a key at least until then.
local function keep(key, ends)
  local wanted = milliseconds(ends)
  local left = redis.call('PTTL', key)
  if left ~= -2 and left < tonumber(wanted) then
    redis.call('PEXPIRE', key, wanted)
  end
end

-- A mark is 'firm:dated:iat:until': the latest removal without a logout token's iat, the latest with one, the latest of
-- those iat, and when it ends. Either kind alone would weaken the other.
local function mark_read(mark)
  local firm, dated, iat, ends = string.match(mark or '', '^(%d*):(%d*):(%-?%d*):(%d+)$')
  if not ends or tonumber(ends) <= now then
    return nil
  end
  return { firm = tonumber(firm), dated = tonumber(dated), iat = tonumber(iat), ends = tonumber(ends) }
end

-- `at` is when it was left, if that is not now.
local function mark_add(old, mark_for, iat, at)
  at = at or now
  local mark = mark_read(old) or { ends = 0 }
  if iat == '' then
    mark.firm = math.max(mark.firm or 0, at)
  else
    mark.dated = math.max(mark.dated or 0, at)
    mark.iat = math.max(mark.iat or tonumber(iat), tonumber(iat))
  end
  mark.ends = math.max(mark.ends, at + mark_for)
  local function field(number)
    return number and text(number) or ''
  end
  return field(mark.firm) .. ':' .. field(mark.dated) .. ':' .. field(mark.iat) .. ':' .. text(mark.ends), mark.ends
end

-- Whether a sign-in that started then, with an ID token of that iat, came too late.
local function mark_refuses(old, at, iat)
  local mark = mark_read(old)
  if not mark then
    return false
  end
  at, iat = tonumber(at), tonumber(iat)
  if mark.firm and at and mark.firm >= at then
    return true
  end
  if not mark.dated or (iat and iat > mark.iat) then
    return false
  end
  if at then
    return mark.dated >= at
  end
  return iat ~= nil
end
