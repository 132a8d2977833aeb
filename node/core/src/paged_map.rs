//! An ordered map whose rows lie in pages: the memory under millions of inodes, entries and blocks.
//!
//! The standard library's tree has eleven places in each of its nodes. Keys that come in rising order, as inode numbers
//! and blocks do, leave five of them empty for ever. Here rows lie in pages of up to [`PAGE_ROWS_MAX`], a page takes
//! about the room its rows need, and rows that come at the end fill it before there is another. A tree over the
//! pages finds the page, a binary search the row. The price: a row that comes or goes moves the rest of its page, on
//! average a quarter of a microsecond with the largest rows.
//!
//! Invariants:
//! - A page is filed under a key at or below all of its own, and above all of the page before.
//! - No page is empty. Two neighbours are joined when one is small and both fit in one with room to spare.
//! - Everything but the memory taken is what `BTreeMap` would do.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Zip;
use std::ops::{Bound, RangeBounds};
use std::slice;

/// 64: moving half a page of the largest rows costs what the search for it does, and what a page costs
/// beside its rows (about 150 bytes) is 2 bytes a row.
const PAGE_ROWS_MAX: usize = 64;
/// A page with fewer is joined with a neighbour.
const PAGE_ROWS_MIN: usize = 16;
/// Joined pages have at most this many, so that the next rows do not split them again.
const JOINED_ROWS_MAX: usize = 48;
/// Places a growing page gets at once, and may keep empty when it shrinks.
const ROOM_STEP: usize = 8;

#[derive(Debug)]
pub(crate) struct PagedMap<K, V> {
    pages: BTreeMap<K, Page<K, V>>,
    len: usize,
}

/// Keys apart from values: a search touches keys alone.
#[derive(Debug)]
struct Page<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> PagedMap<K, V> {
    pub(crate) const fn new() -> PagedMap<K, V> {
        PagedMap {
            pages: BTreeMap::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<K: Ord + Clone, V> PagedMap<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (_, page) = self.pages.range(..=key).next_back()?;
        let place = page.keys.binary_search(key).ok()?;
        page.values.get(place)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (_, page) = self.pages.range_mut(..=key).next_back()?;
        let place = page.keys.binary_search(key).ok()?;
        page.values.get_mut(place)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn first_key_value(&self) -> Option<(&K, &V)> {
        let (_, page) = self.pages.first_key_value()?;
        page.keys.first().zip(page.values.first())
    }

    pub(crate) fn last_key_value(&self) -> Option<(&K, &V)> {
        let (_, page) = self.pages.last_key_value()?;
        page.keys.last().zip(page.values.last())
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.pages
            .values()
            .flat_map(|page| page.keys.iter().zip(&page.values))
    }

    /// The rows in `range`, in order. Panics if it ends before it starts (a bug, never input).
    pub(crate) fn range<R: RangeBounds<K>>(&self, range: R) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let first = match range.start_bound() {
            Bound::Unbounded => None,
            Bound::Included(key) | Bound::Excluded(key) => self.pages.range(..=key).next_back(),
        };
        let start = first.map_or(Bound::Unbounded, |(filed_under, _)| Bound::Included(filed_under));
        let end = match range.end_bound() {
            Bound::Unbounded => Bound::Unbounded,
            Bound::Included(key) | Bound::Excluded(key) => Bound::Included(key),
        };
        self.pages
            .range::<K, _>((start, end))
            .flat_map(move |(_, page)| page.rows_in(&range))
    }

    /// Adds a row. If the key is there already, its value is replaced, and comes back with the key that was
    /// handed in.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let Some((_, page)) = self.pages.range_mut(..=&key).next_back() else {
            self.insert_before_all(key, value);
            return None;
        };
        let place = match page.keys.binary_search(&key) {
            Ok(place) => {
                let old = std::mem::replace(&mut page.values[place], value);
                return Some((key, old));
            }
            Err(place) => place,
        };
        self.len += 1;
        if page.keys.len() < PAGE_ROWS_MAX {
            page.insert(place, key, value);
            return None;
        }
        // Rows that come at the end of a page are seldom the last to come there: it stays full.
        let mut behind = match place {
            PAGE_ROWS_MAX => Page::new(),
            _ => page.split_off(PAGE_ROWS_MAX / 2),
        };
        match place.checked_sub(page.keys.len()) {
            Some(place) => behind.insert(place, key, value),
            None => page.insert(place, key, value),
        }
        self.file(behind);
        None
    }

    /// The first page is filed under its first key from here on.
    fn insert_before_all(&mut self, key: K, value: V) {
        self.len += 1;
        let mut page = Page::new();
        if let Some(first) = self.pages.first_entry()
            && first.get().keys.len() < PAGE_ROWS_MAX
        {
            page = first.remove();
        }
        page.insert(0, key, value);
        self.file(page);
    }

    fn file(&mut self, page: Page<K, V>) {
        if let Some(first) = page.keys.first() {
            self.pages.insert(first.clone(), page);
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<(K, V)> {
        let (filed_under, page) = self.pages.range_mut(..=key).next_back()?;
        let place = page.keys.binary_search(key).ok()?;
        let row = page.remove(place);
        self.len -= 1;
        if page.keys.len() < PAGE_ROWS_MIN {
            let filed_under = filed_under.clone();
            self.join(&filed_under);
        }
        Some(row)
    }

    /// Joins a small page with a neighbour, if there is one with room.
    fn join(&mut self, filed_under: &K) {
        let count = |page: Option<(&K, &Page<K, V>)>| page.map(|(key, page)| (key.clone(), page.keys.len()));
        let here = self.pages.get(filed_under).map_or(0, |page| page.keys.len());
        let behind = (Bound::Excluded(filed_under), Bound::Unbounded);
        let before = count(self.pages.range(..filed_under).next_back());
        let after = count(self.pages.range::<K, _>(behind).next());
        let fits = |neighbour: &(K, usize)| neighbour.1 + here <= JOINED_ROWS_MAX;
        let (left, right) = match (before.filter(fits), after.filter(fits)) {
            _ if here == 0 => {
                self.pages.remove(filed_under);
                return;
            }
            (Some((before, _)), _) => (before, filed_under.clone()),
            (None, Some((after, _))) => (filed_under.clone(), after),
            (None, None) => return,
        };
        let Some(moved) = self.pages.remove(&right) else {
            return;
        };
        if let btree_map::Entry::Occupied(mut page) = self.pages.entry(left) {
            page.get_mut().append(moved);
        }
    }
}

impl<K, V> Page<K, V> {
    fn new() -> Page<K, V> {
        Page {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    fn insert(&mut self, place: usize, key: K, value: V) {
        if self.keys.len() == self.keys.capacity() {
            self.keys.reserve_exact(ROOM_STEP);
            self.values.reserve_exact(ROOM_STEP);
        }
        self.keys.insert(place, key);
        self.values.insert(place, value);
    }

    fn remove(&mut self, place: usize) -> (K, V) {
        let row = (self.keys.remove(place), self.values.remove(place));
        self.give_back_room();
        row
    }

    fn split_off(&mut self, place: usize) -> Page<K, V> {
        let behind = Page {
            keys: self.keys.split_off(place),
            values: self.values.split_off(place),
        };
        self.give_back_room();
        behind
    }

    fn append(&mut self, mut behind: Page<K, V>) {
        self.keys.reserve_exact(behind.keys.len());
        self.values.reserve_exact(behind.values.len());
        self.keys.append(&mut behind.keys);
        self.values.append(&mut behind.values);
    }

    fn give_back_room(&mut self) {
        if self.keys.capacity() > self.keys.len() + 2 * ROOM_STEP {
            self.keys.shrink_to(self.keys.len() + ROOM_STEP);
            self.values.shrink_to(self.values.len() + ROOM_STEP);
        }
    }
}

impl<K: Ord, V> Page<K, V> {
    fn rows_in(&self, range: &impl RangeBounds<K>) -> Zip<slice::Iter<'_, K>, slice::Iter<'_, V>> {
        let start = match range.start_bound() {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.keys.partition_point(|other| other < key),
            Bound::Excluded(key) => self.keys.partition_point(|other| other <= key),
        };
        let end = match range.end_bound() {
            Bound::Unbounded => self.keys.len(),
            Bound::Included(key) => self.keys.partition_point(|other| other <= key),
            Bound::Excluded(key) => self.keys.partition_point(|other| other < key),
        };
        let rows = start..end.max(start);
        self.keys[rows.clone()].iter().zip(&self.values[rows])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Compares everything one can ask with what the standard library's map says.
    fn check(map: &PagedMap<u64, u64>, model: &BTreeMap<u64, u64>, random: &mut Random, keys_max: u64) {
        assert_eq!(map.len(), model.len());
        assert_eq!(map.first_key_value(), model.first_key_value());
        assert_eq!(map.last_key_value(), model.last_key_value());
        assert!(map.iter().eq(model.iter()));
        for _ in 0..8 {
            let key = random.below(keys_max);
            assert_eq!(map.get(&key), model.get(&key));
            let end = key + random.below(keys_max);
            assert!(map.range(key..end).eq(model.range(key..end)));
            assert!(map.range(key..=end).rev().eq(model.range(key..=end).rev()));
            let behind = (Bound::Excluded(key), Bound::Unbounded);
            assert!(map.range(behind).eq(model.range(behind)));
            assert_eq!(map.range(..key).next_back(), model.range(..key).next_back());
        }
        for (filed_under, page) in &map.pages {
            assert!(!page.keys.is_empty() && page.keys.len() <= PAGE_ROWS_MAX);
            assert!(*filed_under <= page.keys[0]);
            assert!(page.keys.capacity() <= page.keys.len() + 2 * ROOM_STEP);
        }
    }

    #[test]
    fn it_answers_what_an_ordered_map_answers() {
        // Goal: inserting, replacing and removing in any order are those of `BTreeMap`; with few and with many
        // keys, growing and shrinking, from both ends and in between.
        for (seed, keys_max) in [(1, 40), (2, 700), (3, 20_000)] {
            let mut random = Random::new(seed);
            let mut map = PagedMap::new();
            let mut model = BTreeMap::new();
            for round in 0..40u64 {
                let grows = round % 4 != 3;
                for step in 0..keys_max / 4 {
                    let key = match round % 3 {
                        0 => random.below(keys_max),
                        1 => (round * keys_max / 16 + step) % keys_max,
                        _ => keys_max - 1 - (round + step) % keys_max,
                    };
                    if grows == random.chance(8) {
                        let removed = map.remove(&key);
                        assert_eq!(removed, model.remove(&key).map(|value| (key, value)));
                    } else {
                        let value = random.next_u64();
                        let replaced = map.insert(key, value).map(|(_, old)| old);
                        assert_eq!(replaced, model.insert(key, value));
                    }
                    if let Some(value) = map.get_mut(&(key / 2)) {
                        *value += 1;
                        *model.get_mut(&(key / 2)).expect("both have it") += 1;
                    }
                }
                check(&map, &model, &mut random, keys_max);
            }
            let keys: Vec<u64> = model.keys().copied().collect();
            for key in keys {
                map.remove(&key);
            }
            assert_eq!(map.len(), 0);
            assert!(map.pages.is_empty(), "an empty map has no pages");
        }
    }

    #[test]
    fn rows_that_come_in_order_fill_their_pages() {
        // Goal: what is appended takes the room of its rows, and half-emptied pages are joined.
        let mut map = PagedMap::new();
        for key in 0..64_000u64 {
            map.insert(key, ());
        }
        assert_eq!(map.pages.len(), 1000);
        for key in (0..64_000).filter(|key| key % 8 != 0) {
            map.remove(&key);
        }
        assert!(
            map.pages.len() <= 8_000 / PAGE_ROWS_MIN,
            "{} pages",
            map.pages.len()
        );
    }
}
