//! What Redis is asked to do, as it tells it itself.

use axum_signout::Cause;
use axum_signout::store::{RedisTokenStore, Target, TokenStore};
use axum_signout::testing::store_contract::account;

use super::world::{entry, removal, sign_in};
use crate::support::redis::RedisServer;

/// The commands' names.
pub fn names(commands: &[String]) -> Vec<&str> {
    let name = |command: &'_ str| -> usize { command.find("\" ").unwrap_or(command.len() - 1) };
    commands
        .iter()
        .map(|command| &command[1..name(command)])
        .collect()
}

/// The bucket that is the keys' hash tag.
pub fn tags(command: &str) -> Vec<&str> {
    let tags = command.split('{').skip(1);
    tags.filter_map(|rest| rest.split('}').next()).collect()
}

#[tokio::test]
async fn a_requests_read_is_one_plain_command_for_each_sign_in() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let mut locators = Vec::new();
    for n in 0..2 {
        locators.push(sign_in(&store, &account(n), entry("ann")).await);
    }
    for count in [1, 2] {
        let locators = &locators[..count];
        let commands = server
            .commands_of(async {
                // The time is asked for along with the first, and is good for a second.
                for _ in 0..2 {
                    let found = store.load(locators).await.unwrap();
                    assert!(found.into_iter().all(|found| found.live().is_some()));
                }
            })
            .await;
        let names = names(&commands);
        let reads = names.iter().filter(|name| **name == "HGET").count();
        let times = names.iter().filter(|name| **name == "TIME").count();
        assert_eq!(reads, 2 * count, "{names:?}");
        assert!(
            times <= 1 + count && reads + times == names.len(),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn signing_out_everywhere_is_one_script_in_the_accounts_slot_and_selectors_follow() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let sign_out = async |number: u64, sign_ins: usize| {
        for _ in 0..sign_ins {
            sign_in(&store, &account(number), entry("ann")).await;
        }
        server
            .commands_of(async {
                let target = Target::Account(account(number));
                let removal = removal(Cause::SignOutEverywhere);
                let removed = store.remove(&target, &removal).await.unwrap();
                assert_eq!(removed.len(), sign_ins);
            })
            .await
    };
    // The first one makes the scripts known, and counts the outbox.
    sign_out(1, 1).await;
    for sign_ins in [1, 10] {
        let commands = sign_out(2, sign_ins).await;
        assert_eq!(names(&commands), vec!["EVALSHA"; 1 + sign_ins]);
        let bucket = format!("{:02x}", account(2).bucket());
        let mut scripts = commands.iter().map(|command| tags(command));
        let of_account = scripts.next().unwrap();
        assert!(of_account.len() > 1 && of_account.iter().all(|tag| **tag == bucket));
        for of_selector in scripts {
            assert!(of_selector.iter().all(|tag| *tag == of_selector[0]));
        }
    }
}
