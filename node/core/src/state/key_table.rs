//! The table of keys: found by hash, kept in order for pages and snapshots.
//!
//! Most requests of the whole node are one look at one key, and a tree pays a cache miss for each of its levels and
//! compares whole keys on the way. So the rows lie in a hash map and the tree holds only the keys, shared with the
//! map: it is touched when a key comes or goes, not when its value changes. Each row's digest is kept beside it, so
//! that a change hashes the new row only. The price: about 60 bytes more for each key.
//!
//! Invariants:
//! - `order` has exactly the keys of `rows`.
//! - `digest` is the sum of the digests kept beside the rows, and equals [`KeyTable::digest_from_scratch`].
//! - Nothing depends on the order of the hash map: the seed may differ between replicas, and should, since
//!   clients choose the keys.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use super::Error;
use super::codec::{DigestSink, Reader, Row, Sink, encode_bytes};
use super::key::KeyRow;
use super::table::Capture;

type Key = Arc<[u8]>;

pub(crate) struct KeyTable {
    tag: u8,
    rows: HashMap<Key, Kept, KeyHash>,
    order: BTreeSet<Key>,
    digest: u64,
    capture: Option<Capture<Key, KeyRow>>,
}

struct Kept {
    row: KeyRow,
    digest: u64,
}

impl KeyTable {
    pub(crate) fn new(tag: u8) -> KeyTable {
        KeyTable {
            tag,
            rows: HashMap::with_hasher(KeyHash { seed: 0 }),
            order: BTreeSet::new(),
            digest: 0,
            capture: None,
        }
    }

    /// Places the rows anew, so that nobody outside knows which keys collide.
    pub(crate) fn set_hash_seed(&mut self, seed: u64) {
        let rows = std::mem::replace(&mut self.rows, HashMap::with_hasher(KeyHash { seed }));
        self.rows.extend(rows);
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

    pub(crate) fn get(&self, key: &[u8]) -> Option<&KeyRow> {
        self.rows.get(key).map(|kept| &kept.row)
    }

    /// In the order of the keys.
    pub(crate) fn range(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], &KeyRow)> {
        let keys = self.order.range::<[u8], _>((from, Bound::Unbounded));
        ordered(&self.rows, keys).map(|(key, row)| (&key[..], row))
    }

    /// Adds or replaces a row; returns when the one before would have expired.
    pub(crate) fn insert(&mut self, key: &[u8], row: KeyRow) -> Option<u64> {
        let digest = key_row_digest(self.tag, key, &row);
        self.digest = self.digest.wrapping_add(digest);
        if let Some(kept) = self.rows.get_mut(key) {
            self.digest = self.digest.wrapping_sub(kept.digest);
            kept.digest = digest;
            let old = std::mem::replace(&mut kept.row, row);
            let expired = old.expires;
            if let Some(capture) = &mut self.capture {
                capture.save(&key.into(), || Some(old));
            }
            return expired;
        }
        let key: Key = key.into();
        if let Some(capture) = &mut self.capture {
            capture.save(&key, || None);
        }
        self.order.insert(key.clone());
        self.rows.insert(key, Kept { row, digest });
        None
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<KeyRow> {
        let (key, kept) = self.rows.remove_entry(key)?;
        self.order.remove(&key);
        self.digest = self.digest.wrapping_sub(kept.digest);
        if let Some(capture) = &mut self.capture {
            capture.save(&key, || Some(kept.row.clone()));
        }
        Some(kept.row)
    }

    /// From here on the rows as they are now can be drawn with [`KeyTable::emit`].
    pub(crate) fn begin_capture(&mut self) {
        self.capture = Some(Capture::default());
    }

    pub(crate) fn end_capture(&mut self) {
        self.capture = None;
    }

    /// As [`Table::emit`](super::table::Table::emit).
    pub(crate) fn emit(&mut self, out: &mut Vec<u8>, size_bytes_target: usize) -> u32 {
        let Some(capture) = &mut self.capture else {
            return 0;
        };
        let after = capture.emitted();
        let keys = self.order.range((after, Bound::Unbounded));
        capture.emit(ordered(&self.rows, keys), out, size_bytes_target)
    }

    /// Reads one row of a snapshot. Rows must come in order, as they were emitted.
    pub(crate) fn load_row(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let key: Box<[u8]> = Row::decode(reader)?;
        let row = KeyRow::decode(reader)?;
        if self.order.last().is_some_and(|last| last[..] >= key[..]) {
            return Err(Error::Corrupt("rows are out of order"));
        }
        self.insert(&key, row);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &KeyRow)> {
        self.range(Bound::Unbounded)
    }

    #[cfg(test)]
    pub(crate) fn digest_from_scratch(&self) -> u64 {
        let digests = self.iter().map(|(key, row)| key_row_digest(self.tag, key, row));
        digests.fold(0, u64::wrapping_add)
    }

    #[cfg(test)]
    pub(crate) fn saved_rows(&self) -> usize {
        self.capture.as_ref().map_or(0, Capture::saved_rows)
    }
}

fn ordered<'a>(
    rows: &'a HashMap<Key, Kept, KeyHash>,
    keys: impl Iterator<Item = &'a Key>,
) -> impl Iterator<Item = (&'a Key, &'a KeyRow)> {
    keys.filter_map(|key| Some((key, &rows.get(key)?.row)))
}

/// What `Table` would have for the same row.
fn key_row_digest(tag: u8, key: &[u8], row: &KeyRow) -> u64 {
    let mut sink = DigestSink::new();
    tag.encode(&mut sink);
    encode_bytes(key, &mut sink);
    row.encode(&mut sink);
    sink.finish()
}

impl Row for Key {
    fn encode<S: Sink>(&self, sink: &mut S) {
        encode_bytes(self, sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Box::<[u8]>::decode(reader)?.into())
    }
}

/// Multiplies eight bytes at a time and folds the upper half of the product onto the lower (as wyhash does).
#[derive(Clone, Copy)]
struct KeyHash {
    seed: u64,
}

impl BuildHasher for KeyHash {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.seed ^ 0x9e37_79b9_7f4a_7c15)
    }
}

struct Folded(u64);

impl Folded {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(0xd6e8_feb8_6659_fd93_u64);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last));
    }

    /// Lengths of slices come this way.
    fn write_usize(&mut self, number: usize) {
        self.fold(number as u64 ^ 0xa076_1d64_78bd_642f);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
