//! Signing out elsewhere against what happens there at the same time, each order held by a gate.
