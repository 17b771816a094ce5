//! Random calls, compared step by step with a plain model that nobody would call fast.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, ClaimName, Locator, OperationId, Selector, SessionKey, SignInId,
};
use crate::store::{
    Claim, Created, Entry, Generation, Lease, Lifetimes, Lookup, Registered, Removal, Removed,
    Replaced, RevokeRule, Started, Target, TokenStore,
};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, StoreUnderTest, account, locator};

// Time moves by multiples of ten seconds and everything lasts for some with five more, so that no comparison depends on
// the few microseconds that pass between two calls.
const STEP: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(605);
const ABSOLUTE: Duration = Duration::from_secs(2405);
const MARK_FOR: [Duration; 2] = [Duration::from_secs(305), Duration::from_secs(615)];
const HOLD: Duration = Duration::from_secs(65);
const KEEP: Duration = Duration::from_secs(205);

/// For each of a hundred rounds of a race; a store that is asked for fewer rounds takes a while for each call.
const STEPS_A_ROUND: usize = 120;
const FEWEST_STEPS: usize = 2_000;

/// `STORE_CONTRACT_SEED` runs one seed again.
pub async fn random_operations_agree_with_a_plain_model(factory: &dyn Factory) {
    let given = std::env::var("STORE_CONTRACT_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    let fresh = elapsed.unwrap_or_default().as_micros() as u64;
    for seed in given.map_or(vec![1, fresh], |seed| vec![seed]) {
        let mut model = Model::new(any(factory).await, seed);
        let steps = (model.test.round_count() * STEPS_A_ROUND).max(FEWEST_STEPS);
        for step in 0..steps {
            model.step = step;
            model.step().await;
            if step % 100 == 0 {
                model.compare_all().await;
            }
        }
        model.compare_all().await;
        model.test.assert_nothing_stays().await;
    }
}

struct SignIn {
    locator: Locator,
    old_key: Option<SessionKey>,
    name: String,
    generation: Generation,
    created: Timestamp,
    last_used: Timestamp,
    selectors: Vec<Selector>,
    derived: BTreeSet<String>,
}

impl SignIn {
    fn end(&self) -> (Timestamp, Cause) {
        let idle = self.last_used.plus(IDLE);
        let absolute = self.created.plus(ABSOLUTE);
        if absolute <= idle {
            (absolute, Cause::Absolute)
        } else {
            (idle, Cause::Idle)
        }
    }
}

#[derive(Clone, Copy)]
struct Mark {
    time: Timestamp,
    logout_iat: Option<i64>,
    until: Timestamp,
}

impl Mark {
    fn refuses(&self, started: &Started) -> bool {
        let younger = matches!(
            (started.id_token_iat, self.logout_iat),
            (Some(iat), Some(logout)) if iat > logout
        );
        let older = matches!(
            (started.id_token_iat, self.logout_iat),
            (Some(iat), Some(logout)) if iat <= logout
        );
        match started.at {
            Some(at) => self.time >= at && !younger,
            None => older,
        }
    }
}

/// Marks that must refuse, and such that may because they were merged with later or longer ones.
fn verdicts(marks: &[Mark], started: &Started, now: Timestamp) -> (bool, bool) {
    let must = |mark: &Mark| mark.until > now && mark.refuses(started);
    let until = marks.iter().map(|mark| mark.until).max();
    let may = until.is_some_and(|until| until > now) && {
        let time = marks.iter().map(|mark| mark.time).max();
        let logout_iat = marks.iter().filter_map(|mark| mark.logout_iat).max();
        marks.iter().any(|mark| {
            let merged = Mark {
                time: time.unwrap_or(mark.time),
                logout_iat: mark.logout_iat.and(logout_iat),
                until: mark.until,
            };
            merged.refuses(started)
        })
    };
    (marks.iter().any(must), may)
}

struct Model {
    test: StoreUnderTest,
    seed: u64,
    random: u64,
    step: usize,
    named: usize,
    live: BTreeMap<SignInId, SignIn>,
    gone: Vec<(Locator, Cause, Timestamp)>,
    starts: Vec<Timestamp>,
    account_marks: HashMap<AccountHash, Vec<Mark>>,
    selector_marks: HashMap<Selector, Vec<Mark>>,
    members: HashMap<Selector, BTreeSet<SignInId>>,
    outbox: BTreeSet<String>,
    claims: HashMap<u64, (OperationId, bool, Timestamp)>,
    leases: HashMap<u64, (OperationId, Timestamp)>,
    holders: [OperationId; 3],
}

impl Model {
    fn new(test: StoreUnderTest, seed: u64) -> Self {
        Self {
            test,
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            step: 0,
            named: 0,
            live: BTreeMap::new(),
            gone: Vec::new(),
            starts: Vec::new(),
            account_marks: HashMap::new(),
            selector_marks: HashMap::new(),
            members: HashMap::new(),
            outbox: BTreeSet::new(),
            claims: HashMap::new(),
            leases: HashMap::new(),
            holders: [(); 3].map(|()| OperationId::random()),
        }
    }

    /// Xorshift.
    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % bound.max(1)
    }

    fn at(&self) -> String {
        format!("STORE_CONTRACT_SEED={} step {}", self.seed, self.step)
    }

    fn account(&mut self) -> AccountHash {
        account(self.below(4) as u64)
    }

    fn selector(&mut self) -> Selector {
        let n = self.below(6);
        Selector::sid("https://login.example.com", "app", &n.to_string())
    }

    fn iat(&mut self) -> Option<i64> {
        (self.below(2) == 0).then(|| self.below(10) as i64)
    }

    fn removal(&mut self) -> Removal {
        let causes = [Cause::UserSignOut, Cause::BackChannel, Cause::Operator];
        let revoke = [RevokeRule::Nothing, RevokeRule::All];
        Removal {
            operation: OperationId::random(),
            cause: causes[self.below(3)],
            revoke: revoke[self.below(2)],
            mark_for: MARK_FOR[self.below(2)],
            logout_iat: self.iat(),
        }
    }

    fn name(&mut self) -> String {
        self.named += 1;
        format!("n{}", self.named)
    }

    fn entry(&self, name: &str, selectors: &[Selector]) -> Arc<Entry> {
        Arc::new(Entry {
            lifetimes: Lifetimes {
                idle: IDLE,
                absolute: ABSOLUTE,
            },
            ..entry_of(name, selectors)
        })
    }

    /// A sign-in that is there, or was: mostly the former.
    fn pick(&mut self) -> Option<Locator> {
        let (live, gone) = (self.live.len(), self.gone.len());
        if live > 0 && self.below(5) > 0 {
            let at = self.below(live);
            return self.live.values().nth(at).map(|have| have.locator.clone());
        }
        let at = self.below(gone);
        self.gone.get(at).map(|(locator, ..)| locator.clone())
    }

    async fn step(&mut self) {
        match self.below(26) {
            0..=4 => self.create().await,
            5 | 6 => self.touch().await,
            7 | 8 => self.replace().await,
            9 => self.rekey().await,
            10 | 11 => self.remove().await,
            12 => self.close().await,
            13 | 14 => self.derive().await,
            15 => self.collect().await,
            16 | 17 => self.let_time_pass().await,
            18 | 19 => self.claim().await,
            20 => self.lease().await,
            21 => self.empty_outbox().await,
            22 => self.list().await,
            _ => self.look().await,
        }
    }

    async fn create(&mut self) {
        let now = self.test.now().await;
        self.starts.push(now);
        let started = Started {
            at: match self.below(4) {
                0 => None,
                1 => {
                    let back = self.below(20.min(self.starts.len()));
                    Some(self.starts[self.starts.len() - 1 - back])
                }
                _ => Some(now),
            },
            id_token_iat: self.iat(),
        };
        let new = locator(&self.account());
        let name = self.name();
        let selectors: Vec<Selector> = (0..self.below(3)).map(|_| self.selector()).collect();
        for selector in &selectors {
            let marks = self.selector_marks.get(selector);
            let (must, may) = verdicts(marks.map_or(&[], Vec::as_slice), &started, now);
            let registered = self.test.register(selector, &new.address, &started).await;
            let refused = registered == Registered::Refused;
            assert!(!must || refused, "{}: registered", self.at());
            assert!(may || !refused, "{}: refused", self.at());
            if refused {
                self.unregister(&selectors, &new.address).await;
                return;
            }
        }
        let marks = self.account_marks.get(&new.address.account);
        let (must, may) = verdicts(marks.map_or(&[], Vec::as_slice), &started, now);
        let (entry, removal) = (self.entry(&name, &selectors), self.removal());
        let late = |at: Timestamp| now.since(at) >= removal.mark_for;
        let late = started.at.is_some_and(late);
        let (must, may) = (must || late, may || late);
        let mut done = false;
        for repeat in 0..=self.below(2) {
            let store = self.test.store();
            let created = store.create(&new, entry.clone(), &started, &removal).await;
            let refused = matches!(created.unwrap(), Created::Refused);
            assert!(!must || refused, "{}: created", self.at());
            assert!(may || !refused, "{}: not created", self.at());
            assert!(repeat == 0 || done != refused, "{}: repeated", self.at());
            done = !refused;
        }
        if !done {
            self.unregister(&selectors, &new.address).await;
            return;
        }
        let stored = self.test.live(&new).await;
        let stored = stored.unwrap_or_else(|| panic!("{}: just created", self.at()));
        for selector in &selectors {
            let members = self.members.entry(*selector).or_default();
            members.insert(new.address.id);
        }
        self.live.insert(
            new.address.id,
            SignIn {
                locator: new,
                old_key: None,
                name,
                generation: Generation::FIRST,
                created: stored.created,
                last_used: stored.last_used,
                selectors,
                derived: BTreeSet::new(),
            },
        );
    }

    async fn unregister(&self, selectors: &[Selector], address: &Address) {
        for selector in selectors {
            let store = self.test.store();
            store.unregister(selector, address).await.unwrap();
        }
    }

    /// The sign-in at an address, if its time is not up.
    fn usable(&mut self, address: &Address, now: Timestamp) -> Option<&mut SignIn> {
        let have = self.live.get_mut(&address.id)?;
        (have.end().0 > now).then_some(have)
    }

    async fn touch(&mut self) {
        let Some(locator) = self.pick() else { return };
        let now = self.test.now().await;
        let touched = self.test.store().touch(&locator.address).await.unwrap();
        let story = self.at();
        let have = self.usable(&locator.address, now);
        assert_eq!(touched, have.is_some(), "{story}: touch");
        if let Some(have) = have
            && now.since(have.last_used) >= IDLE / 20
        {
            have.last_used = now;
        }
    }

    async fn replace(&mut self) {
        let Some(locator) = self.pick() else { return };
        let (now, name, story) = (self.test.now().await, self.name(), self.at());
        let off = self.below(4) == 0;
        let have = self.usable(&locator.address, now);
        let (generation, selectors) = match &have {
            Some(have) if !off => (have.generation, have.selectors.clone()),
            Some(have) => (have.generation.next(), have.selectors.clone()),
            None => (Generation::FIRST, Vec::new()),
        };
        let expected = match have {
            None => Replaced::Gone,
            Some(_) if off => Replaced::Changed,
            Some(have) => {
                have.generation = generation.next();
                have.name.clone_from(&name);
                have.derived.clear();
                Replaced::Done(generation.next())
            }
        };
        let (entry, operation) = (self.entry(&name, &selectors), OperationId::random());
        for _ in 0..=self.below(2) {
            let store = self.test.store();
            let entry = entry.clone();
            let replace = store.replace_if(&locator.address, generation, entry, operation);
            assert_eq!(replace.await.unwrap(), expected, "{story}: replace");
        }
    }

    async fn rekey(&mut self) {
        let Some(locator) = self.pick() else { return };
        let (now, new, story) = (self.test.now().await, SessionKey::random(), self.at());
        for _ in 0..=self.below(2) {
            let rekey = self.test.store().rekey(&locator, &new.hash()).await;
            let there = self.usable(&locator.address, now).is_some();
            assert_eq!(rekey.unwrap(), there, "{story}: rekey");
        }
        if let Some(have) = self.usable(&locator.address, now) {
            have.old_key = Some(std::mem::replace(&mut have.locator.key, new));
        }
    }

    async fn remove(&mut self) {
        let Some(locator) = self.pick() else { return };
        let address = locator.address;
        let now = self.test.now().await;
        let generation = match self.live.get(&address.id) {
            Some(have) if self.step.is_multiple_of(2) => have.generation,
            _ => Generation(7),
        };
        let target = match self.below(6) {
            0 => Target::Account(address.account),
            1 => Target::AccountExcept(address.account, address.id),
            2 | 3 => Target::SignInAt(address, generation),
            _ => Target::SignIn(address),
        };
        let expected: BTreeSet<SignInId> = self
            .live
            .values()
            .filter(|have| have.locator.address.account == address.account)
            .filter(|have| match target {
                Target::SignIn(_) => have.locator.address.id == address.id,
                Target::SignInAt(_, generation) => {
                    have.locator.address.id == address.id && have.generation == generation
                }
                Target::Account(_) => true,
                Target::AccountExcept(_, keep) => have.locator.address.id != keep,
            })
            .map(|have| have.locator.address.id)
            .collect();
        let removal = self.removal();
        let removed = self.test.remove(target, &removal).await;
        if matches!(target, Target::Account(_) | Target::AccountExcept(..)) {
            let marks = self.account_marks.entry(address.account).or_default();
            marks.push(Mark {
                time: now,
                logout_iat: removal.logout_iat,
                until: now.plus(removal.mark_for),
            });
        }
        if matches!(target, Target::SignIn(_)) && expected.is_empty() {
            // What is not there is remembered for longer; the cause stays that of the first.
            let until = now.plus(removal.mark_for);
            let gone = self.gone.iter_mut();
            for (_, cause, had) in gone.filter(|(had, ..)| had.address == address) {
                if *had <= now {
                    *cause = removal.cause;
                }
                *had = (*had).max(until);
            }
        }
        self.note(&removed, &expected, |_| removal.cause, &removal, now);
        if self.below(2) == 0 {
            let again = self.test.remove(target, &removal).await;
            assert_eq!(summary(&removed), summary(&again), "{}", self.at());
        }
    }

    /// Moves what the store took out, which must be what was expected.
    fn note(
        &mut self,
        removed: &[Removed],
        expected: &BTreeSet<SignInId>,
        cause: impl Fn(&SignIn) -> Cause,
        removal: &Removal,
        now: Timestamp,
    ) {
        let story = self.at();
        let ids: BTreeSet<SignInId> = removed.iter().map(|r| r.address.id).collect();
        assert_eq!(ids.len(), removed.len(), "{story}: one of them twice");
        assert_eq!(&ids, expected, "{story}: removed");
        for removed in removed {
            let Some(had) = self.live.remove(&removed.address.id) else {
                panic!("{story}: removed what was not there");
            };
            assert_eq!(removed.cause, cause(&had), "{story}: cause");
            assert_eq!(removed.created, had.created, "{story}: created");
            assert!(removed.last_used.since(had.last_used) < STEP, "{story}");
            assert_eq!(removed.downstream, had.derived.len(), "{story}: derived");
            let token = refresh_token(&removed.entry);
            assert_eq!(token, format!("refresh {}", had.name), "{story}: tokens");
            let revoke = removal.revoke == RevokeRule::All;
            assert_eq!(removed.to_revoke, revoke, "{story}: to_revoke");
            if revoke {
                self.outbox.insert(token.to_owned());
            }
            for selector in &had.selectors {
                if let Some(members) = self.members.get_mut(selector) {
                    members.remove(&removed.address.id);
                }
            }
            let until = now.plus(removal.mark_for);
            self.gone.push((had.locator, removed.cause, until));
        }
    }

    async fn close(&mut self) {
        let (selector, removal) = (self.selector(), self.removal());
        let now = self.test.now().await;
        let seen = self.test.store().members(&selector).await.unwrap();
        let closed = self.test.close(&selector, &removal).await;
        assert_eq!(sorted(seen), sorted(closed.clone()), "{}: seen", self.at());
        let ids: BTreeSet<SignInId> = closed.iter().map(|address| address.id).collect();
        let expected = self.members.get(&selector).cloned().unwrap_or_default();
        assert_eq!(ids, expected, "{}: members", self.at());
        self.selector_marks.entry(selector).or_default().push(Mark {
            time: now,
            logout_iat: removal.logout_iat,
            until: now.plus(removal.mark_for),
        });
        // Now and then whoever closed it does not come to removing.
        if self.below(4) == 0 {
            return;
        }
        for address in closed {
            let expected = BTreeSet::from([address.id]);
            let removed = self.test.remove(Target::SignIn(address), &removal).await;
            self.note(&removed, &expected, |_| removal.cause, &removal, now);
        }
        let again = self.test.close(&selector, &removal).await;
        let again: BTreeSet<SignInId> = again.iter().map(|address| address.id).collect();
        assert_eq!(again, ids, "{}: closed again", self.at());
    }

    async fn derive(&mut self) {
        let Some(locator) = self.pick() else { return };
        let (now, story) = (self.test.now().await, self.at());
        let name = format!("d{}", self.below(5));
        let stale = self.below(4) == 0;
        let have = self.usable(&locator.address, now);
        let subject = match &have {
            Some(have) if !stale => format!("access {}", have.name),
            _ => "access of another".to_owned(),
        };
        let expected = have.is_some() && !stale;
        if let Some(have) = have.filter(|_| expected) {
            have.derived.insert(name.clone());
        }
        let token = derived(&name, &subject);
        let put = self.test.store().put_downstream(&locator.address, token);
        assert_eq!(put.await.unwrap(), expected, "{story}: put_downstream");
    }

    async fn collect(&mut self) {
        let (now, removal) = (self.test.now().await, self.removal());
        let ended = |have: &&SignIn| have.end().0 <= now;
        let expected: BTreeSet<SignInId> = self
            .live
            .values()
            .filter(ended)
            .map(|have| have.locator.address.id)
            .collect();
        let removed = self.test.store().due(&removal).await.unwrap();
        self.note(&removed, &expected, |had| had.end().1, &removal, now);
    }

    async fn let_time_pass(&mut self) {
        let steps = match self.below(20) {
            0 => 100,
            n => 1 + n as u32 / 2,
        };
        self.test.advance(STEP * steps).await;
    }

    async fn claim(&mut self) {
        let (n, now, story) = (self.below(5) as u64, self.test.now().await, self.at());
        let name = ClaimName::of("model", &[&n.to_be_bytes()]);
        let holder = self.holders[self.below(3)];
        let have = self.claims.get(&n).filter(|(.., until)| *until > now);
        let have = have.copied();
        let store = self.test.store().clone();
        match self.below(3) {
            0 => {
                let expected = match have {
                    None => Claim::Held,
                    Some((had, false, _)) if had == holder => Claim::Held,
                    Some(_) => Claim::Taken,
                };
                let claim = store.claim(&name, holder, HOLD).await.unwrap();
                assert_eq!(claim, expected, "{story}: claim");
                if have.is_none() {
                    self.claims.insert(n, (holder, false, now.plus(HOLD)));
                }
            }
            1 => {
                let expected = have.is_some_and(|(had, ..)| had == holder);
                let settled = store.settle(&name, holder, KEEP).await.unwrap();
                assert_eq!(settled, expected, "{story}: settle");
                if matches!(have, Some((had, false, _)) if had == holder) {
                    self.claims.insert(n, (holder, true, now.plus(KEEP)));
                }
            }
            _ => {
                store.release(&name, holder).await.unwrap();
                if matches!(have, Some((had, false, _)) if had == holder) {
                    self.claims.remove(&n);
                }
            }
        }
    }

    async fn lease(&mut self) {
        let (n, now, story) = (self.below(3) as u64, self.test.now().await, self.at());
        let name = ClaimName::of("model", &[&n.to_be_bytes()]);
        let holder = self.holders[self.below(3)];
        let have = self.leases.get(&n).filter(|(_, until)| *until > now);
        let have = have.copied();
        let store = self.test.store();
        if self.random.is_multiple_of(3) {
            store.end_lease(&name, holder).await.unwrap();
            if have.is_some_and(|(had, _)| had == holder) {
                self.leases.remove(&n);
            }
            return;
        }
        let lease = store.lease(&name, holder, HOLD).await.unwrap();
        let (held, left) = match lease {
            Lease::Held(left) => (true, left),
            Lease::Busy(left) => (false, left),
        };
        assert_eq!(
            held,
            have.is_none_or(|(had, _)| had == holder),
            "{story}: lease"
        );
        let expected = have.map_or(HOLD, |(_, until)| until.since(now));
        assert!(left.abs_diff(expected) < STEP, "{story}: {left:?} left");
        if have.is_none() {
            self.leases.insert(n, (holder, now.plus(HOLD)));
        }
    }

    async fn empty_outbox(&mut self) {
        let store = self.test.store();
        let mut taken = BTreeSet::new();
        loop {
            let take = store.outbox_take(OperationId::random(), HOLD).await;
            let items = take.unwrap();
            if items.is_empty() {
                break;
            }
            for item in items {
                let token = item.retained.tokens.refresh_token().unwrap();
                let new = taken.insert(token.secret().to_owned());
                assert!(new, "{}: one item twice", self.at());
                store.outbox_done(&item).await.unwrap();
            }
        }
        assert_eq!(taken, self.outbox, "{}: outbox", self.at());
        self.outbox.clear();
    }

    async fn list(&mut self) {
        let account = self.account();
        self.compare_list(&account).await;
    }

    async fn compare_list(&mut self, account: &AccountHash) {
        let now = self.test.now().await;
        let mut expected: Vec<(Timestamp, Address)> = self
            .live
            .values()
            .filter(|have| have.locator.address.account == *account && have.end().0 > now)
            .map(|have| (have.created, have.locator.address))
            .collect();
        expected.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
        let list = self.test.store().list(account).await.unwrap();
        let list: Vec<_> = list
            .iter()
            .map(|info| (info.created, info.address))
            .collect();
        assert_eq!(list, expected, "{}: list", self.at());
    }

    async fn look(&mut self) {
        if let Some(locator) = self.pick() {
            self.compare(&locator).await;
        }
    }

    async fn compare(&mut self, locator: &Locator) {
        let (now, story) = (self.test.now().await, self.at());
        let address = &locator.address;
        let found = self.test.load(locator).await;
        let by_address = self.test.get(address).await.live();
        let Some(have) = self.live.get(&address.id).filter(|have| have.end().0 > now) else {
            assert!(by_address.is_none(), "{story}: get of what is gone");
            let Lookup::Gone(cause) = found else {
                panic!("{story}: load of what is gone");
            };
            let left = self.gone.iter().find(|(had, ..)| had.address == *address);
            if let Some((_, expected, until)) = left {
                let expected = (*until > now).then_some(*expected);
                assert_eq!(cause, expected, "{story}: cause");
            }
            return;
        };
        assert!(by_address.is_some(), "{story}: get");
        let Some(stored) = self.test.live(&have.locator).await else {
            panic!("{story}: load");
        };
        let token = refresh_token(&stored.entry);
        assert_eq!(token, format!("refresh {}", have.name), "{story}: tokens");
        assert_eq!(stored.generation, have.generation, "{story}: generation");
        assert_eq!(stored.created, have.created, "{story}: created");
        assert!(
            stored.last_used.since(have.last_used) < STEP,
            "{story}: last_used"
        );
        assert!(
            stored.expires.since(have.end().0) < STEP,
            "{story}: expires"
        );
        let due = now.since(have.last_used) >= IDLE / 20;
        assert_eq!(stored.touch_due, due, "{story}: touch_due");
        if let Some(old) = &have.old_key {
            let old = Locator {
                key: old.clone(),
                ..have.locator.clone()
            };
            assert!(self.test.live(&old).await.is_none(), "{story}: old key");
        }
        for n in 0..5 {
            let name = format!("d{n}");
            let there = self.test.derived(address, &name).await.is_some();
            assert_eq!(there, have.derived.contains(&name), "{story}: {name}");
        }
    }

    async fn compare_all(&mut self) {
        let live = self.live.values().map(|have| have.locator.clone());
        let gone = self.gone.iter().rev().take(50);
        let all: Vec<Locator> = live.chain(gone.map(|(gone, ..)| gone.clone())).collect();
        for locator in all {
            self.compare(&locator).await;
        }
        for n in 0..4 {
            self.compare_list(&account(n)).await;
        }
        let now = self.test.now().await;
        self.claims.retain(|_, (.., until)| *until > now);
        self.leases.retain(|_, (_, until)| *until > now);
        let stats = self.test.store().stats().await.unwrap();
        let story = self.at();
        assert_eq!(stats.sign_ins, self.live.len(), "{story}: sign-ins");
        let members: usize = self.members.values().map(BTreeSet::len).sum();
        assert_eq!(stats.selector_members, members, "{story}: members");
        let derived: usize = self.live.values().map(|have| have.derived.len()).sum();
        assert_eq!(stats.downstream, derived, "{story}: derived");
        assert_eq!(stats.outbox, self.outbox.len(), "{story}: outbox");
        let claims = self.claims.len() + self.leases.len();
        assert_eq!(stats.claims, claims, "{story}: claims");
    }
}
