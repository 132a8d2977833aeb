//! Keys: values, versions and times to live.
//!
//! A key whose time has come by the entry's time counts as absent, whether or not `KeyExpireDue` has
//! removed it. The index `expiries` orders the keys that expire by when they do.
//!
//! Invariants:
//! - `expiries` has exactly one row for each key with an expiry, and none other.
//! - A key's version is the index of the log entry that changed it last.

use bark_schema::limits::{KEY_SIZE_MAX, KIB, VALUE_SIZE_MAX};
use bark_schema::operation::{Condition, Expiry, Failure, Refusal, Reply, UnixMillis};
use bytes::Bytes;

use super::State;
use super::codec::row_struct;
use super::lock::LockKey;
use crate::partition::event::FoundKey;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyRow {
    pub(crate) value: Bytes,
    pub(crate) version: u64,
    pub(crate) expires: Option<UnixMillis>,
}
row_struct!(KeyRow {
    value,
    version,
    expires
});

/// Keys touched at once: more than the processor's load buffers can overlap gains nothing.
pub const TOUCHED_KEYS_MAX: usize = 16;

/// What a read of one key meets.
pub enum KeyFound<'a> {
    Value(Option<FoundKey<'a>>),
    /// Due but still here: its end must be in the log before anybody is told.
    Expired,
    Locked(Failure),
}

/// Values up to this size are copied out of the entry they came in, so that a small value does not keep
/// a batch of entries in memory.
const VALUE_COPIED_SIZE_MAX: usize = 64 * KIB;

/// Most rows of the expiry index looked at past locked keys.
const DUE_LOOK_MAX: usize = 64;

impl KeyRow {
    pub(crate) fn is_due(&self, now_ms: UnixMillis) -> bool {
        self.expires.is_some_and(|expires| expires <= now_ms)
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), Failure> {
    if key.len() > KEY_SIZE_MAX {
        return Err(Failure::refused(Refusal::InvalidArgument, "key is too long"));
    }
    Ok(())
}

pub(crate) fn check_value(value: &[u8]) -> Result<(), Failure> {
    if value.len() > VALUE_SIZE_MAX {
        return Err(Failure::refused(Refusal::FileTooLarge, "value is too large"));
    }
    Ok(())
}

impl State {
    /// Brings what a look at these keys needs into the cache. The looks are independent of each other, so the
    /// processor has their misses under way at the same time; one after the other they cost several times more.
    pub fn touch_keys<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut rows = [None; TOUCHED_KEYS_MAX];
        for (row, key) in rows.iter_mut().zip(keys) {
            *row = self.keys.get(key);
        }
        for row in rows.into_iter().flatten() {
            std::hint::black_box(row.value.first());
        }
    }

    /// One key as a read at `now_ms` finds it.
    pub fn read_key(&self, now_ms: UnixMillis, key: &[u8]) -> KeyFound<'_> {
        let found = self.keys.get(key);
        if found.is_some_and(|row| row.is_due(now_ms)) {
            return KeyFound::Expired;
        }
        if self.locks.len() > 0
            && let Err(failure) = self.check_unlocked(&LockKey::key(key))
        {
            return KeyFound::Locked(failure);
        }
        KeyFound::Value(found.map(|row| FoundKey {
            value: &row.value,
            version: row.version,
            expires: row.expires,
        }))
    }

    /// The key as of `now_ms`.
    pub(crate) fn live_key(&self, key: &[u8], now_ms: UnixMillis) -> Option<&KeyRow> {
        self.keys.get(key).filter(|row| !row.is_due(now_ms))
    }

    pub(super) fn key_set(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        expiry: Expiry,
        condition: Condition,
        return_previous: bool,
    ) -> Result<Reply, Failure> {
        check_key(key)?;
        check_value(value)?;
        self.check_unlocked(&LockKey::key(key))?;
        let now_ms = self.time_ms();
        let current = self.live_key(key, now_ms);
        let previous = current.filter(|_| return_previous).map(|row| row.value.clone());
        if !condition_holds(condition, current) {
            let version = current.map_or(0, |row| row.version);
            return Ok(Reply::Set {
                applied: false,
                version,
                previous,
            });
        }
        let expires = match expiry {
            Expiry::Never => None,
            Expiry::Keep => current.and_then(|row| row.expires),
            Expiry::At(when) => Some(when),
            Expiry::After(span) => Some(now_ms.saturating_add(span)),
        };
        self.put_key(key, value.clone(), expires);
        Ok(Reply::Set {
            applied: true,
            version: self.applied,
            previous,
        })
    }

    pub(super) fn key_delete(&mut self, keys: &[Bytes], condition: Condition) -> Result<Reply, Failure> {
        for key in keys {
            check_key(key)?;
            self.check_unlocked(&LockKey::key(key))?;
        }
        let now_ms = self.time_ms();
        let mut count = 0;
        for key in keys {
            let current = self.live_key(key, now_ms);
            if current.is_some() && condition_holds(condition, current) {
                self.drop_key(key);
                count += 1;
            }
        }
        Ok(Reply::Count(count))
    }

    pub(super) fn key_increment(&mut self, key: &Bytes, by: i64) -> Result<Reply, Failure> {
        check_key(key)?;
        self.check_unlocked(&LockKey::key(key))?;
        let current = self.live_key(key, self.time_ms());
        let expires = current.and_then(|row| row.expires);
        let number = match current {
            None => 0,
            Some(row) => parse_integer(&row.value).ok_or_else(|| {
                Failure::refused(Refusal::NotInteger, "value is not an integer or out of range")
            })?,
        };
        let sum = number
            .checked_add(by)
            .ok_or_else(|| Failure::refused(Refusal::Overflow, "increment or decrement would overflow"))?;
        self.put_key(key, Bytes::from(sum.to_string()), expires);
        Ok(Reply::Number(sum))
    }

    pub(super) fn key_expire_due(&mut self, limit: u32) -> Result<Reply, Failure> {
        let now_ms = self.time_ms();
        let limit = limit as usize;
        let due: Vec<_> = self
            .due_keys(now_ms)
            .take(limit)
            .map(Bytes::copy_from_slice)
            .collect();
        for key in &due {
            self.drop_key(key);
        }
        Ok(Reply::Count(due.len() as u64))
    }

    /// Keys whose time has come and that no transaction holds.
    fn due_keys(&self, now_ms: UnixMillis) -> impl Iterator<Item = &[u8]> {
        let due = self
            .expiries
            .iter()
            .take_while(move |((expires, _), ())| *expires <= now_ms);
        due.map(|((_, key), ())| &**key)
            .filter(|key| !self.locks.contains(&LockKey::key(key)))
    }

    pub(super) fn any_due_key(&self, now_ms: UnixMillis) -> bool {
        let due = self
            .expiries
            .iter()
            .take_while(move |((expires, _), ())| *expires <= now_ms);
        let mut looked = due.take(DUE_LOOK_MAX);
        looked.any(|((_, key), ())| !self.locks.contains(&LockKey::key(key)))
    }

    pub(super) fn put_key(&mut self, key: &[u8], value: Bytes, expires: Option<UnixMillis>) {
        let value = if value.len() <= VALUE_COPIED_SIZE_MAX {
            Bytes::copy_from_slice(&value)
        } else {
            value
        };
        self.place_key(key, value, expires);
    }

    /// As [`State::put_key`], with a value that is already a copy of its own.
    pub(super) fn place_key(&mut self, key: &[u8], value: Bytes, expires: Option<UnixMillis>) {
        let row = KeyRow {
            value,
            version: self.applied,
            expires,
        };
        if let Some(old) = self.keys.insert(key, row) {
            self.expiries.remove(&(old, key.into()));
        }
        if let Some(expires) = expires {
            self.expiries.insert((expires, key.into()), ());
        }
    }

    pub(super) fn drop_key(&mut self, key: &[u8]) {
        let Some(row) = self.keys.remove(key) else {
            return;
        };
        if let Some(expires) = row.expires {
            self.expiries.remove(&(expires, key.into()));
        }
    }
}

fn condition_holds(condition: Condition, current: Option<&KeyRow>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::IfAbsent => current.is_none(),
        Condition::IfPresent => current.is_some(),
        Condition::IfVersion(version) => current.is_some_and(|row| row.version == version),
    }
}

/// Redis' rule: an optional minus, digits without leading zeros, nothing else.
fn parse_integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}
