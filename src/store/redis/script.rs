//! The scripts. Each changes what lies in one slot, in one step.

use std::fmt::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest;
use redis::Cmd;
use zeroize::Zeroize as _;

/// A script and the name under which Redis remembers it.
#[derive(Debug)]
pub(super) struct Script {
    source: String,
    hash: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let source = parts.join("\n");
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, source.as_bytes());
        let mut hash = String::with_capacity(40);
        for byte in digest.as_ref() {
            // Writing to a string does not fail.
            let _ = write!(hash, "{byte:02x}");
        }
        Self { source, hash }
    }
}

macro_rules! script {
    ($name:ident: $($file:literal)*) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[$(include_str!(concat!("scripts/", $file))),*]));
    };
}

/// Scripts about an account, the outbox, a selector, a name; each begins with what those have in common.
macro_rules! scripts {
    (accounts: $($name:ident $file:literal)*) => {
        $(script! { $name: "prelude.lua" "account_keys.lua" "outbox.lua" "account.lua" $file })*
    };
    (outbox: $($name:ident $file:literal)*) => {
        $(script! { $name: "prelude.lua" "outbox_keys.lua" "outbox.lua" $file })*
    };
    (selectors: $($name:ident $file:literal)*) => {
        $(script! { $name: "prelude.lua" "selector.lua" $file })*
    };
    (names: $($name:ident $file:literal)*) => {
        $(script! { $name: "prelude.lua" "name.lua" $file })*
    };
}

scripts! { accounts:
    CREATE "create.lua"
    REMOVE "remove.lua"
    REPLAY "replay.lua"
    REPLACE "replace.lua"
    TOUCH "touch.lua"
    REKEY "rekey.lua"
    PUT_DOWNSTREAM "put_downstream.lua"
    LIST "list.lua"
}

scripts! { outbox:
    OUTBOX_PUT "outbox_put.lua"
    OUTBOX_TAKE "outbox_take.lua"
    OUTBOX_AGAIN "outbox_again.lua"
    OUTBOX_DONE "outbox_done.lua"
    OUTBOX_RETRY "outbox_retry.lua"
}

scripts! { selectors:
    REGISTER "register.lua"
    UNREGISTER "unregister.lua"
    CLOSE "close.lua"
    CLOSE_AGAIN "close_again.lua"
}

scripts! { names:
    CLAIM "claim.lua"
    SETTLE "settle.lua"
    RELEASE "release.lua"
    LEASE "lease.lua"
}

/// One call of a script.
#[derive(Clone, Debug)]
pub(super) struct Call {
    script: &'static Script,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    /// The first two arguments are [the time's](super::time::Time::arguments).
    pub(super) fn new(
        script: &'static Script,
        keys: impl Into<Vec<String>>,
        time: [String; 2],
    ) -> Self {
        Self {
            script,
            keys: keys.into(),
            arguments: time.map(String::into_bytes).into(),
        }
    }

    pub(super) fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(super) fn args<T: Into<Vec<u8>>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// How many bytes it takes to keep.
    pub(super) fn size(&self) -> usize {
        let keys = self.keys.iter().map(String::len);
        let arguments = self.arguments.iter().map(Vec::len);
        keys.chain(arguments).sum()
    }

    /// Overwrites what it was called with.
    pub(super) fn zeroize(&mut self) {
        self.arguments.zeroize();
    }

    /// By the script's name.
    pub(super) fn by_name(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    /// With the script itself, for a server that does not know it, because it was restarted, say.
    pub(super) fn by_source(&self) -> Cmd {
        self.command("EVAL", &self.script.source)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key);
        }
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
        command
    }
}
