use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::thread;

use super::super::head::Head;
use super::super::news::BEAT_LIMIT;
use super::*;
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::{Clock as _, ManualClock};
use crate::id::{SessionKey, SignInId};
use crate::store::{Entry, Generation, Lifetimes};
use crate::token::TokenSet;

const SECOND: Duration = Duration::from_secs(1);

/// A tier with a clock that stands still, and somebody who is signed in.
struct World {
    tier: Tier,
    time: Time,
    clock: Arc<ManualClock>,
    ann: Address,
    key: KeyHash,
}

fn somebody(name: &[u8]) -> Address {
    Address {
        account: AccountHash::of(&[name]),
        id: SignInId::random(),
    }
}

fn entry() -> Arc<Entry> {
    Arc::new(Entry {
        account: Account::new("https://login.example.com", "ann"),
        client_id: "app".into(),
        tokens: TokenSet::new().with_refresh_token("secret"),
        lifetimes: Lifetimes {
            idle: 600 * SECOND,
            absolute: 6000 * SECOND,
        },
        selectors: [].into(),
        label: None,
    })
}

impl World {
    /// Whose subscription does not stand yet.
    fn silent(settings: MemoryTier) -> Self {
        let clock = Arc::new(ManualClock::new());
        Self {
            tier: Tier::new(&settings),
            time: Time::new(false).given(Some(clock.clone())),
            clock,
            ann: somebody(b"ann"),
            key: SessionKey::random().hash(),
        }
    }

    fn of(settings: MemoryTier) -> Self {
        let world = Self::silent(settings);
        world.tier.stands(&Buckets::ALL);
        world
    }

    fn new() -> Self {
        Self::of(MemoryTier::new())
    }

    fn found(&self) -> Option<Stored> {
        self.tier.find(&self.ann, &self.key, &self.time)
    }

    /// The answer to a load comes in; what it brings, to be watched.
    fn answer(&self, load: Load<'_>, generation: u64, size: usize) -> Weak<Entry> {
        let now = self.clock.steady();
        let micros = now.as_micros();
        let (idle, absolute) = (600_000_000, 6_000_000_000_u64);
        let head = format!(
            "L:{generation}:{micros}:{micros}:{idle}:{absolute}:0:{}:",
            self.key
        );
        let Some(Head::Live(live)) = Head::parse(head.as_bytes()) else {
            panic!("a head");
        };
        let entry = entry();
        let watched = Arc::downgrade(&entry);
        let stored = Stored {
            entry,
            generation: live.generation,
            created: live.created,
            last_used: live.last_used,
            expires: live.end().0,
            touch_due: false,
        };
        load.keep(&live, &stored, size, now);
        watched
    }

    fn load(&self) -> Option<Load<'_>> {
        self.tier.load(&self.ann, &self.time)
    }

    fn loaded(&self) -> Weak<Entry> {
        let load = self.load().expect("the subscription stands");
        self.answer(load, 1, 100)
    }

    fn load_of(&self, address: &Address) -> Weak<Entry> {
        let load = self.tier.load(address, &self.time).unwrap();
        self.answer(load, 1, 100)
    }
}

fn is_wiped(entry: &Weak<Entry>) -> bool {
    entry.upgrade().is_none()
}

/// Whatever makes a copy stale.
type Invalidation = fn(&World);

const INVALIDATIONS: [(&str, Invalidation); 7] = [
    ("it has ended elsewhere", |world| {
        let (address, cause) = (world.ann, Cause::BackChannel);
        world.tier.heard(&News::Ended { address, cause });
    }),
    ("it is another one elsewhere", |world| {
        let address = world.ann;
        world.tier.heard(&News::Changed { address });
    }),
    ("this node changes it", |world| {
        drop(world.tier.change(&world.ann.account, Some(&world.ann)));
    }),
    ("this node removes all of its account", |world| {
        drop(world.tier.change(&world.ann.account, None));
    }),
    (
        "a call of this node was begun, and nobody knows more",
        |world| {
            std::mem::forget(world.tier.change(&world.ann.account, None));
        },
    ),
    ("announcements were missed", |world| {
        world.tier.lost(&Buckets::ALL);
        world.tier.stands(&Buckets::ALL);
    }),
    ("announcements may be missed", |world| {
        world.tier.lost(&Buckets::ALL);
    }),
];

#[test]
fn a_copy_is_not_served_after_what_makes_it_stale_a6() {
    for (name, invalidate) in INVALIDATIONS {
        let world = World::new();
        world.loaded();
        assert!(world.found().is_some(), "{name}");
        invalidate(&world);
        assert!(world.found().is_none(), "{name}");
    }
}

#[test]
fn a_load_that_overlaps_an_invalidation_is_not_kept_a6() {
    for (name, invalidate) in INVALIDATIONS {
        let world = World::new();
        let load = world.load().unwrap();
        invalidate(&world);
        world.answer(load, 1, 100);
        assert!(world.found().is_none(), "{name}");
        // Nor when all is well again, as far as the subscription goes.
        let load = world.load();
        world.tier.stands(&Buckets::ALL);
        if let Some(load) = load {
            world.answer(load, 1, 100);
        }
        assert!(world.found().is_none(), "{name}");
        world.loaded();
        assert!(world.found().is_some(), "{name}: the next one is kept");
    }
}

#[test]
fn a_load_that_is_answered_while_a_call_of_this_node_runs_is_not_kept_beyond_it() {
    let world = World::new();
    let change = world.tier.change(&world.ann.account, None);
    world.loaded();
    // Cancelled, as when its caller has gone away.
    drop(change);
    assert!(world.found().is_none());
}

#[test]
fn nothing_is_kept_before_the_subscription_stands_or_after_it_is_lost() {
    let world = World::silent(MemoryTier::new());
    assert!(world.load().is_none());
    assert_eq!(world.tier.stats().bypassed, 256);
    let bucket = world.ann.account.bucket();
    let mine: Buckets = [bucket].into_iter().collect();
    world.tier.stands(&mine);
    world.loaded();
    assert!(world.found().is_some());
    assert_eq!(world.tier.stats().bypassed, 255);
    // Another master's.
    world.tier.lost(&Buckets::ALL.without(&mine));
    assert!(world.found().is_some());
    world.tier.lost(&mine);
    assert!(world.load().is_none() && world.found().is_none());
}

/// As it is for a process that stood still: nothing has told it that anything was lost.
#[test]
fn once_the_heartbeat_is_overdue_no_copy_is_served() {
    let world = World::new();
    world.loaded();
    let overdue = Moment::ago(BEAT_LIMIT);
    world.tier.standing.pretend(overdue);
    assert!(world.found().is_none());
    assert_eq!(world.tier.stats().bypassed, 256);
    // One that was sent before the pause and is read after it says nothing of what came since.
    world.tier.beat(&Buckets::ALL, overdue);
    assert!(world.found().is_none());
    world.tier.beat(&Buckets::ALL, Moment::now());
    assert!(world.found().is_some(), "nothing was missed");
    // That another connection is there instead does not bring back what was loaded before.
    world.tier.standing.pretend(overdue);
    world.tier.stands(&Buckets::ALL);
    assert!(world.found().is_none());
}

#[test]
fn a_heartbeat_of_a_connection_that_is_lost_makes_nothing_stand() {
    let world = World::new();
    world.loaded();
    world.tier.lost(&Buckets::ALL);
    world.tier.beat(&Buckets::ALL, Moment::now());
    assert!(world.found().is_none() && world.load().is_none());
}

#[test]
fn a_copy_gets_as_old_as_was_set_counted_from_before_its_load_was_sent() {
    let world = World::of(MemoryTier::new().good_for(5 * SECOND));
    let load = world.load().unwrap();
    world.clock.advance(4 * SECOND);
    world.answer(load, 1, 100);
    assert!(world.found().is_some());
    world.clock.advance(SECOND - Duration::from_micros(1));
    assert!(world.found().is_some());
    world.clock.advance(Duration::from_micros(1));
    assert!(world.found().is_none());
    let TierStats { hits, misses, .. } = world.tier.stats();
    assert_eq!((hits, misses), (2, 1));
}

#[test]
fn a_copy_tells_that_its_use_is_to_be_noted_until_that_is_begun() {
    let world = World::of(MemoryTier::new().good_for(60 * SECOND));
    world.loaded();
    let interval = entry().lifetimes.touch_interval();
    world.clock.advance(interval - Duration::from_micros(1));
    assert!(!world.found().unwrap().touch_due);
    world.clock.advance(Duration::from_micros(1));
    assert!(world.found().unwrap().touch_due);
    let _touch = world.tier.change(&world.ann.account, Some(&world.ann));
    assert!(world.found().is_none());
}

#[test]
fn another_key_or_the_end_of_its_time_are_for_redis_to_judge() {
    let mut world = World::of(MemoryTier::new().good_for(60 * SECOND));
    world.loaded();
    let other = SessionKey::random().hash();
    assert!(world.tier.find(&world.ann, &other, &world.time).is_none());
    assert!(world.found().is_some());
    // Loaded just before its end.
    let used = world.clock.steady();
    world.clock.advance(590 * SECOND);
    let head = format!(
        "L:1:{0}:{0}:600000000:6000000000:0:{1}:",
        used.as_micros(),
        world.key
    );
    let Some(Head::Live(live)) = Head::parse(head.as_bytes()) else {
        panic!("a head");
    };
    let stored = Stored {
        entry: entry(),
        generation: Generation(1),
        created: used,
        last_used: used,
        expires: live.end().0,
        touch_due: true,
    };
    let load = world.load().unwrap();
    load.keep(&live, &stored, 100, world.clock.steady());
    assert!(world.found().is_some());
    world.clock.advance(10 * SECOND);
    assert!(world.found().is_none(), "its time is up");
    world.key = other;
    assert!(world.found().is_none());
}

#[test]
fn there_are_no_more_copies_than_was_set_and_those_that_leave_are_wiped() {
    let world = World::of(MemoryTier::new().max_sign_ins(100));
    let all: Vec<_> = (0..1000_u32)
        .map(|n| world.load_of(&somebody(&n.to_be_bytes())))
        .collect();
    let count = world.tier.stats().sign_ins;
    assert!((1..=100).contains(&count), "{count}");
    let left = all.iter().filter(|entry| !is_wiped(entry)).count();
    assert_eq!(left as u64, count);
}

#[test]
fn a_sign_in_of_unusual_size_is_not_copied() {
    let world = World::new();
    let load = world.load().unwrap();
    world.answer(load, 1, LARGEST + 1);
    assert!(world.found().is_none());
    let load = world.load().unwrap();
    world.answer(load, 1, LARGEST);
    assert!(world.found().is_some());
}

#[test]
fn tokens_do_not_outlive_their_copy() {
    let world = World::new();
    let first = world.loaded();
    let second = world.loaded();
    assert!(is_wiped(&first) && !is_wiped(&second), "replaced");
    world.tier.forget(&world.ann);
    assert!(is_wiped(&second), "forgotten");
    let third = world.loaded();
    drop(world.tier.change(&world.ann.account, Some(&world.ann)));
    assert!(is_wiped(&third), "changed");
    let last = world.loaded();
    drop(world);
    assert!(is_wiped(&last), "the store is gone");
}

#[tokio::test]
async fn a_copy_that_nobody_asks_for_is_wiped_when_it_is_too_old() {
    let good_for = Duration::from_millis(100);
    let world = World::of(MemoryTier::new().good_for(good_for));
    let entry = world.loaded();
    assert!(!is_wiped(&entry));
    let deadline = tokio::time::Instant::now() + 20 * SECOND;
    while !is_wiped(&entry) {
        assert!(tokio::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(good_for / 4).await;
    }
}

/// Loads, announcements and look-ups at the same time: no look-up that begins after an announcement was heard finds anything older.
#[test]
fn in_no_order_of_events_is_anything_served_that_is_older_than_what_was_heard_a6() {
    let world = World::new();
    let (in_redis, heard) = (AtomicU64::new(1), AtomicU64::new(1));
    let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let Some(load) = world.load() else { continue };
                    let generation = in_redis.load(Ordering::SeqCst);
                    world.answer(load, generation, 100);
                }
            });
        }
        let reader = threads.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let known = heard.load(Ordering::SeqCst);
                if let Some(stored) = world.found() {
                    assert!(stored.generation >= Generation(known), "stale");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for generation in 2..1_000_000 {
            if generation > 20_000 && served.load(Ordering::SeqCst) > 100 {
                break;
            }
            in_redis.store(generation, Ordering::SeqCst);
            match generation % 64 {
                0 => {
                    world.tier.lost(&Buckets::ALL);
                    world.tier.stands(&Buckets::ALL);
                }
                n if n % 2 == 0 => {
                    let address = world.ann;
                    world.tier.heard(&News::Changed { address });
                }
                _ => drop(world.tier.change(&world.ann.account, None)),
            }
            heard.store(generation, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    assert!(served.into_inner() > 0);
}
