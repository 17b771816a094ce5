//! The names of keys.

use std::io::Write as _;

use redis::{Cmd, RedisWrite as _};

use crate::id::{AccountHash, ClaimName, LONGEST, OperationId, Selector, SignInId, encode};

/// How many hash tags there are: as many as buckets.
pub(super) const BUCKETS: usize = 256;

/// Builds names. What others chose goes into them as a hash only; between the braces is the bucket, which Redis Cluster
/// takes for the slot.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
    /// The database that the one channel for announcements is of; in a cluster each bucket has its own channel.
    database: Option<i64>,
}

impl Keys {
    /// Those of one server. Channels are the same for all of its databases, so the database is in the name.
    pub(super) fn of_server(prefix: &str, database: i64) -> Self {
        Self {
            prefix: prefix.into(),
            database: Some(database),
        }
    }

    pub(super) fn of_cluster(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
            database: None,
        }
    }

    /// Where the changes of a bucket are announced.
    pub(super) fn channel(&self, bucket: u8) -> String {
        match self.database {
            Some(database) => format!("{}:news:{database}", self.prefix),
            None => self.bucket(bucket, "news"),
        }
    }

    /// What scripts know the channel by. It stands among keys, so it has their hash tag, whatever it names: a single server can be one
    /// that insists on slots, or stand behind a proxy that does.
    fn news(&self, bucket: u8) -> String {
        match self.database {
            Some(database) => self.bucket(bucket, &format!("news:{database}")),
            None => self.channel(bucket),
        }
    }

    /// A key of a whole bucket.
    pub(super) fn bucket(&self, bucket: u8, what: &str) -> String {
        self.begun(bucket, what, 0)
    }

    fn named(&self, bucket: u8, what: &str, name: &[u8]) -> String {
        let mut key = self.begun(bucket, what, 1 + LONGEST);
        key.push(':');
        key.push_str(encode(name, &mut [0; LONGEST]));
        key
    }

    fn begun(&self, bucket: u8, what: &str, more: usize) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 6 + what.len() + more);
        key.push_str(&self.prefix);
        key.extend(tag(bucket).map(char::from));
        key.push_str(what);
        key
    }

    /// The key of an account's hash as a command's next argument: in place, for every request's read begins with it.
    pub(super) fn push_account(&self, command: &mut Cmd, account: &AccountHash) {
        let name = &mut [0; LONGEST];
        let name = encode(account.as_bytes(), name);
        push(
            command,
            [
                self.prefix.as_bytes(),
                &tag(account.bucket()),
                b"account:",
                name.as_bytes(),
            ],
        );
    }

    /// The hash that holds all of an account.
    pub(super) fn account(&self, account: &AccountHash) -> String {
        self.named(account.bucket(), "account", account.as_bytes())
    }

    /// All keys that a script about an account may touch, and what its channel goes by, in the order of `account_keys.lua`.
    pub(super) fn of_account(&self, account: &AccountHash) -> Vec<String> {
        let bucket = account.bucket();
        let [items, ready, age] = self.outbox(bucket);
        vec![
            self.account(account),
            self.named(bucket, "ending", account.as_bytes()),
            self.due(bucket),
            items,
            ready,
            age,
            self.derived(bucket),
            self.news(bucket),
        ]
    }

    pub(super) fn due(&self, bucket: u8) -> String {
        self.bucket(bucket, "due")
    }

    pub(super) fn derived(&self, bucket: u8) -> String {
        self.bucket(bucket, "derived")
    }

    /// In the order of `outbox_keys.lua`.
    pub(super) fn outbox(&self, bucket: u8) -> [String; 3] {
        ["outbox", "outbox:ready", "outbox:age"].map(|what| self.bucket(bucket, what))
    }

    /// In the order of `selector.lua`.
    pub(super) fn of_selector(&self, selector: &Selector) -> Vec<String> {
        let bucket = selector.as_bytes()[0];
        vec![
            self.named(bucket, "selector", selector.as_bytes()),
            self.named(bucket, "selector:mark", selector.as_bytes()),
            self.selectors(bucket),
        ]
    }

    /// Where the answer to a closing is remembered.
    pub(super) fn closing(&self, selector: &Selector, operation: OperationId) -> String {
        let bucket = selector.as_bytes()[0];
        let answer = self.named(bucket, "selector:answer", selector.as_bytes());
        format!("{answer}:{operation}")
    }

    pub(super) fn selectors(&self, bucket: u8) -> String {
        self.bucket(bucket, "selectors")
    }

    /// In the order of `name.lua`; `what` is `claim` or `lease`.
    pub(super) fn of_name(&self, what: &str, name: &ClaimName) -> Vec<String> {
        let bucket = name.as_bytes()[0];
        vec![
            self.named(bucket, what, name.as_bytes()),
            self.names(bucket, what),
        ]
    }

    pub(super) fn names(&self, bucket: u8, what: &str) -> String {
        format!("{}s", self.bucket(bucket, what))
    }

    /// A session, by the hash of its id.
    pub(super) fn session(&self, name: &[u8; 32]) -> String {
        self.named(name[0], "session", name)
    }

    /// Which sign-ins one call of `due` is about.
    pub(super) fn batch(&self, operation: OperationId) -> String {
        self.named(operation.as_bytes()[0], "batch", operation.as_bytes())
    }
}

/// The bucket's hash tag and what is around it. By hand: the formatter takes longer than the rest.
fn tag(bucket: u8) -> [u8; 6] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS[usize::from(half & 15)];
    [b':', b'{', digit(bucket >> 4), digit(bucket), b'}', b':']
}

/// The field of a sign-in's head and entry as a command's next argument.
pub(super) fn push_field(command: &mut Cmd, id: &SignInId) {
    let text = &mut [0; LONGEST];
    push(command, [b"h", encode(id.as_bytes(), text).as_bytes()]);
}

/// An argument of several pieces.
fn push<const N: usize>(command: &mut Cmd, pieces: [&[u8]; N]) {
    let mut argument = command.writer_for_next_arg();
    for piece in pieces {
        let written = argument.write_all(piece);
        written.expect("a command is in memory");
    }
}
