//! What a copy of Redis' disk shows, with and without keys.

use std::sync::Arc;

use axum_signout::store::{RedisTokenStore, RedisTokenStoreBuilder};
use axum_signout::{
    AccessToken, Account, Auth, KeyRing, OperationId, Provider, ProviderMetadata, TokenSet,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower_sessions::Session;

use crate::support::redis::RedisServer;

const KEY: [u8; 32] = [0xa7; 32];

/// What Redis calls the file.
const COPY: &str = "dump.rdb";

/// A server that writes what it has to a file, as it is.
struct Disk {
    server: RedisServer,
    folder: std::path::PathBuf,
}

impl Disk {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("redis-{}", OperationId::random()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.to_str().unwrap();
        let options = [
            "--dir",
            path,
            "--dbfilename",
            COPY,
            "--rdbcompression",
            "no",
        ];
        let server = RedisServer::start_with(&options).await;
        Self { server, folder }
    }

    fn store(&self) -> RedisTokenStoreBuilder {
        RedisTokenStore::builder(self.server.url())
    }

    fn dump(&self) -> Vec<u8> {
        assert_eq!(self.server.cli(&["SAVE"]), "OK");
        std::fs::read(self.folder.join(COPY)).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn auth(store: Arc<RedisTokenStore>) -> Auth {
    // Nobody listens there: what is to be revoked stays in the outbox.
    let at = |path: &str| format!("http://127.0.0.1:9/{path}");
    let issuer = "http://127.0.0.1:9";
    let metadata = ProviderMetadata::new(issuer, at("authorize"), at("token"), at("keys"))
        .revocation_endpoint(at("revoke"));
    let provider = Provider::with_metadata(metadata, "app").build().unwrap();
    let auth = Auth::builder(provider, "https://app.example");
    auth.store(store).build().unwrap()
}

/// Everything that is announced while somebody works.
async fn announced(server: &RedisServer, work: impl Future<Output = ()>) -> Vec<u8> {
    let mut connection = TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let mut said = Vec::new();
    let subscribe: &[u8] = b"PSUBSCRIBE *\r\n";
    connection.write_all(subscribe).await.unwrap();
    connection.read_buf(&mut said).await.unwrap();
    work.await;
    server.cli(&["PUBLISH", "end", "that is all"]);
    while !said.ends_with(b"that is all\r\n") {
        assert_ne!(connection.read_buf(&mut said).await.unwrap(), 0);
    }
    said
}

/// Two users sign in, and one signs out. Returns what nobody should find: names, and what they stand for.
async fn people(store: RedisTokenStore) -> Vec<(String, Vec<u8>)> {
    let sessions = Arc::new(store.sessions());
    let auth = auth(Arc::new(store));
    let mut secrets = Vec::new();
    for name in ["ann", "bob"] {
        let session = Session::new(None, sessions.clone(), None);
        session
            .insert("cart", format!("cart of {name}"))
            .await
            .unwrap();
        let account = Account::new("http://127.0.0.1:9", format!("subject {name}"))
            .with_claims(&serde_json::json!({ "email": format!("{name}@example.com") }));
        let tokens = TokenSet::new()
            .with_refresh_token(format!("refresh of {name}"))
            .with_access_token(AccessToken::bearer(format!("access of {name}")));
        auth.sign_in(&session, None, account.clone(), tokens)
            .await
            .unwrap();
        let texts = ["cart of", "subject", "refresh of", "access of"];
        let texts = texts.map(|text| format!("{text} {name}"));
        for text in texts.into_iter().chain([format!("{name}@example.com")]) {
            secrets.push((text.clone(), text.into_bytes()));
        }
        let held: String = session.get("axum-signout").await.unwrap().unwrap();
        let key = crate::support::held::held(&held).remove(0).key;
        secrets.push((format!("session key of {name}"), key));
        secrets.push((format!("session's data of {name}"), held.into_bytes()));
        let id = session.id().unwrap();
        secrets.push((format!("session id of {name}"), id.to_string().into_bytes()));
        let id = id.0.to_le_bytes().to_vec();
        secrets.push((format!("bytes of the session id of {name}"), id));
        if name == "bob" {
            let report = auth.end_sign_ins_of(&account).await.unwrap();
            assert_eq!(report.evicted.len(), 1);
        }
    }
    assert_eq!(auth.stats().await.unwrap().outbox, 1);
    secrets
}

fn shown(dump: &[u8], secrets: &[(String, Vec<u8>)]) -> Vec<String> {
    let shown = secrets.iter().filter(|(_, bytes)| {
        let mut parts = dump.windows(bytes.len());
        parts.any(|part| part == bytes)
    });
    shown.map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn a_copy_of_the_disk_shows_no_token_no_key_and_nobody_a11() {
    let disk = Disk::new().await;
    let store = disk.store().encryption(KeyRing::new(KEY)).build().unwrap();
    let mut secrets = Vec::new();
    let said = announced(&disk.server, async { secrets = people(store).await }).await;
    assert!(String::from_utf8_lossy(&said).contains(":Operator"));
    assert_eq!(shown(&said, &secrets), [""; 0]);
    secrets.push(("the key".to_owned(), KEY.to_vec()));
    assert_eq!(shown(&disk.dump(), &secrets), [""; 0]);

    // The search is one that finds them.
    let disk = Disk::new().await;
    let secrets = people(disk.store().build().unwrap()).await;
    let shown = shown(&disk.dump(), &secrets);
    for found in [
        "refresh of ann",
        "access of ann",
        "refresh of bob",
        "subject ann",
        "cart of ann",
        "session's data of ann",
    ] {
        assert!(
            shown.iter().any(|shown| shown == found),
            "{found}: {shown:?}"
        );
    }
}

#[tokio::test]
async fn keys_are_changed_while_users_stay_signed_in() {
    let disk = Disk::new().await;
    let new = [0x3c; 32];
    let rings = [
        KeyRing::new(KEY),
        KeyRing::new(KEY).and_for_reading(new),
        KeyRing::new(new).and_for_reading(KEY),
    ];
    let account = Account::new("http://127.0.0.1:9", "ann");
    let mut ids = Vec::new();
    for ring in rings.clone() {
        let store = disk.store().encryption(ring).build().unwrap();
        let sessions = Arc::new(store.sessions());
        let session = Session::new(None, sessions.clone(), None);
        let auth = auth(Arc::new(store));
        let tokens = TokenSet::new().with_access_token(AccessToken::bearer("t"));
        auth.sign_in(&session, None, account.clone(), tokens)
            .await
            .unwrap();
        ids.push(session.id());
        // Who signed in under the ring before is there, too.
        assert_eq!(auth.sign_ins_of(&account).await.unwrap().len(), ids.len());
        for id in &ids {
            let session = Session::new(*id, sessions.clone(), None);
            assert!(session.get_value("axum-signout").await.unwrap().is_some());
        }
    }
    // When the old key is gone, so is what was written under it, and what is left goes on.
    let store = disk.store().encryption(KeyRing::new(new)).build().unwrap();
    let sessions = Arc::new(store.sessions());
    let found = async |id| {
        let session = Session::new(id, sessions.clone(), None);
        session.get_value("axum-signout").await.unwrap().is_some()
    };
    assert_eq!(
        [
            found(ids[0]).await,
            found(ids[1]).await,
            found(ids[2]).await
        ],
        [false, false, true]
    );
    assert_eq!(store.unreadable(), 2);
    let store = Arc::new(store);
    assert_eq!(
        auth(store.clone())
            .sign_ins_of(&account)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(store.unreadable(), 4);
}
