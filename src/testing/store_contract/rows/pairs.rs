//! Every two operations on one account, in either order and at once, with everything checked that must hold whatever
//! the order was.

use std::sync::Arc;

use crate::cause::Cause;
use crate::id::{Locator, OperationId, Selector, SessionKey};
use crate::store::{
    Created, Entry, Generation, Lookup, Removal, Removed, Replaced, Started, Stored, Target,
    TokenStore,
};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, StoreUnderTest, account, locator};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// The account's second sign-in, registered and started before everything else.
    Create,
    Load,
    Get,
    List,
    Touch,
    Replace,
    Rekey,
    PutDerived,
    GetDerived,
    RemoveOne,
    RemoveOneAt,
    RemoveAll,
    /// All but the second.
    RemoveOthers,
    /// The selector of both, and each member.
    Close,
}

const OPS: [Op; 14] = [
    Op::Create,
    Op::Load,
    Op::Get,
    Op::List,
    Op::Touch,
    Op::Replace,
    Op::Rekey,
    Op::PutDerived,
    Op::GetDerived,
    Op::RemoveOne,
    Op::RemoveOneAt,
    Op::RemoveAll,
    Op::RemoveOthers,
    Op::Close,
];

impl Op {
    /// Whether the first sign-in is gone for sure afterwards.
    fn ends_the_first(self) -> bool {
        use Op::{Close, RemoveAll, RemoveOne, RemoveOthers};
        matches!(self, RemoveOne | RemoveAll | RemoveOthers | Close)
    }

    /// Whether the second is, although it may be created later.
    fn ends_the_second(self) -> bool {
        matches!(self, Op::RemoveAll | Op::Close)
    }
}

#[derive(Debug)]
enum Outcome {
    Created(Created),
    Looked(Option<Stored>),
    Listed(usize),
    Touched(bool),
    Replaced(Replaced),
    Rekeyed(bool),
    Kept(bool),
    Derived(bool),
    Removed(Vec<Removed>),
}

/// One account with one sign-in, and a second that is about to be created.
#[derive(Clone)]
struct Stage {
    test: StoreUnderTest,
    first: Locator,
    second: Locator,
    new_key: SessionKey,
    selector: Selector,
    started: Started,
}

impl Stage {
    async fn new(test: &StoreUnderTest, number: u64) -> Self {
        let account = account(number);
        let selector = Selector::sid("https://login.example.com", "app", &number.to_string());
        let started = test.started().await;
        let first = test
            .sign_in_with(&account, entry_of("first", &[selector]))
            .await;
        let put = test
            .store()
            .put_downstream(&first.address, derived("x", "access first"));
        assert!(put.await.unwrap());
        let second = locator(&account);
        test.register(&selector, &second.address, &started).await;
        Self {
            test: test.clone(),
            first,
            second,
            new_key: SessionKey::random(),
            selector,
            started,
        }
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        Arc::new(entry_of(name, &[self.selector]))
    }

    fn rekeyed(&self) -> Locator {
        Locator {
            key: self.new_key.clone(),
            ..self.first.clone()
        }
    }

    async fn perform(&self, op: Op, removal: &Removal) -> Outcome {
        let (test, store) = (&self.test, self.test.store());
        let address = &self.first.address;
        let account = address.account;
        match op {
            Op::Create => {
                let entry = self.entry("second");
                let create = store.create(&self.second, entry, &self.started, removal);
                Outcome::Created(create.await.unwrap())
            }
            Op::Load => Outcome::Looked(test.live(&self.first).await),
            Op::Get => Outcome::Looked(test.get(address).await.live()),
            Op::List => {
                let list = store.list(&account).await.unwrap();
                let firsts = list.iter().filter(|info| info.address == *address);
                Outcome::Listed(firsts.count())
            }
            Op::Touch => Outcome::Touched(store.touch(address).await.unwrap()),
            Op::Replace => {
                let (entry, generation) = (self.entry("replaced"), Generation::FIRST);
                let replace = store.replace_if(address, generation, entry, removal.operation);
                Outcome::Replaced(replace.await.unwrap())
            }
            Op::Rekey => {
                let new_key = self.new_key.hash();
                let rekey = store.rekey(&self.first, &new_key);
                Outcome::Rekeyed(rekey.await.unwrap())
            }
            Op::PutDerived => {
                let put = store.put_downstream(address, derived("y", "access first"));
                Outcome::Kept(put.await.unwrap())
            }
            Op::GetDerived => Outcome::Derived(test.derived(address, "x").await.is_some()),
            Op::RemoveOne => Outcome::Removed(test.remove(Target::SignIn(*address), removal).await),
            Op::RemoveOneAt => {
                let target = Target::SignInAt(*address, Generation::FIRST);
                Outcome::Removed(test.remove(target, removal).await)
            }
            Op::RemoveAll => Outcome::Removed(test.remove(Target::Account(account), removal).await),
            Op::RemoveOthers => {
                let target = Target::AccountExcept(account, self.second.address.id);
                Outcome::Removed(test.remove(target, removal).await)
            }
            Op::Close => {
                let mut removed = Vec::new();
                for member in test.close(&self.selector, removal).await {
                    removed.extend(test.remove(Target::SignIn(member), removal).await);
                }
                Outcome::Removed(removed)
            }
        }
    }

    /// What must hold whichever of the two came first. `collected` is what expiry took.
    async fn check(&self, done: &[(Op, Outcome)], collected: &[Removed], again: bool) {
        let story = format!("{:?}", done.iter().map(|(op, _)| *op).collect::<Vec<_>>());
        let test = &self.test;
        let mut removed: Vec<&Removed> = collected.iter().collect();
        for (at, (_, outcome)) in done.iter().enumerate() {
            // A repetition returns what the first call did; it must not count twice.
            if again && at > 0 {
                break;
            }
            match outcome {
                Outcome::Removed(gone) => removed.extend(gone),
                Outcome::Created(Created::Done { evicted }) => removed.extend(evicted),
                _ => {}
            }
        }
        let of = |locator: &Locator| -> Vec<&Removed> {
            let mine = |removed: &&&Removed| removed.address == locator.address;
            removed.iter().filter(mine).copied().collect()
        };
        let has = |op: Op| done.iter().any(|(had, _)| *had == op);
        let count = |wanted: fn(&Outcome) -> bool| {
            done.iter().filter(|(_, outcome)| wanted(outcome)).count()
        };
        let (first, second) = (of(&self.first), of(&self.second));

        // The first sign-in is taken out once, or it is there.
        assert!(first.len() <= 1, "{story}: taken out twice");
        let must_end = done.iter().any(|(op, _)| op.ends_the_first()) || !collected.is_empty();
        let may_end = must_end || has(Op::RemoveOneAt);
        assert!(!must_end || first.len() == 1, "{story}: not taken out");
        assert!(may_end || first.is_empty(), "{story}: taken out by nobody");

        // Writes over one generation: one wins, and what it wrote is what is there, or what was taken out.
        let won = count(|outcome| matches!(outcome, Outcome::Replaced(Replaced::Done(_))));
        let lost = count(|outcome| matches!(outcome, Outcome::Replaced(Replaced::Changed)));
        assert!(again || won <= 1, "{story}: two writes won");
        assert!(lost == 0 || won == 1, "{story}: lost to nobody");
        let there = test.get(&self.first.address).await.live();
        let last = there
            .as_ref()
            .map(|stored| &*stored.entry)
            .or(first.first().map(|removed| &*removed.entry));
        let expected = if won > 0 {
            "refresh replaced"
        } else {
            "refresh first"
        };
        assert_eq!(last.map(refresh_token), Some(expected), "{story}");

        let rekeyed = count(|outcome| matches!(outcome, Outcome::Rekeyed(true))) > 0;
        if first.is_empty() {
            let stored = there.expect("it is there, nobody took it out");
            let generation = Generation(1 + u64::from(won > 0));
            assert_eq!(stored.generation, generation, "{story}");
            let by_old = test.live(&self.first).await.is_some();
            let by_new = test.live(&self.rekeyed()).await.is_some();
            assert_eq!((by_old, by_new), (!rekeyed, rekeyed), "{story}: keys");
            let derived = test.derived(&self.first.address, "x").await.is_some();
            assert_eq!(derived, won == 0, "{story}: derived tokens");
            if won > 0 {
                assert_eq!(
                    test.derived(&self.first.address, "y").await,
                    None,
                    "{story}"
                );
            }
        } else {
            test.assert_gone(&self.first, &story).await;
            test.assert_gone(&self.rekeyed(), &story).await;
            let found = test.get(&self.first.address).await;
            assert!(matches!(found, Lookup::Gone(Some(_))), "{story}: no cause");
        }

        // The second is there exactly if it was created and not taken out; never if something ended what had begun.
        let created =
            count(|outcome| matches!(outcome, Outcome::Created(Created::Done { .. }))) > 0;
        let there = test.live(&self.second).await.is_some();
        assert!(second.len() <= 1, "{story}: the second taken out twice");
        assert_eq!(there, created && second.is_empty(), "{story}: the second");
        assert!(
            created || second.is_empty(),
            "{story}: taken out, not created"
        );
        if done.iter().any(|(op, _)| op.ends_the_second()) {
            assert!(!there, "{story}: the second came back");
        } else if has(Op::Create) && !has(Op::RemoveOthers) {
            assert!(created, "{story}: refused for nothing");
        }
        if !there {
            test.assert_gone(&self.second, &story).await;
        }

        // In the outbox is what was taken out, and nothing else.
        let take = test.store().outbox_take(OperationId::random(), MINUTE);
        let items = take.await.unwrap();
        let mut waiting: Vec<_> = items
            .iter()
            .map(|item| item.retained.tokens.refresh_token().unwrap().secret())
            .collect();
        let mut expected: Vec<_> = removed
            .iter()
            .map(|removed| refresh_token(&removed.entry))
            .collect();
        waiting.sort_unstable();
        expected.sort_unstable();
        assert_eq!(waiting, expected, "{story}: outbox");
        assert!(removed.iter().all(|removed| removed.to_revoke), "{story}");
        for item in &items {
            test.store().outbox_done(item).await.unwrap();
        }
    }

    /// After an operation that ended the first sign-in, nothing makes use of it.
    fn check_order(done: &[(Op, Outcome)]) {
        let [(before, _), (after, outcome)] = done else {
            return;
        };
        if !before.ends_the_first() {
            return;
        }
        let unused = match outcome {
            Outcome::Looked(found) => found.is_none(),
            Outcome::Listed(count) => *count == 0,
            Outcome::Touched(used) | Outcome::Rekeyed(used) => !used,
            Outcome::Kept(used) | Outcome::Derived(used) => !used,
            Outcome::Replaced(replaced) => *replaced == Replaced::Gone,
            Outcome::Created(_) => true,
            Outcome::Removed(removed) => {
                let first = |removed: &Removed| refresh_token(&removed.entry) != "refresh second";
                !removed.iter().any(first)
            }
        };
        assert!(unused, "{before:?} then {after:?}: {outcome:?}");
    }

    async fn clean_up(self) {
        let store = self.test.store();
        let account = self.first.address.account;
        let target = Target::Account(account);
        self.test.remove(target, &removal(Cause::Operator)).await;
        let second = &self.second.address;
        store.unregister(&self.selector, second).await.unwrap();
    }
}

pub async fn any_two_operations_in_either_order(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut number = 0;
    for before in OPS {
        for after in OPS {
            number += 1;
            let stage = Stage::new(&test, number).await;
            let mut done = Vec::new();
            for op in [before, after] {
                let removal = revoking(Cause::BackChannel);
                done.push((op, stage.perform(op, &removal).await));
            }
            Stage::check_order(&done);
            // The second creation of the same sign-in is a repetition of the first.
            stage.check(&done, &[], false).await;
            stage.clean_up().await;
        }
    }
    test.assert_nothing_stays().await;
}

pub async fn any_two_operations_at_once(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut number = 0;
    for (at, one) in OPS.into_iter().enumerate() {
        for other in OPS.into_iter().skip(at) {
            for round in 0..test.round_count() {
                number += 1;
                let stage = Stage::new(&test, number).await;
                let (a, b) = (stage.clone(), stage.clone());
                let outcomes = at_once(
                    round % 64,
                    async move { a.perform(one, &revoking(Cause::UserSignOut)).await },
                    async move { b.perform(other, &revoking(Cause::BackChannel)).await },
                );
                let (a, b) = outcomes.await;
                stage.check(&[(one, a), (other, b)], &[], false).await;
                stage.clean_up().await;
            }
        }
    }
    test.assert_nothing_stays().await;
}

pub async fn any_operation_at_once_with_expiry(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut number = 0;
    for op in OPS.into_iter().filter(|op| *op != Op::Create) {
        for round in 0..test.round_count() {
            number += 1;
            let stage = Stage::new(&test, number).await;
            test.advance(IDLE + MINUTE).await;
            let (a, b) = (stage.clone(), test.clone());
            let outcomes = at_once(
                round % 64,
                async move { a.perform(op, &revoking(Cause::UserSignOut)).await },
                async move {
                    let removal = revoking(Cause::Operator);
                    b.store().due(&removal).await.unwrap()
                },
            );
            let (outcome, collected) = outcomes.await;
            let used = match &outcome {
                Outcome::Looked(found) => found.is_some(),
                Outcome::Listed(count) => *count > 0,
                Outcome::Touched(used) | Outcome::Rekeyed(used) => *used,
                Outcome::Kept(used) | Outcome::Derived(used) => *used,
                Outcome::Replaced(replaced) => *replaced != Replaced::Gone,
                Outcome::Created(_) | Outcome::Removed(_) => false,
            };
            assert!(!used, "{op:?} made use of an expired sign-in: {outcome:?}");
            let by_op = matches!(&outcome, Outcome::Removed(removed) if !removed.is_empty());
            assert_ne!(by_op, !collected.is_empty(), "{op:?}: by one of the two");
            stage.check(&[(op, outcome)], &collected, false).await;
            stage.clean_up().await;
        }
    }
    test.assert_nothing_stays().await;
}

pub async fn any_operation_at_once_with_its_own_repetition(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut number = 0;
    for op in OPS {
        for round in 0..test.round_count() {
            number += 1;
            let stage = Stage::new(&test, number).await;
            let removal = revoking(Cause::UserSignOut);
            let (a, b) = (stage.clone(), stage.clone());
            let outcomes = at_once(
                round % 64,
                async move { a.perform(op, &removal).await },
                async move { b.perform(op, &removal).await },
            );
            let (a, b) = outcomes.await;
            let told = |outcome: &Outcome| match outcome {
                Outcome::Removed(removed) => format!("{:?}", summary(removed)),
                Outcome::Created(created) => format!("{}", is_done(created)),
                Outcome::Looked(found) => format!("{}", found.is_some()),
                other => format!("{other:?}"),
            };
            assert_eq!(told(&a), told(&b), "{op:?} and its repetition");
            stage.check(&[(op, a), (op, b)], &[], true).await;
            stage.clean_up().await;
        }
    }
    test.assert_nothing_stays().await;
}

/// A8.
pub async fn many_sign_ins_and_sign_outs_of_one_account_at_once(factory: &dyn Factory) {
    let test = any(factory).await;
    for round in 0..test.round_count() as u64 {
        let account = account(round);
        let tasks = (0..6).map(|n| {
            let test = test.clone();
            tokio::spawn(async move {
                let (mut created, mut removed) = (Vec::new(), Vec::new());
                for _ in 0..5 {
                    if n % 3 == 0 {
                        let removal = revoking(Cause::SignOutEverywhere);
                        removed.extend(test.remove(Target::Account(account), &removal).await);
                        continue;
                    }
                    let new = locator(&account);
                    let started = test.started().await;
                    let entry = entry_of("x", &[]);
                    if is_done(&test.create(&new, entry, &started).await) {
                        created.push(new);
                    }
                }
                (created, removed)
            })
        });
        let (mut created, mut removed) = (Vec::new(), Vec::new());
        for done in futures_util::future::join_all(tasks).await {
            let (mine, gone) = done.expect("the store does not panic");
            created.extend(mine);
            removed.extend(addresses(&gone));
        }
        let last = revoking(Cause::SignOutEverywhere);
        let left = test.remove(Target::Account(account), &last).await;
        removed.extend(addresses(&left));
        let expected = created.iter().map(|locator| locator.address);
        assert_eq!(sorted(removed), sorted(expected), "each taken out once");
        for locator in &created {
            test.assert_gone(locator, "after sign out everywhere").await;
        }
    }
    test.assert_nothing_stays().await;
}
