//! One random schedule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::Random;
use crate::provider::{Keys, Outcome};
use crate::store::Pace;
use crate::world::{ACCOUNTS, Caller, Meant, Mode, World, block_on};

const STEPS: usize = 40;

/// In percent, how many calls of a failing store fail, now and then all of them.
const FAILING: usize = 8;

/// What happened, and how often.
pub fn run(mode: Mode, seed: u64, keys: &Arc<Keys>) -> BTreeMap<&'static str, usize> {
    let mut random = Random::new(seed);
    let pace = Pace::Chance {
        random: Random::new(random.draw()),
        failing: if mode == Mode::FailingStore {
            FAILING
        } else {
            0
        },
    };
    block_on(async {
        let mut world = World::new(mode, random, pace, keys);
        world.provider.0.lock().unwrap().revocation_busy = 30;
        for _ in 0..STEPS {
            step(&mut world).await;
            world.check();
        }
        world.finish().await;
        world.tally()
    })
}

async fn step(world: &mut World) {
    let browser = world.browser();
    let what = world.random.below(100);
    tracing::info!(what, browser, "step");
    match what {
        0..20 => {
            let scope = scope(world);
            let refused = world.random.percent(30);
            world.acquire(browser, scope, refused);
        }
        20..30 => acquire_held(world),
        // Many at once.
        30..34 => {
            for _ in 0..2 + world.random.below(4) {
                acquire_held(world);
            }
        }
        34..46 => {
            let account = world.random.below(ACCOUNTS);
            let lifetime = [10, 500, 3600][world.random.below(3)];
            let lifetime = Duration::from_secs(lifetime);
            world.sign_in(browser, account, lifetime);
        }
        46..52 => world.sign_out(browser),
        52..55 => {
            let meant = match world.random.percent(50) {
                true => Meant::Sid(world.some_sid()),
                false => Meant::Subject(format!("user-{}", world.random.below(ACCOUNTS))),
            };
            world.back_channel(meant);
        }
        55..57 => {
            let sid = world.some_sid();
            world.front_channel(sid);
        }
        57..59 => world.end_others(browser),
        59..64 => {
            let which = world.random.below(100);
            let of = match world.random.percent(70) {
                true => Caller::Acquires,
                false => Caller::DoesSomethingElse,
            };
            world.drop_caller(which, of);
        }
        64..86 => answer(world),
        86..96 => {
            let seconds = [1, 1, 5, 11, 31, 31, 400, 400, 2700, 3600, 3 * 3600];
            let seconds = seconds[world.random.below(seconds.len())];
            world.pass_time(Duration::from_secs(seconds)).await;
        }
        96 => world.sweep(),
        _ => match world.mode {
            Mode::OneNode => {}
            Mode::FailingStore => {
                let percent = [FAILING, FAILING, 100][world.random.below(3)];
                world.store.fail(percent);
            }
            Mode::SharedStore => world.remove_account().await,
        },
    }
    let turns = world.random.below(12);
    world.turns(turns).await;
}

fn scope(world: &mut World) -> &'static str {
    ["", "", "", "x", "y"][world.random.below(5)]
}

fn acquire_held(world: &mut World) {
    let scope = scope(world);
    let held = world.held.lock().unwrap().len();
    if held > 0 {
        let which = world.random.below(held);
        let refused = world.random.percent(30);
        world.acquire_held(which, scope, refused);
    }
}

fn answer(world: &mut World) {
    let waiting = world.provider.0.lock().unwrap().waiting.len();
    if waiting == 0 {
        return;
    }
    let outcome = match world.random.below(20) {
        0..10 => Outcome::Rotated,
        10..13 => Outcome::Kept,
        13..15 => Outcome::Busy,
        15..17 => Outcome::Lost,
        17 => Outcome::Cut,
        18 => Outcome::Garbage,
        _ => Outcome::Refused,
    };
    let which = world.random.below(waiting);
    world.provider.answer(which, outcome);
}
