//! What a sign-in takes besides its tokens, by an allocator that counts, and that none has a task of its own. `SIGN_INS` sets how
//! many there are; `scripts/nightly` has a million.

#[path = "support/counting.rs"]
mod counting;

use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::clock::ManualClock;
use axum_signout::store::{
    Created, Entry, Lifetimes, MemoryTokenStore, Registered, Removal, RevokeRule, Started,
    TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{
    AccessToken, Account, Auth, Cause, IdToken, OperationId, Provider, ProviderMetadata, Selector,
    TokenSet,
};
use counting::used;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};

/// Who is signed in, and the tokens: what the limit does not count.
fn content(number: u64) -> (Account, TokenSet) {
    let text = |size: usize| format!("{number:0size$}");
    let tokens = TokenSet::new()
        .with_refresh_token(text(64))
        .with_id_token(IdToken::new(text(800)))
        .with_access_token(AccessToken::bearer(text(64)).with_scopes(["openid", "profile"]));
    let issuer: Arc<str> = "https://login.example.com".into();
    (Account::new(issuer, text(16)).with_sid(text(16)), tokens)
}

/// How many, unless the environment says otherwise.
fn sign_ins() -> Option<u64> {
    Some(std::env::var("SIGN_INS").ok()?.parse().expect("a number"))
}

fn removal() -> Removal {
    Removal {
        operation: OperationId::random(),
        cause: Cause::Capacity,
        revoke: RevokeRule::Nothing,
        mark_for: Duration::from_secs(900),
        logout_iat: None,
    }
}

const IDLE: Duration = Duration::from_secs(7200);

struct Measured {
    each: usize,
    /// Of those that have left, and wait in the outbox.
    in_outbox: usize,
    /// More tasks than with an empty store.
    tasks: usize,
}

async fn measure(count: u64) -> Measured {
    let client_id: Arc<str> = "app".into();
    let contents: Vec<(Account, TokenSet)> = (0..count).map(content).collect();
    let clock = Arc::new(ManualClock::new());
    let before = used();
    let store = MemoryTokenStore::builder()
        .max_sign_ins(count as usize)
        .max_outbox(count as usize)
        .clock(clock.clone())
        .build()
        .expect("the limits are in range");
    let store = Arc::new(store);
    let auth = auth(store.clone(), clock.clone());
    // Starts what runs in the background.
    assert_eq!(auth.evict_due().await.unwrap(), 0);
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks = metrics.num_alive_tasks();
    let mut most_tasks = tasks;
    for (number, (account_of, tokens)) in contents.iter().enumerate() {
        let locator = locator(&account(number as u64));
        let selector = Selector::sid("https://login.example.com", "app", &number.to_string());
        let started = Started {
            at: Some(store.now().await.unwrap()),
            id_token_iat: None,
        };
        let registered = store.register(&selector, &locator.address, &started).await;
        assert_eq!(registered.unwrap(), Registered::Done);
        // Copied with the structure, so that only pointers to the tokens are counted: the structure is the tokens' own.
        let entry = Entry {
            account: account_of.clone(),
            client_id: client_id.clone(),
            tokens: tokens.clone(),
            lifetimes: Lifetimes {
                idle: IDLE,
                absolute: Duration::from_secs(72 * 3600),
            },
            selectors: [selector].into(),
            label: None,
        };
        let removal = removal();
        let created = store.create(&locator, Arc::new(entry), &started, &removal);
        assert!(matches!(created.await.unwrap(), Created::Done { .. }));
        most_tasks = most_tasks.max(metrics.num_alive_tasks());
    }
    let with_copies = used() - before;
    // The list of access tokens and their scopes exist twice, here and in the store.
    let begin = used();
    let copies: Vec<TokenSet> = contents.iter().map(|(_, tokens)| tokens.clone()).collect();
    let of_copies = used() - begin - copies.capacity() * size_of::<TokenSet>();
    let each = (with_copies - of_copies) / count as usize;
    drop(copies);

    // The time of all of them is up while the provider is away: what is to be revoked waits in the outbox.
    // The store's own clock has run ahead by a microsecond and more with each of them.
    clock.advance(IDLE + Duration::from_secs(60));
    // Or the sweep in the background has taken them.
    auth.evict_due().await.unwrap();
    // What was spawned on the way comes to its end, and the first attempt to revoke is made.
    let begin = Instant::now();
    while metrics.num_alive_tasks() > tasks && begin.elapsed() < Duration::from_secs(60) {
        tokio::task::yield_now().await;
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.sign_ins, stats.outbox), (0, count as usize));
    let in_outbox = (used() - before).saturating_sub(of_copies) / count as usize;
    let tasks_then = metrics.num_alive_tasks();
    Measured {
        each,
        in_outbox,
        tasks: most_tasks.max(tasks_then) - tasks,
    }
}

/// The provider is.
struct Away;

impl<'c> AsyncHttpClient<'c> for Away {
    type Error = io::Error;
    type Future = Ready<io::Result<HttpResponse>>;

    fn call(&'c self, _: HttpRequest) -> Self::Future {
        ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }
}

fn auth(store: Arc<MemoryTokenStore>, clock: Arc<ManualClock>) -> Auth {
    let url = |path: &str| format!("https://login.example.com/{path}");
    let metadata = ProviderMetadata::new(
        "https://login.example.com",
        url("authorize"),
        url("token"),
        url("keys"),
    )
    .revocation_endpoint(url("revoke"));
    let provider = Provider::with_metadata(metadata, "app").http_client(Away);
    let provider = provider.build().unwrap();
    let auth = Auth::builder(provider, "https://app.example.com");
    auth.store(store).clock(clock).build().unwrap()
}

fn check(count: u64, measured: &Measured) {
    let Measured {
        each,
        in_outbox,
        tasks,
    } = measured;
    println!("{count} sign-ins: {each} bytes each, {in_outbox} in the outbox, {tasks} more tasks");
    assert!(*each <= 512, "{each} bytes for each of {count} sign-ins");
    // What sign-ins took is kept for the next ones, and about as much again is there for the outbox and the causes.
    assert!(
        *in_outbox <= 1100,
        "{in_outbox} bytes for each of {count} that left"
    );
    assert_eq!(*tasks, 0, "no task for each of {count} sign-ins");
}

#[tokio::test]
async fn a_sign_in_takes_at_most_512_bytes_besides_its_tokens_and_no_task() {
    let counts = match sign_ins() {
        Some(count) => vec![count],
        // Both ends of how full tables are that double: just grown, and just before it.
        None => vec![100_000, 190_000],
    };
    for count in counts {
        check(count, &measure(count).await);
    }
}
