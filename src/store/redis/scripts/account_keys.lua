-- Before every script about an account. Its keys share a slot, and all of them are named, so that moving a slot
-- to another master never hides one of them.
--
-- KEYS  account   hash, all of one account:
--                   's'          ids of its sign-ins, the oldest first, 22 letters each
--                   'h' .. id    'L:generation:created:used:idle:absolute:offline:key:' and the sealed entry, which a request
--                                reads in one piece; or what a removal left: 'X:cause:until'
--                   't' .. id    hashes of its access tokens, with commas
--                   'n' .. id    names of its downstream tokens, with commas
--                   'd' .. id .. name   'subject:ends:' and the sealed token
--                   'm'          mark
--                   'r' .. call  what was answered of late
--       ending    sorted set: fields of the hash that end by themselves, by when
--       due       sorted set of the bucket: account .. id, by when its time is up
--       items, ready, age   outbox of the bucket
--       derived   sorted set of the bucket: account .. id, by the number of its downstream tokens
--       news      no key: in a cluster the channel of the bucket, else 'prefix:{bucket}:news:database', of which the one
--                 channel is what is left without the bucket
-- ARGV[3]         the account

local account, ending, due, items, ready, age, derived, news = unpack(KEYS)
local owner = ARGV[3]
