//! The ordered table under everything the state holds.
//!
//! Every change goes through it, and that buys two things. The digest of the table, the wrapping sum of
//! the digests of its rows, is kept up to date by each change, so that comparing replicas costs nothing.
//! And while a snapshot is being taken, the first change of a row the snapshot has not reached saves the
//! old row aside: the snapshot sees the table as it was at its beginning, and costs memory only for rows
//! that changed meanwhile. The price is hashing the old and the new row at every change.
//!
//! Invariants:
//! - `digest` equals [`Table::digest_from_scratch`] between any two calls.
//! - A row is in `saved` only if its key is beyond the last emitted one.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use super::Error;
use super::codec::{DigestSink, Reader, Row};
use crate::paged_map::PagedMap;

pub(crate) struct Table<K, V> {
    /// Keeps equal rows of different tables apart, in the digest and in snapshots.
    tag: u8,
    rows: PagedMap<K, V>,
    digest: u64,
    capture: Option<Capture<K, V>>,
}

/// A snapshot in progress.
pub(super) struct Capture<K, V> {
    /// The last key emitted.
    emitted: Option<K>,
    /// Old rows of keys changed since; None where there was no row.
    saved: BTreeMap<K, Option<V>>,
}

impl<K: Row + Ord + Clone, V: Row + Clone> Table<K, V> {
    pub(crate) fn new(tag: u8) -> Table<K, V> {
        Table {
            tag,
            rows: PagedMap::new(),
            digest: 0,
            capture: None,
        }
    }

    pub(crate) fn tag(&self) -> u8 {
        self.tag
    }

    pub(crate) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    pub(crate) fn range<R: RangeBounds<K>>(&self, range: R) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.range(range)
    }

    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.rows.first_key_value()
    }

    /// Adds or replaces a row.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.digest = self.digest.wrapping_add(row_digest(self.tag, &key, &value));
        let captured = self.capture.is_some().then(|| key.clone());
        let replaced = self.rows.insert(key, value);
        if let Some((key, old)) = &replaced {
            self.digest = self.digest.wrapping_sub(row_digest(self.tag, key, old));
        }
        if let (Some(capture), Some(key)) = (&mut self.capture, captured) {
            capture.save(&key, || replaced.map(|(_, old)| old));
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (key, value) = self.rows.remove(key)?;
        self.digest = self.digest.wrapping_sub(row_digest(self.tag, &key, &value));
        if let Some(capture) = &mut self.capture {
            capture.save(&key, || Some(value.clone()));
        }
        Some(value)
    }

    /// Changes a row in place; false if there is none.
    pub(crate) fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) -> bool {
        let Some(value) = self.rows.get_mut(key) else {
            return false;
        };
        self.digest = self.digest.wrapping_sub(row_digest(self.tag, key, value));
        if let Some(capture) = &mut self.capture {
            capture.save(key, || Some(value.clone()));
        }
        change(value);
        self.digest = self.digest.wrapping_add(row_digest(self.tag, key, value));
        true
    }

    /// From here on the rows as they are now can be drawn with [`Table::emit`].
    pub(crate) fn begin_capture(&mut self) {
        self.capture = Some(Capture::default());
    }

    pub(crate) fn end_capture(&mut self) {
        self.capture = None;
    }

    /// Appends captured rows to `out` until it has `size_bytes_target` bytes. Returns how many; 0 means
    /// that all are out.
    pub(crate) fn emit(&mut self, out: &mut Vec<u8>, size_bytes_target: usize) -> u32 {
        let Some(capture) = &mut self.capture else {
            return 0;
        };
        let after = capture.emitted();
        capture.emit(self.rows.range((after, Bound::Unbounded)), out, size_bytes_target)
    }

    /// Reads one row of a snapshot. Rows must come in order, as they were emitted.
    pub(crate) fn load_row(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let key = K::decode(reader)?;
        let value = V::decode(reader)?;
        if self.rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(Error::Corrupt("rows are out of order"));
        }
        self.insert(key, value);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn digest_from_scratch(&self) -> u64 {
        let digests = self
            .rows
            .iter()
            .map(|(key, value)| row_digest(self.tag, key, value));
        digests.fold(0, u64::wrapping_add)
    }

    #[cfg(test)]
    pub(crate) fn saved_rows(&self) -> usize {
        self.capture.as_ref().map_or(0, Capture::saved_rows)
    }
}

impl<K, V> Default for Capture<K, V> {
    fn default() -> Capture<K, V> {
        Capture {
            emitted: None,
            saved: BTreeMap::new(),
        }
    }
}

impl<K: Row + Ord + Clone, V: Row> Capture<K, V> {
    /// Where drawing goes on.
    pub(super) fn emitted(&self) -> Bound<K> {
        self.emitted.clone().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// Merges the rows as they are, from [`Capture::emitted`] on, with those saved.
    pub(super) fn emit<'a>(
        &mut self,
        rows: impl Iterator<Item = (&'a K, &'a V)>,
        out: &mut Vec<u8>,
        size_bytes_target: usize,
    ) -> u32
    where
        K: 'a,
        V: 'a,
    {
        let mut rows = rows.peekable();
        let mut last = None;
        let mut count = 0;
        while out.len() < size_bytes_target {
            // The next key is the smaller of the two; the saved row is the older truth about a key in both.
            let saved_is_next = match (self.saved.first_key_value(), rows.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((saved, _)), Some((live, _))) => saved <= *live,
            };
            if saved_is_next {
                let Some((key, value)) = self.saved.pop_first() else {
                    break;
                };
                rows.next_if(|(live, _)| **live == key);
                if let Some(value) = value {
                    key.encode(out);
                    value.encode(out);
                    count += 1;
                }
                last = Some(key);
            } else {
                let Some((key, value)) = rows.next() else { break };
                key.encode(out);
                value.encode(out);
                count += 1;
                last = Some(key.clone());
            }
        }
        if last.is_some() {
            self.emitted = last;
        }
        count
    }

    #[cfg(test)]
    pub(super) fn saved_rows(&self) -> usize {
        self.saved.len()
    }

    pub(super) fn save(&mut self, key: &K, old: impl FnOnce() -> Option<V>) {
        if self.emitted.as_ref().is_some_and(|emitted| key <= emitted) {
            return;
        }
        if !self.saved.contains_key(key) {
            self.saved.insert(key.clone(), old());
        }
    }
}

fn row_digest<K: Row, V: Row>(tag: u8, key: &K, value: &V) -> u64 {
    let mut sink = DigestSink::new();
    tag.encode(&mut sink);
    key.encode(&mut sink);
    value.encode(&mut sink);
    sink.finish()
}
