//! A user and a password, TLS, sentinels, and a cluster whose masters share the work.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum_signout::Cause;
use axum_signout::store::{RedisTokenStore, StoreErrorKind, Target, TokenStore};
use axum_signout::testing::store_contract::account;

use super::ear::{Ear, Told};
use super::world::{entry, is_live, removal, sign_in};
use crate::support::redis::{Certificates, RedisCluster, RedisServer, Replicated, free_port};

#[tokio::test]
async fn a_user_sees_no_more_than_the_keys_of_the_prefix() {
    let server = RedisServer::start().await;
    let rules = [
        "ACL", "SETUSER", "app", "on", ">geheim", "~shop:*", "+@all", "-@admin",
    ];
    server.cli(&rules);
    let url = format!("redis://127.0.0.1:{}", server.port());
    let store = |prefix: &str, password: &str| {
        let builder = RedisTokenStore::builder(&*url).prefix(prefix);
        builder.credentials("app", password).build().unwrap()
    };
    let shop = store("shop", "geheim");
    let ann = sign_in(&shop, &account(1), entry("ann")).await;
    assert!(is_live(&shop, &ann).await);
    let in_url = format!("redis://app:geheim@127.0.0.1:{}", server.port());
    let same = RedisTokenStore::builder(in_url)
        .prefix("shop")
        .build()
        .unwrap();
    assert!(is_live(&same, &ann).await);
    for other in [store("other", "geheim"), store("shop", "falsch")] {
        let error = other.load(std::slice::from_ref(&ann)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        assert!(!error.to_string().contains("falsch"));
    }
}

/// What is traced on this thread, from now on.
fn traced() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    struct Into(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let text = Arc::new(Mutex::new(Vec::new()));
    let writer = text.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || Into(writer.clone()));
    let guard = tracing::subscriber::set_default(subscriber.with_ansi(false).finish());
    (text, guard)
}

#[tokio::test]
async fn who_may_not_publish_signs_out_all_the_same_and_that_is_said_once() {
    let (text, _guard) = traced();
    let said = || {
        let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
        text.matches("are not announced to other nodes").count()
    };
    let server = RedisServer::start().await;
    let rules = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">geheim",
        "~shop:*",
        "resetchannels",
        "+@read",
        "+@write",
        "+@scripting",
        "+@connection",
        "+@pubsub",
        "+time",
    ];
    server.cli(&rules);
    let builder = RedisTokenStore::builder(server.url()).prefix("shop");
    let store = builder.credentials("app", "geheim").build().unwrap();
    let mut ear = Ear::early(&store);
    let leave = async |number: u64| {
        let ann = sign_in(&store, &account(number), entry("ann")).await;
        let target = Target::Account(account(number));
        let removed = store.remove(&target, &removal(Cause::UserSignOut)).await;
        assert_eq!(removed.unwrap().len(), 1);
        ann
    };
    leave(1).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    // It tries again and again.
    let is_repeated = || {
        let log = server.cli(&["ACL", "LOG"]);
        let mut counts = log.lines().skip_while(|line| *line != "count");
        counts
            .nth(1)
            .is_some_and(|count| count.parse::<u32>().is_ok_and(|n| n > 1))
    };
    while !is_repeated() {
        assert!(Instant::now() < deadline, "it tries no more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(said(), 1);
    server.cli(&["ACL", "SETUSER", "app", "&shop:*"]);
    assert_eq!(ear.next().await, Told::Missed);
    let ann = leave(2).await;
    assert_eq!(
        ear.next().await,
        Told::Ended(ann.address, Cause::UserSignOut)
    );
    assert_eq!(said(), 1);
    // Taken away again: that is news.
    server.cli(&["ACL", "SETUSER", "app", "resetchannels"]);
    assert_eq!(ear.next().await, Told::Missed);
    while said() < 2 {
        assert!(Instant::now() < deadline, "nothing is said");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_may_not_ask_a_cluster_who_its_masters_are_replays_all_the_same_a2() {
    let (text, _guard) = traced();
    let cluster = RedisCluster::start().await;
    for master in cluster.masters() {
        let rules = [
            "ACL",
            "SETUSER",
            "app",
            "on",
            ">geheim",
            "~shop:*",
            "&shop:*",
            "+@read",
            "+@write",
            "+@scripting",
            "+@connection",
            "+@pubsub",
            "+time",
            "+cluster|slots",
        ];
        master.cli(&rules);
    }
    let node = || {
        let builder = RedisTokenStore::cluster(cluster.urls()).prefix("shop");
        builder.credentials("app", "geheim").build().unwrap()
    };
    let (here, there) = (node(), node());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let is_ours = |key: &String| key.contains(":account:");
    let of = |master: &&RedisServer| master.keys().iter().any(is_ours);
    let master = cluster.masters().iter().find(of).expect("one has it");
    let key = master
        .keys()
        .into_iter()
        .find(is_ours)
        .expect("it is there");
    let kept = format!("{key}:aside");
    master.cli(&["COPY", &key, &kept]);
    let target = Target::SignIn(ann.address);
    let removed = here.remove(&target, &removal(Cause::UserSignOut)).await;
    assert_eq!(removed.unwrap().len(), 1);
    master.cli(&["COPY", &kept, &key, "REPLACE"]);
    assert!(is_live(&there, &ann).await, "it is as if it were undone");
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_live(&there, &ann).await {
        assert!(Instant::now() < deadline, "nobody replayed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = String::from_utf8(text.lock().unwrap().clone()).unwrap();
    let said = text.matches("may not call INFO").count();
    assert_eq!(said, 1, "{text}");
}

#[tokio::test]
async fn the_masters_of_a_cluster_share_the_accounts() {
    let cluster = RedisCluster::start().await;
    let store = RedisTokenStore::cluster(&cluster.urls()[..1])
        .build()
        .unwrap();
    let mut all = Vec::new();
    for n in 0..60 {
        all.push(sign_in(&store, &account(n), entry("ann")).await);
    }
    let found = store.load(&all).await.unwrap();
    assert!(found.into_iter().all(|found| found.live().is_some()));
    assert_eq!(store.stats().await.unwrap().sign_ins, 60);
    for master in cluster.masters() {
        let accounts = master
            .keys()
            .iter()
            .filter(|key| key.contains(":account:"))
            .count();
        assert!((5..=40).contains(&accounts), "{accounts} of 60");
    }
}

#[tokio::test]
async fn a_server_with_tls_is_believed_if_its_authority_is_the_one_that_was_set() {
    let certificates = Certificates::new();
    let port = free_port().to_string();
    let [cert, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|name| certificates.path(name));
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("rediss://127.0.0.1:{port}");
    let builder = || RedisTokenStore::builder(&*url);
    let store = builder()
        .root_certificate(certificates.authority())
        .build()
        .unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    assert!(is_live(&store, &ann).await);
    let mut ear = Ear::of(&store, 1).await;
    let target = Target::SignIn(ann.address);
    store
        .remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    assert_eq!(
        ear.next().await,
        Told::Ended(ann.address, Cause::UserSignOut)
    );
    let other = Certificates::new().authority();
    let store = builder().root_certificate(other).build().unwrap();
    let error = store.load(&[ann]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(builder().root_certificate("nonsense").build().is_err());
}

#[tokio::test]
async fn after_a_failover_the_store_goes_to_the_master_that_the_sentinels_name() {
    let mut servers = Replicated::start().await;
    let store = RedisTokenStore::sentinel([servers.sentinel.url()], "main")
        .build()
        .unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    let bob = sign_in(&store, &account(1), entry("bob")).await;
    let mut ear = Ear::of(&store, 1).await;
    let target = Target::SignIn(ann.address);
    store
        .remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    assert_eq!(
        ear.next().await,
        Told::Ended(ann.address, Cause::UserSignOut)
    );
    assert_eq!(servers.master().cli(&["WAIT", "1", "10000"]), "1");
    servers.fail_over().await;
    // A connection that could not be made is not tried again at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(is_live(&store, &bob).await);
    assert!(
        !is_live(&store, &ann).await,
        "the sign-out was acknowledged by both"
    );
    let carl = sign_in(&store, &account(2), entry("carl")).await;
    assert!(is_live(&store, &carl).await);
    // Lost with the old master, and there again with the new one.
    assert_eq!([ear.next().await, ear.next().await], [Told::Missed; 2]);
    let target = Target::SignIn(carl.address);
    store
        .remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    let told = Told::Ended(carl.address, Cause::UserSignOut);
    assert_eq!(ear.next().await, told);
}
