//! The Lua scripts, one state move each; each file's header says what it takes and answers. `meeting.lua` is no script but
//! what two of them begin with.

use std::sync::LazyLock;

use redis::{Cmd, Script, cmd};

macro_rules! scripts {
    ($($name:ident = $($file:literal)+),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(concat!($(include_str!($file)),+)));)*
        /// Every script's text, to load them again into a server that has lost them.
        pub(super) const SOURCES: &[&str] = &[$(concat!($(include_str!($file)),+)),*];
    };
}

scripts! {
    ACK = "ack.lua",
    RETRY = "retry.lua",
    RELEASE = "release.lua",
    DEAD_LETTER = "dead_letter.lua",
    EXTEND = "extend.lua",
    EXPIRE = "expire.lua",
    REDRIVE = "redrive.lua",
    RELAY = "meeting.lua" "relay.lua",
    MEET = "meeting.lua" "meet.lua",
    OPEN_PASS = "open_pass.lua",
    LEASE = "lease.lua",
    PURGE = "purge.lua",
    PROMOTE = "promote.lua",
    EXPIRED = "expired.lua",
    WITHDRAW = "withdraw.lua",
    CUSTODY = "custody.lua",
    LOOK = "look.lua",
}

/// A call of the script; its arguments are appended with [`Cmd::arg`].
pub(super) fn call(script: &Script, keys: &[&str]) -> Cmd {
    let mut call = cmd("EVALSHA");
    call.arg(script.get_hash()).arg(keys.len()).arg(keys);
    call
}
