//! The commands by name.
//!
//! Invariants:
//! - The table is sorted by name, for the search.

use bytes::Bytes;

use super::{Planned, Session, client, expiry, many, scan, server, string};

pub struct Spec {
    pub name: &'static str,
    /// Words with the name; negative: at least so many.
    pub arity: i32,
    pub flags: &'static [&'static str],
    /// First key, last key, step; 0 where there is none.
    pub keys: (i64, i64, i64),
    pub plan: fn(&mut Session, &[Bytes]) -> Planned,
}

impl Spec {
    pub fn takes(&self, words: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            words >= wanted
        } else {
            words == wanted
        }
    }
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const ADMIN: &[&str] = &["loading", "stale"];
const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);

macro_rules! table {
    ($($name:literal $arity:literal $flags:ident $keys:ident $plan:path;)*) => {
        pub const COMMANDS: &[Spec] = &[
            $(Spec { name: $name, arity: $arity, flags: $flags, keys: $keys, plan: $plan },)*
        ];
    };
}

table! {
    "append" 3 WRITE ONE string::append;
    "auth" -2 ADMIN NONE client::auth;
    "client" -2 ADMIN NONE client::client;
    "command" -1 ADMIN NONE server::command;
    "config" -2 ADMIN NONE server::config;
    "dbsize" 1 READ NONE scan::database_size;
    "decr" 2 WRITE ONE string::decrement;
    "decrby" 3 WRITE ONE string::decrement_by;
    "del" -2 WRITE ALL many::delete;
    "echo" 2 ADMIN NONE server::echo;
    "exists" -2 READ ALL many::exists;
    "expire" -3 WRITE ONE expiry::expire;
    "expireat" -3 WRITE ONE expiry::expire_at;
    "expiretime" 2 READ ONE expiry::expire_time;
    "flushall" -1 WRITE NONE scan::flush;
    "flushdb" -1 WRITE NONE scan::flush;
    "get" 2 READ ONE string::get;
    "getdel" 2 WRITE ONE string::get_delete;
    "getex" -2 WRITE ONE expiry::get_expire;
    "getrange" 4 READ ONE string::get_range;
    "getset" 3 WRITE ONE string::get_set;
    "hello" -1 ADMIN NONE client::hello;
    "incr" 2 WRITE ONE string::increment;
    "incrby" 3 WRITE ONE string::increment_by;
    "info" -1 ADMIN NONE server::info;
    "keys" 2 READ NONE scan::keys;
    "mget" -2 READ ALL many::get;
    "mset" -3 WRITE ALL many::set;
    "persist" 2 WRITE ONE expiry::persist;
    "pexpire" -3 WRITE ONE expiry::expire_millis;
    "pexpireat" -3 WRITE ONE expiry::expire_at_millis;
    "pexpiretime" 2 READ ONE expiry::expire_time_millis;
    "ping" -1 ADMIN NONE server::ping;
    "psetex" 4 WRITE ONE string::set_expiring_millis;
    "pttl" 2 READ ONE expiry::remaining_millis;
    "quit" -1 ADMIN NONE server::quit;
    "randomkey" 1 READ NONE scan::random_key;
    "reset" 1 ADMIN NONE client::reset;
    "scan" -2 READ NONE scan::scan;
    "select" 2 ADMIN NONE client::select;
    "set" -3 WRITE ONE string::set;
    "setex" 4 WRITE ONE string::set_expiring;
    "setnx" 3 WRITE ONE string::set_if_absent;
    "strlen" 2 READ ONE string::size;
    "touch" -2 READ ALL many::exists;
    "ttl" 2 READ ONE expiry::remaining;
    "type" 2 READ ONE string::kind;
    "unlink" -2 WRITE ALL many::delete;
    "wait" 3 ADMIN NONE server::wait;
}

/// Longest name in the table, and then some.
const NAME_SIZE_MAX: usize = 16;

pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lowered = [0; NAME_SIZE_MAX];
    let lowered = lowered.get_mut(..name.len())?;
    lowered.copy_from_slice(name);
    lowered.make_ascii_lowercase();
    let position = COMMANDS
        .binary_search_by(|spec| spec.name.as_bytes().cmp(lowered))
        .ok()?;
    COMMANDS.get(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        // Goal: the table is in order and no name is too long, by finding each entry.
        for spec in COMMANDS {
            assert_eq!(
                find(spec.name.as_bytes()).map(|found| found.name),
                Some(spec.name)
            );
            assert!(find(spec.name.to_uppercase().as_bytes()).is_some());
        }
        assert!(find(b"").is_none());
        assert!(find(&[b'x'; 100]).is_none());
    }
}
