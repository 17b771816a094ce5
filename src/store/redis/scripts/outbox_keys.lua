-- Before the scripts about the outbox alone. KEYS: items, ready, age of the bucket.

local items, ready, age = unpack(KEYS)
