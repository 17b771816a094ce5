//! `Auth::sign_in`, for apps with a sign-in of their own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::routing::post;
use axum::{Extension, Router};
use axum_signout::store::{Removal, RevokeRule, Target, TokenStore};
use axum_signout::testing::{TestBrowser, TestProvider};
use axum_signout::{
    AccessToken, Account, AccountHash, Auth, Cause, ErrorKind, IdToken, OperationId, Ticket,
    TokenSet,
};
use base64::Engine as _;
use serde_json::{Value, json};
use tower_sessions::Session;

use crate::support::app::Setup;
use crate::world::{World, acquire};

type Arriving = (Option<Ticket>, Account, TokenSet);

/// Where a test puts who arrives next, and finds what became of it.
#[derive(Clone, Default)]
struct Desk {
    next: Arc<Mutex<Option<Arriving>>>,
    answer: Arc<Mutex<Option<Result<AccountHash, ErrorKind>>>>,
}

async fn own(desk: Extension<Desk>, auth: Auth, session: Session) {
    let (ticket, account, tokens) = desk.next.lock().unwrap().take().unwrap();
    let answer = match auth.sign_in(&session, ticket, account, tokens).await {
        Ok(_) => {
            let held: String = session.get("axum-signout").await.unwrap().unwrap();
            Ok(crate::support::held::held(&held)
                .last()
                .unwrap()
                .address
                .account)
        }
        Err(error) => Err(error.kind()),
    };
    *desk.answer.lock().unwrap() = Some(answer);
}

struct Own {
    world: World,
    desk: Desk,
}

impl Own {
    async fn new(identity: &'static [&'static str]) -> Self {
        let desk = Desk::default();
        let routes = Router::new()
            .route("/own", post(own))
            .layer(Extension(desk.clone()));
        let setup = Setup::new().routes(routes);
        let world = World::start(TestProvider::builder(), setup, move |auth| {
            auth.account_identity(identity.iter().copied())
        })
        .await;
        Self { world, desk }
    }

    async fn sign_in(
        &self,
        browser: &mut TestBrowser,
        arriving: Arriving,
    ) -> Result<AccountHash, ErrorKind> {
        *self.desk.next.lock().unwrap() = Some(arriving);
        let url = self.world.app.url("/own");
        browser.post_form(url, &[]).await.unwrap();
        self.desk.answer.lock().unwrap().take().unwrap()
    }

    fn account(&self, subject: &str) -> Account {
        Account::new(self.world.provider.issuer(), subject)
    }

    async fn ticket(&self) -> Ticket {
        self.world.app.auth.ticket().await.unwrap()
    }

    async fn remove(&self, account: AccountHash, logout_iat: Option<i64>) -> usize {
        let removal = Removal {
            operation: OperationId::random(),
            cause: Cause::Operator,
            revoke: RevokeRule::All,
            mark_for: Duration::from_secs(3600),
            logout_iat,
        };
        let target = Target::Account(account);
        self.world
            .store
            .remove(&target, &removal)
            .await
            .unwrap()
            .len()
    }
}

/// As the app verified it; its signature is not looked at again.
fn id_token(claims: &Value) -> IdToken {
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    IdToken::new(format!(
        "{}.{}.sig",
        encode("{}"),
        encode(&claims.to_string())
    ))
}

fn tokens(name: &str) -> TokenSet {
    let access = AccessToken::bearer(format!("access-{name}"));
    TokenSet::new()
        .with_refresh_token(format!("refresh-{name}"))
        .with_access_token(access.expires_in(Duration::from_secs(3600)))
}

#[tokio::test]
async fn an_app_with_its_own_sign_in_has_its_tokens_served() {
    let own = Own::new(&[]).await;
    let mut browser = TestBrowser::new();
    let ticket = own.ticket().await;
    let claims = json!({ "sid": "s-1", "name": "Ann", "iat": own.world.provider.now() });
    let tokens = tokens("ann").with_id_token(id_token(&claims));
    let arriving = (Some(ticket), own.account("ann"), tokens);
    own.sign_in(&mut browser, arriving).await.unwrap();
    let held = own.world.tokens(&browser).await;
    assert_eq!(held.account().subject(), "ann");
    assert_eq!(held.account().name().as_deref(), Some("Ann"));
    assert_eq!(held.account().sid(), Some("s-1"));
    let token = acquire(&held).await.unwrap();
    assert_eq!(token.secret(), "access-ann");
    let end = token.expires().unwrap();
    use axum_signout::clock::Clock;
    assert_eq!(end.since(own.world.clock.wall()), Duration::from_secs(3600));
    browser
        .post_form(own.world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert_eq!(own.world.sign_ins().await, 0);
}

/// The ticket is the start stamp: a removal of the account after it refuses the sign-in, and what it brought goes back.
#[tokio::test]
async fn a_sign_in_that_began_before_the_account_was_removed_is_refused() {
    let own = Own::new(&[]).await;
    let mut browser = TestBrowser::new();
    let arriving = (None, own.account("ann"), tokens("probe"));
    let hash = own.sign_in(&mut browser, arriving).await.unwrap();

    let ticket = own.ticket().await;
    assert_eq!(own.remove(hash, None).await, 1);
    let mut late = TestBrowser::new();
    let arriving = (Some(ticket), own.account("ann"), tokens("late"));
    let answer = own.sign_in(&mut late, arriving).await;
    assert_eq!(answer, Err(ErrorKind::NotSignedIn));
    assert_eq!(own.world.get(&late, "/whoami").await.body(), "nobody");
    assert_eq!(own.world.sign_ins().await, 0);

    let ticket = own.ticket().await;
    let arriving = (Some(ticket), own.account("ann"), tokens("new"));
    assert!(own.sign_in(&mut late, arriving).await.is_ok());
    // Another account is not concerned.
    let arriving = (Some(ticket), own.account("bob"), tokens("bob"));
    assert!(own.sign_in(&mut TestBrowser::new(), arriving).await.is_ok());

    own.world.finish().await;
    let revoked: Vec<_> = own
        .world
        .revoked()
        .into_iter()
        .map(|(_, token)| token)
        .collect();
    assert!(revoked.contains(&"refresh-late".into()) && revoked.contains(&"access-late".into()));
    assert!(
        !revoked
            .iter()
            .any(|token| token.ends_with("new") || token.ends_with("bob"))
    );
}

#[tokio::test]
async fn without_a_ticket_the_id_tokens_time_is_compared() {
    let rows = [
        ("younger than the logout", Some(1001), Some(1000), true),
        ("as old as the logout", Some(1000), Some(1000), false),
        ("older than the logout", Some(999), Some(1000), false),
        ("no time at all", None, Some(1000), true),
        (
            "a removal that is not the provider's",
            Some(999),
            None,
            true,
        ),
    ];
    for (name, iat, logout_iat, passes) in rows {
        let own = Own::new(&[]).await;
        let mut browser = TestBrowser::new();
        let arriving = (None, own.account("ann"), tokens("probe"));
        let hash = own.sign_in(&mut browser, arriving).await.unwrap();
        own.remove(hash, logout_iat).await;
        let mut tokens = tokens("next");
        if let Some(iat) = iat {
            tokens = tokens.with_id_token(id_token(&json!({ "iat": iat })));
        }
        let arriving = (None, own.account("ann"), tokens);
        let answer = own.sign_in(&mut TestBrowser::new(), arriving).await;
        assert_eq!(answer.is_ok(), passes, "{name}");
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_is_forbidden() {
    let own = Own::new(&[]).await;
    let mut browser = TestBrowser::new();
    let account = Account::new("https://elsewhere.example", "ann");
    let answer = own
        .sign_in(&mut browser, (None, account, tokens("x")))
        .await;
    assert_eq!(answer, Err(ErrorKind::Forbidden));
    assert_eq!(own.world.sign_ins().await, 0);
}

/// Where apps of several clients share a store, who an account is does not hang on a subject made for one client.
#[tokio::test]
async fn an_account_can_be_what_claims_say() {
    let own = Own::new(&["tid", "oid"]).await;
    let claims = |tid: &str, oid: &str| json!({ "tid": tid, "oid": oid });
    let sign_in = async |subject: &str, claims: Value| {
        let account = own.account(subject).with_claims(&claims);
        let arriving = (None, account, tokens(subject));
        own.sign_in(&mut TestBrowser::new(), arriving)
            .await
            .unwrap()
    };
    let one = sign_in("pairwise-1", claims("t", "o")).await;
    let same = sign_in("pairwise-2", claims("t", "o")).await;
    let other_tenant = sign_in("pairwise-1", claims("t2", "o")).await;
    let shifted = sign_in("pairwise-1", claims("to", "")).await;
    assert_eq!(one, same);
    assert_ne!(one, other_tenant);
    assert_ne!(one, shifted);
    assert_eq!(own.remove(one, None).await, 2);
}

/// The account's earlier sign-in in the same session is replaced; in another session it stays.
#[tokio::test]
async fn a_second_sign_in_of_the_same_account_replaces_the_first_r37() {
    let own = Own::new(&[]).await;
    let (mut here, mut there) = (TestBrowser::new(), TestBrowser::new());
    for (browser, name) in [(&mut here, "1"), (&mut there, "2")] {
        let arriving = (None, own.account("ann"), tokens(name));
        own.sign_in(browser, arriving).await.unwrap();
    }
    let (old, copy) = (own.world.tokens(&here).await, here.clone());
    let arriving = (None, own.account("ann"), tokens("3"));
    own.sign_in(&mut here, arriving).await.unwrap();
    assert_eq!(old.ended().await, Cause::Replaced);
    assert_eq!(
        acquire(&own.world.tokens(&here).await)
            .await
            .unwrap()
            .secret(),
        "access-3"
    );
    assert_eq!(
        acquire(&own.world.tokens(&there).await)
            .await
            .unwrap()
            .secret(),
        "access-2"
    );
    // The session's id has changed: the old cookie opens nothing.
    assert_eq!(own.world.get(&copy, "/whoami").await.body(), "nobody");
}
