-- Takes an address out. ARGV[4]: address.

leave(ARGV[4])
return { text(now) }
