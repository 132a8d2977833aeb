//! Extents by offset, as a partition keeps them: a newer one cuts away what lies below it.
//!
//! Invariants:
//! - Extents do not overlap and are not empty.
//! - A block of which nothing was published and nothing is left comes out of `take_useless` once, so that its space can be
//!   given back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bark_schema::ids::BlockId;
use bark_schema::operation::Extent;

#[derive(Debug, Default)]
pub(crate) struct ExtentMap {
    extents: BTreeMap<u64, Extent>,
    /// Cut away, in whole or in part, and not published before.
    useless: Vec<Extent>,
}

impl ExtentMap {
    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    /// Where the last extent ends; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.extents
            .last_key_value()
            .map_or(0, |(_, extent)| extent.end())
    }

    pub(crate) fn insert(&mut self, extent: Extent) {
        if extent.length > 0 {
            self.cut(extent.offset, extent.end());
            self.extents.insert(extent.offset, extent);
        }
    }

    /// Takes `from .. to` away, cutting the extents that reach over the ends.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        let overlapping = self.overlapping(from, to);
        self.useless.extend_from_slice(&overlapping);
        self.remove(overlapping, from, to);
    }

    /// The same for what is part of the file now.
    pub(crate) fn take_published(&mut self, from: u64, to: u64) {
        let overlapping = self.overlapping(from, to);
        self.remove(overlapping, from, to);
    }

    fn remove(&mut self, overlapping: Vec<Extent>, from: u64, to: u64) {
        for extent in overlapping {
            let end = extent.end();
            self.extents.remove(&extent.offset);
            if end > to {
                let skipped = (to - extent.offset) as u32;
                let right = Extent {
                    offset: to,
                    length: extent.length - skipped,
                    block_offset: extent.block_offset + skipped,
                    ..extent.clone()
                };
                self.extents.insert(to, right);
            }
            if extent.offset < from {
                let length = (from - extent.offset) as u32;
                self.extents.insert(extent.offset, Extent { length, ..extent });
            }
        }
    }

    /// Whole extents that overlap `from .. to`, by offset.
    pub(crate) fn overlapping(&self, from: u64, to: u64) -> Vec<Extent> {
        let before = self
            .extents
            .range(..from)
            .next_back()
            .filter(|(_, extent)| extent.end() > from);
        let rest = self
            .extents
            .range((Bound::Included(from), Bound::Excluded(to.max(from))));
        before
            .into_iter()
            .chain(rest)
            .map(|(_, extent)| extent.clone())
            .collect()
    }

    /// Forgets all extents.
    pub(crate) fn clear(&mut self) {
        let extents = std::mem::take(&mut self.extents);
        self.useless.extend(extents.into_values());
    }

    /// Extents of blocks that were cut away and of which nothing is left here, each once.
    pub(crate) fn take_useless(&mut self) -> Vec<Extent> {
        let left: BTreeSet<BlockId> = self.extents.values().map(|extent| extent.block).collect();
        self.useless.retain(|extent| !left.contains(&extent.block));
        self.useless.sort_unstable_by_key(|extent| extent.block);
        self.useless.dedup_by_key(|extent| extent.block);
        std::mem::take(&mut self.useless)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bark_schema::ids::ClientId;

    fn extent(offset: u64, length: u32, counter: u64) -> Extent {
        Extent {
            offset,
            length,
            block: BlockId {
                client: ClientId(1),
                counter,
            },
            block_offset: 0,
            block_size: length,
            checksum: 0,
            nodes: Vec::new(),
        }
    }

    #[test]
    fn newer_extent_cuts_a_hole_into_an_older_one() {
        // Goal: bytes on both sides keep their place in the old block. Method: one write into the middle.
        let mut map = ExtentMap::default();
        map.insert(extent(0, 100, 1));
        map.insert(extent(40, 20, 2));
        let shape: Vec<_> = map
            .overlapping(0, 200)
            .iter()
            .map(|extent| {
                (
                    extent.offset,
                    extent.length,
                    extent.block.counter,
                    extent.block_offset,
                )
            })
            .collect();
        assert_eq!(shape, [(0, 40, 1, 0), (40, 20, 2, 0), (60, 40, 1, 60)]);
        assert_eq!(map.end(), 100);
    }

    #[test]
    fn cutting_removes_what_is_covered_whole() {
        // Goal: nothing is left of a range that was cut. Method: cut over three extents, partly over two.
        let mut map = ExtentMap::default();
        for index in 0..3 {
            map.insert(extent(index * 10, 10, index));
        }
        map.cut(5, 25);
        let shape: Vec<_> = map
            .overlapping(0, u64::MAX)
            .iter()
            .map(|extent| (extent.offset, extent.length, extent.block_offset))
            .collect();
        assert_eq!(shape, [(0, 5, 0), (25, 5, 5)]);
    }

    #[test]
    fn blocks_of_which_nothing_is_left_or_published_are_useless_once() {
        // Goal: space is given back for exactly what nobody will publish. Method: cut one in part, replace one, publish
        // one, forget the rest.
        let mut map = ExtentMap::default();
        for (index, counter) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            map.insert(extent(index * 100, 100, counter));
        }
        map.insert(extent(100, 100, 5));
        map.cut(0, 50);
        map.take_published(200, 300);
        let counters = |extents: Vec<Extent>| -> Vec<u64> {
            let counters = extents.iter().map(|extent| extent.block.counter);
            counters.collect()
        };
        assert_eq!(counters(map.take_useless()), [2]);
        map.clear();
        assert_eq!(counters(map.take_useless()), [1, 4, 5]);
        assert_eq!(counters(map.take_useless()), []);
    }
}
