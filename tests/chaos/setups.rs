//! The worlds that all of this is played in, and how much later than at once a sign-out may hold there.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub name: &'static str,
    pub redis: Redis,
    /// Whether the nodes keep copies in memory.
    pub tier: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// One server, which has written down whatever it acknowledged.
    Alone,
    /// Three masters of that kind, which are killed one at a time.
    Cluster,
    /// One server, which comes back as it was when it was last saved.
    Forgetful,
}

pub const ALONE: Setup = Setup {
    name: "alone",
    redis: Redis::Alone,
    tier: false,
};

pub const TIER: Setup = Setup {
    name: "tier",
    redis: Redis::Alone,
    tier: true,
};

pub const CLUSTER: Setup = Setup {
    name: "cluster",
    redis: Redis::Cluster,
    tier: true,
};

pub const OLDER_SNAPSHOT: Setup = Setup {
    name: "older-snapshot",
    redis: Redis::Forgetful,
    tier: false,
};

impl Setup {
    /// For a process of its own.
    pub fn named(name: &str) -> Self {
        let all = [ALONE, TIER, CLUSTER, OLDER_SNAPSHOT];
        let mut all = all.into_iter();
        all.find(|one| one.name == name).expect("one of these")
    }

    pub fn is_cluster(&self) -> bool {
        self.redis == Redis::Cluster
    }

    /// Whether what was acknowledged may be lost.
    pub fn forgets(&self) -> bool {
        self.redis == Redis::Forgetful
    }

    /// For how long after a sign-out has returned another node may begin a look-up that has its tokens, as `MemoryTier` states it for
    /// announcements whose connection was cut.
    pub fn heard_within(&self) -> Duration {
        match self.tier {
            true => Duration::from_secs(3),
            false => Duration::ZERO,
        }
    }
}
