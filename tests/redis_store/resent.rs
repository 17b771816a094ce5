//! The connection is lost between a command and its answer: the client sends it again, and nothing is done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum_signout::store::{
    Claim, Created, Generation, RedisTokenStore, Replaced, RetainedTokens, Started, StoreErrorKind,
    Target, TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{Cause, ClaimName, OperationId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::{entry, is_live, removal, selector, sign_in};
use crate::support::redis::RedisServer;

/// Stands between the store and Redis. When it is armed, it passes the next command on, waits until it was answered, and
/// closes the connection in place of the answer.
struct Proxy {
    port: u16,
    armed: Arc<AtomicBool>,
    loading: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let loading = Arc::new(AtomicBool::new(false));
        let (is_armed, is_loading) = (armed.clone(), loading.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass(client, server, is_armed.clone(), is_loading.clone()));
            }
        });
        Self {
            port,
            armed,
            loading,
        }
    }

    /// The next answer is lost.
    fn lose_one(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The next answer is lost, and scripts that come after it are refused as by a server that has just started.
    fn lose_one_and_start_anew(&self) {
        self.loading.store(true, Ordering::SeqCst);
        self.lose_one();
    }

    fn assert_lost(&self) {
        assert!(!self.armed.load(Ordering::SeqCst), "no answer was lost");
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    armed: Arc<AtomicBool>,
    loading: Arc<AtomicBool>,
) {
    let (mut to_server, mut to_client) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut to_server) => {
                let Ok(read @ 1..) = read else { return };
                let is_script = to_server[..read].windows(7).any(|word| word == b"EVALSHA");
                if is_script && !armed.load(Ordering::SeqCst) && loading.load(Ordering::SeqCst) {
                    let refusal = b"-LOADING Redis is loading the dataset in memory\r\n";
                    if client.write_all(refusal).await.is_err() {
                        return;
                    }
                    continue;
                }
                if server.write_all(&to_server[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut to_client) => {
                let Ok(read @ 1..) = read else { return };
                if armed.swap(false, Ordering::SeqCst) {
                    return;
                }
                if client.write_all(&to_client[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Redis does it, is killed, and says of the repetition that it is loading: that is not *nothing was done*.
#[tokio::test]
async fn a_change_whose_answer_was_lost_may_be_done_whatever_the_repetition_is_told() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let store = RedisTokenStore::builder(url).build().unwrap();
    sign_in(&store, &account(1), entry("first")).await;

    let late = locator(&account(2));
    let mut new = entry("late");
    new.selectors = [].into();
    let (started, operation) = (Started::default(), removal(Cause::Capacity));
    proxy.lose_one_and_start_anew();
    let created = store.create(&late, new.into(), &started, &operation).await;
    proxy.assert_lost();
    assert_eq!(created.unwrap_err().kind(), StoreErrorKind::Unknown);
    let direct = RedisTokenStore::builder(server.url()).build().unwrap();
    assert!(is_live(&direct, &late).await);
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_done_once_and_answered() {
    let server = RedisServer::start().await;
    let proxy = Proxy::start(server.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let store = RedisTokenStore::builder(url).build().unwrap();
    // The scripts are known, and limits counted, before answers get lost.
    let first = sign_in(&store, &account(1), entry("first")).await;
    let target = Target::SignIn(first.address);
    store
        .remove(&target, &removal(Cause::Operator))
        .await
        .unwrap();

    let ann = sign_in(&store, &account(2), entry("ann")).await;
    proxy.lose_one();
    let operation = OperationId::random();
    let new = entry("two").into();
    let replace = store.replace_if(&ann.address, Generation::FIRST, new, operation);
    assert_eq!(replace.await.unwrap(), Replaced::Done(Generation(2)));
    proxy.assert_lost();

    proxy.lose_one();
    let target = Target::Account(account(2));
    let removed = store
        .remove(&target, &removal(Cause::SignOutEverywhere))
        .await
        .unwrap();
    proxy.assert_lost();
    assert_eq!(removed.len(), 1, "the first answer, though it was lost");
    assert!(removed[0].to_revoke);
    let token = removed[0].entry.tokens.refresh_token().unwrap();
    assert_eq!(token.secret(), "refresh two");
    assert_eq!(
        store.stats().await.unwrap().outbox,
        2,
        "one for each of both"
    );

    let late = locator(&account(5));
    proxy.lose_one();
    let mut new = entry("late");
    new.selectors = [].into();
    let (started, operation) = (Started::default(), removal(Cause::Capacity));
    let created = store.create(&late, new.into(), &started, &operation).await;
    proxy.assert_lost();
    assert!(matches!(created.unwrap(), Created::Done { .. }));
    assert!(is_live(&store, &late).await);
    assert_eq!(store.list(&account(5)).await.unwrap().len(), 1);

    let bob = sign_in(&store, &account(6), entry("bob")).await;
    let carl = sign_in(&store, &account(7), entry("carl")).await;
    proxy.lose_one();
    let members = store.close(&selector(), &removal(Cause::BackChannel)).await;
    proxy.assert_lost();
    assert_eq!(members.unwrap().len(), 2);
    assert!(is_live(&store, &bob).await && is_live(&store, &carl).await);

    let (name, holder) = (ClaimName::of("test", &[b"n"]), OperationId::random());
    store
        .claim(
            &ClaimName::of("test", &[b"m"]),
            holder,
            super::world::MARK_FOR,
        )
        .await
        .unwrap();
    proxy.lose_one();
    let claim = store
        .claim(&name, holder, super::world::MARK_FOR)
        .await
        .unwrap();
    proxy.assert_lost();
    assert_eq!(claim, Claim::Held);

    let id = OperationId::random();
    store
        .outbox_put(id, &account(3), RetainedTokens::of(&entry("x")))
        .await
        .unwrap();
    proxy.lose_one();
    let items = store
        .outbox_take(holder, super::world::MARK_FOR)
        .await
        .unwrap();
    proxy.assert_lost();
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|item| item.attempts == 0));
}
