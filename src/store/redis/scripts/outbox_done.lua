-- Finishes an item, whoever holds it. ARGV[3]: id.

outbox_drop(ARGV[3])
outbox_purge(PURGE)
return { text(now) }
