//! All schedules of small scenarios: each call of the store waits before it has its effect and before it is answered, each refresh at
//! the provider until it is answered in one of several ways, and each action until it begins. A schedule is which of them
//! goes on next, again and again; depth-first, every list of choices is tried.
//!
//! Most bugs of this kind need few switches between tasks, so in `scripts/test` only so many are made where the task could have gone on
//! (as CHESS does); `RACE_SWITCHES=…` allows so many more. A schedule that fails is named by its choices, and `RACE_CHOICES=…` replays it.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crate::gates::{Fate, Gates};
use crate::provider::{Keys, Outcome};
use crate::store::Pace;
use crate::world::{Caller, Meant, Mode, World, block_on};
use crate::{Random, number};

const BROWSER: usize = 0;
const ACCOUNT: usize = 0;

/// Longer than the lifetime of the first access token.
const PAST_THE_TOKEN: Duration = Duration::from_secs(11);

/// More turns than lie between the moment that something goes on and the next call that waits.
const TURNS: usize = 30;

/// Something that begins when the schedule says so.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// A handler that runs already acquires.
    Acquire,
    /// A new request acquires.
    Request,
    DropCaller,
    SignOut,
    SignInAgain,
    BackChannel,
    RemovedElsewhere,
    Sweep,
    Pass(u64),
}

/// How old the token is that a running handler holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Age {
    New,
    /// Past half of its life.
    Due,
    Expired,
}

struct Scenario {
    token: Age,
    actions: &'static [Action],
    outcomes: &'static [Outcome],
    /// How many calls of the store may fail.
    failures: usize,
    /// Switches between tasks that could have gone on, in `scripts/test`.
    switches: usize,
}

/// One option of a choice.
#[derive(Clone, Copy)]
enum Next {
    Begin(usize, Action),
    Call(&'static str, u64, Fate),
    Answer(Outcome),
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(_, action) => write!(f, "{action:?} begins"),
            Self::Call(call, _, Fate::Fine) => write!(f, "{call} goes on"),
            Self::Call(call, _, fate) => write!(f, "{call} fails: {fate:?}"),
            Self::Answer(outcome) => write!(f, "the provider: {outcome:?}"),
        }
    }
}

/// Which option was taken of how many, choice by choice.
#[derive(Clone, Default)]
struct Choices {
    made: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    fn choose(&mut self, of: usize) -> usize {
        let at = self.at;
        self.at += 1;
        match self.made.get(at) {
            Some((chosen, before)) => {
                assert!(
                    *before == of || *before == 0,
                    "the schedule did not repeat itself"
                );
                assert!(*chosen < of, "there is no such choice");
                *chosen
            }
            None => {
                self.made.push((0, of));
                0
            }
        }
    }

    /// The next list in depth-first order.
    fn next(mut self) -> Option<Self> {
        while let Some((chosen, of)) = self.made.pop() {
            if chosen + 1 < of {
                self.made.push((chosen + 1, of));
                self.at = 0;
                return Some(self);
            }
        }
        None
    }

    fn named(&self) -> String {
        let chosen = self.made.iter().map(|(chosen, _)| chosen.to_string());
        chosen.collect::<Vec<_>>().join(".")
    }

    fn parse(text: &str) -> Self {
        let chosen = text.split('.').map(|one| one.parse().expect("a number"));
        Self {
            made: chosen.map(|chosen| (chosen, 0)).collect(),
            at: 0,
        }
    }
}

/// A schedule that is being made.
struct Run<'s> {
    scenario: &'s Scenario,
    gates: Arc<Gates>,
    world: World,
    to_begin: Vec<(usize, Action)>,
    failures: usize,
    switches: usize,
    /// The call that the task that went on last came to.
    own: Option<u64>,
    story: Vec<String>,
}

impl<'s> Run<'s> {
    async fn new(scenario: &'s Scenario, keys: &Arc<Keys>, switches: usize) -> Self {
        let elsewhere = |action: &Action| matches!(action, Action::RemovedElsewhere);
        let mode = match scenario.failures {
            0 if scenario.actions.iter().any(elsewhere) => Mode::SharedStore,
            0 => Mode::OneNode,
            _ => Mode::FailingStore,
        };
        let gates = Arc::new(Gates::default());
        let pace = Pace::Chosen(gates.clone());
        let mut world = World::new(mode, Random::new(1), pace, keys);
        let lifetime = match scenario.token {
            Age::Expired => 10,
            Age::New | Age::Due => 2 * 3600,
        };
        let lifetime = Duration::from_secs(lifetime);
        world.sign_in(BROWSER, ACCOUNT, lifetime);
        world.requests_end().await;
        world.acquire(BROWSER, "", false);
        world.requests_end().await;
        assert_eq!(world.held.lock().unwrap().len(), 1);
        match scenario.token {
            Age::New => {}
            Age::Due => world.pass_time(lifetime * 9 / 10).await,
            Age::Expired => world.pass_time(PAST_THE_TOKEN).await,
        }
        world.turns(TURNS).await;
        gates.close();
        Self {
            scenario,
            gates,
            world,
            to_begin: scenario.actions.iter().copied().enumerate().collect(),
            failures: scenario.failures,
            switches,
            own: None,
            story: Vec::new(),
        }
    }

    async fn go_on(&mut self, choices: &mut Choices) {
        loop {
            self.world.turns(TURNS).await;
            self.world.check();
            let options = self.options();
            if options.is_empty() {
                break;
            }
            let next = options[choices.choose(options.len())];
            self.story.push(next.to_string());
            let arrived = self.gates.arrived();
            self.take(next).await;
            self.world.turns(TURNS).await;
            self.own = Some(self.gates.arrived()).filter(|now| *now > arrived);
        }
        self.gates.open();
        self.world.finish().await;
    }

    /// What the task does that went on last, and if there is a switch left, what others do.
    fn options(&self) -> Vec<Next> {
        let waiting = self.gates.waiting();
        let of_call = |(call, may_fail, at): (&'static str, bool, u64)| {
            let fates = match may_fail && self.failures > 0 {
                true => &[Fate::Fine, Fate::NotReached, Fate::AnswerLost][..],
                false => &[Fate::Fine],
            };
            fates.iter().map(move |fate| Next::Call(call, at, *fate))
        };
        let own = waiting.iter().copied().find(|one| Some(one.2) == self.own);
        let mut options: Vec<Next> = own.into_iter().flat_map(of_call).collect();
        if own.is_some() && self.switches == 0 {
            return options;
        }
        let others = waiting
            .iter()
            .copied()
            .filter(|one| Some(one.2) != self.own);
        options.extend(others.flat_map(of_call));
        if !self.world.provider.0.lock().unwrap().waiting.is_empty() {
            let outcomes = self.scenario.outcomes.iter();
            options.extend(outcomes.map(|outcome| Next::Answer(*outcome)));
        }
        // Of those that do the same only the first: their order makes no difference.
        let mut begun: Vec<String> = Vec::new();
        for (at, action) in &self.to_begin {
            let name = format!("{action:?}");
            if !begun.contains(&name) {
                begun.push(name);
                options.push(Next::Begin(*at, *action));
            }
        }
        options
    }

    async fn take(&mut self, next: Next) {
        let own = self.own.is_some_and(|own| {
            let mut waiting = self.gates.waiting().into_iter();
            waiting.any(|one| one.2 == own)
        });
        if own && !matches!(next, Next::Call(_, at, _) if Some(at) == self.own) {
            self.switches -= 1;
        }
        let world = &mut self.world;
        match next {
            Next::Call(_, at, fate) => {
                self.failures -= usize::from(fate != Fate::Fine);
                self.gates.let_go(at, fate);
            }
            Next::Answer(outcome) => world.provider.answer(0, outcome),
            Next::Begin(at, action) => {
                self.to_begin.retain(|(one, _)| *one != at);
                match action {
                    Action::Acquire => world.acquire_held(0, "", false),
                    Action::Request => world.acquire(BROWSER, "", false),
                    Action::DropCaller => world.drop_caller(0, Caller::Acquires),
                    Action::SignOut => world.sign_out(BROWSER),
                    Action::SignInAgain => {
                        let lifetime = Duration::from_secs(3600);
                        world.sign_in(BROWSER, ACCOUNT, lifetime);
                    }
                    Action::BackChannel => {
                        world.back_channel(Meant::Subject(format!("user-{ACCOUNT}")));
                    }
                    Action::RemovedElsewhere => world.remove_account().await,
                    Action::Sweep => world.sweep(),
                    Action::Pass(seconds) => world.pass_time(Duration::from_secs(seconds)).await,
                }
            }
        }
    }
}

fn look_at_all(scenario: &Scenario) {
    let thread = std::thread::current();
    let name = thread
        .name()
        .expect("tests run in threads with their names");
    let keys = Arc::new(Keys::new());
    let switches = scenario.switches + number("RACE_SWITCHES").unwrap_or(0) as usize;
    let replayed = std::env::var("RACE_CHOICES").ok();
    if replayed.is_some() {
        crate::trace();
    }
    let mut choices = replayed.as_deref().map(Choices::parse).unwrap_or_default();
    let mut count = 0_u64;
    loop {
        count += 1;
        let mut story = Vec::new();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            block_on(async {
                let mut run = Run::new(scenario, &keys, switches).await;
                let gone_on = AssertUnwindSafe(run.go_on(&mut choices));
                let outcome = futures_util::FutureExt::catch_unwind(gone_on).await;
                story = std::mem::take(&mut run.story);
                outcome
            })
        }));
        if !matches!(outcome, Ok(Ok(()))) {
            let made = choices.named();
            panic!(
                "schedule {count} failed: {story:#?}\nreplay it with RACE_CHOICES={made} RACE_SWITCHES={} and the test's name, {name}",
                switches - scenario.switches
            );
        }
        if replayed.is_some() {
            return;
        }
        match choices.next() {
            Some(next) => choices = next,
            None => break,
        }
    }
    println!("{name}: all {count} schedules with up to {switches} switches");
    assert!(count > 10, "there is much to choose");
}

const USUAL: Scenario = Scenario {
    token: Age::Expired,
    actions: &[],
    outcomes: &[Outcome::Rotated],
    failures: 0,
    switches: 1,
};

const EVERY_OUTCOME: &[Outcome] = &[
    Outcome::Rotated,
    Outcome::Kept,
    Outcome::Busy,
    Outcome::Lost,
    Outcome::Cut,
    Outcome::Garbage,
    Outcome::Refused,
];

#[test]
fn two_acquires_and_a_sign_out_r29_r31_a2() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::Acquire, Action::SignOut],
        ..USUAL
    });
}

#[test]
fn every_answer_of_the_provider_and_a_sign_out_r30_r31_a2() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::SignOut],
        outcomes: EVERY_OUTCOME,
        ..USUAL
    });
}

#[test]
fn an_acquire_a_sign_out_and_a_sign_in_again_r31_a2() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::SignOut, Action::SignInAgain],
        ..USUAL
    });
}

#[test]
fn an_acquire_and_a_logout_by_the_provider_r23_r31() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::BackChannel],
        ..USUAL
    });
}

#[test]
fn a_refresh_ahead_of_time_and_a_sign_out_r29_r31() {
    look_at_all(&Scenario {
        token: Age::Due,
        actions: &[Action::Acquire, Action::Acquire, Action::SignOut],
        ..USUAL
    });
}

#[test]
fn a_caller_that_leaves_another_that_stays_and_a_sign_out_r29_r31() {
    look_at_all(&Scenario {
        actions: &[
            Action::Acquire,
            Action::DropCaller,
            Action::Request,
            Action::SignOut,
        ],
        switches: 0,
        ..USUAL
    });
}

#[test]
fn an_answer_that_comes_after_the_time_out_and_the_lease_r30() {
    look_at_all(&Scenario {
        actions: &[
            Action::Acquire,
            Action::Pass(11),
            Action::Pass(31),
            Action::Acquire,
        ],
        outcomes: &[Outcome::Rotated, Outcome::Lost],
        switches: 0,
        ..USUAL
    });
}

#[test]
fn the_end_of_a_lifetime_during_a_refresh_r31_r42() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::Pass(3 * 3600), Action::Sweep],
        ..USUAL
    });
}

#[test]
fn a_store_that_fails_once_during_a_refresh_and_a_sign_out_r31_a5() {
    look_at_all(&Scenario {
        actions: &[Action::Acquire, Action::SignOut],
        failures: 1,
        ..USUAL
    });
}

/// A handler that runs has a token that is good still.
#[test]
fn a_sign_out_here_at_the_same_time_as_one_on_another_node_r31_a6() {
    look_at_all(&Scenario {
        token: Age::New,
        actions: &[Action::Acquire, Action::SignOut, Action::RemovedElsewhere],
        ..USUAL
    });
}
