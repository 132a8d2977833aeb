//! Blocks that are stored and not yet part of the file, laid over each other and over the file's map.
//!
//! Invariants:
//! - Staged extents do not overlap; the younger one won.
//! - Publishing in order of offset publishes what the newest bytes are.

use std::collections::BTreeMap;

use bark_schema::data::{FileMap, Patch, Place};
use bark_schema::operation::Extent;

#[derive(Clone, Debug, Default)]
pub(super) struct Staged {
    extents: BTreeMap<u64, Extent>,
}

impl Staged {
    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Where the last one ends; 0 without any.
    pub(super) fn end(&self) -> u64 {
        self.extents.values().next_back().map_or(0, Extent::end)
    }

    /// Lays an extent over what is there.
    pub(super) fn lay(&mut self, extent: Extent) {
        self.cut(extent.offset, extent.end());
        self.extents.insert(extent.offset, extent);
    }

    /// Takes a range away, splitting what reaches over its edges.
    fn cut(&mut self, from: u64, to: u64) {
        for start in self.starts(from, to) {
            let Some(old) = self.extents.remove(&start) else {
                continue;
            };
            if let Some(left) = part(&old, old.offset, from) {
                self.extents.insert(left.offset, left);
            }
            if let Some(right) = part(&old, to, old.end()) {
                self.extents.insert(right.offset, right);
            }
        }
    }

    /// Where those begin that overlap a range.
    fn starts(&self, from: u64, to: u64) -> Vec<u64> {
        let before = self.extents.range(..from).next_back();
        let first = before.filter(|(_, extent)| extent.end() > from);
        let inside = self.extents.range(from..to.max(from));
        first.into_iter().chain(inside).map(|(start, _)| *start).collect()
    }

    pub(super) fn overlaps(&self, from: u64, to: u64) -> bool {
        !self.starts(from, to).is_empty()
    }

    /// Those that overlap a range.
    pub(super) fn part(&self, from: u64, to: u64) -> Staged {
        let starts = self.starts(from, to).into_iter();
        let mut extents: BTreeMap<u64, Extent> = starts
            .filter_map(|start| self.extents.get(&start))
            .map(|extent| (extent.offset, extent.clone()))
            .collect();
        // The last one too: it tells the size.
        if let Some((start, last)) = self.extents.last_key_value() {
            extents.insert(*start, last.clone());
        }
        Staged { extents }
    }

    /// The first ones, by offset.
    pub(super) fn first(&self, count_max: usize) -> Vec<Extent> {
        self.extents.values().take(count_max).cloned().collect()
    }

    /// Takes out what was published, unless something younger lies there by now.
    pub(super) fn remove(&mut self, published: &[Extent]) {
        for extent in published {
            let starts = self.starts(extent.offset, extent.end());
            for start in starts {
                if self
                    .extents
                    .get(&start)
                    .is_some_and(|now| now.block == extent.block)
                {
                    self.extents.remove(&start);
                }
            }
        }
    }

    /// The map of a range with these laid over it.
    pub(super) fn over(&self, map: &FileMap, from: u64, to: u64) -> FileMap {
        let mut merged = FileMap {
            known_until: map.known_until,
            ..FileMap::default()
        };
        let mut at = from;
        let over = self.starts(from, to).into_iter();
        let over: Vec<&Extent> = over.filter_map(|start| self.extents.get(&start)).collect();
        for extent in over {
            below(map, at, extent.offset.min(to), &mut merged);
            at = extent.end().max(at);
            merged.extents.push(extent.clone());
        }
        below(map, at, to, &mut merged);
        merged
    }
}

/// The map with bytes laid over it that were written since.
pub(super) fn with_patch(map: &FileMap, patch: Patch) -> FileMap {
    let mut merged = FileMap {
        known_until: map.known_until,
        ..FileMap::default()
    };
    let (start, end) = (patch.offset, patch.end());
    below(map, 0, start, &mut merged);
    merged.patches.push(patch);
    below(map, end, map.known_until, &mut merged);
    merged
}

/// Adds what `map` has of a range to `merged`.
fn below(map: &FileMap, from: u64, to: u64, merged: &mut FileMap) {
    if from >= to {
        return;
    }
    for piece in map.pieces(from, to) {
        let offset = piece.offset;
        match piece.place {
            Place::Hole => {}
            Place::Bytes(data) => merged.patches.push(Patch { offset, data }),
            Place::Block { extent, .. } => {
                merged.extents.extend(part(extent, offset, offset + piece.length));
            }
        }
    }
}

/// The part of an extent in a range of the file, if there is any.
fn part(extent: &Extent, from: u64, to: u64) -> Option<Extent> {
    let (from, to) = (from.max(extent.offset), to.min(extent.end()));
    let skip = from.checked_sub(extent.offset)? as u32;
    (from < to).then(|| Extent {
        offset: from,
        length: (to - from) as u32,
        block_offset: extent.block_offset + skip,
        ..extent.clone()
    })
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::{BlockId, ClientId, PartitionId};

    use super::*;

    fn extent(offset: u64, length: u32, counter: u64) -> Extent {
        Extent {
            offset,
            length,
            block: BlockId::new(ClientId(1), PartitionId(0), counter),
            block_offset: 0,
            block_size: length,
            checksum: 0,
            nodes: Vec::new(),
        }
    }

    fn describe(extents: &[Extent]) -> Vec<(u64, u32, u64, u32)> {
        let counter = |extent: &Extent| extent.block.counter & BlockId::COUNTER_MAX;
        let row = |extent: &Extent| (extent.offset, extent.length, counter(extent), extent.block_offset);
        extents.iter().map(row).collect()
    }

    #[test]
    fn the_younger_extent_wins_and_splits_the_older() {
        let mut staged = Staged::default();
        staged.lay(extent(0, 100, 1));
        staged.lay(extent(40, 20, 2));
        let expected = [(0, 40, 1, 0), (40, 20, 2, 0), (60, 40, 1, 60)];
        assert_eq!(describe(&staged.first(10)), expected);
        assert!(staged.overlaps(99, 100) && !staged.overlaps(100, 200));
    }

    #[test]
    fn what_was_published_goes_unless_something_younger_lies_there() {
        let mut staged = Staged::default();
        staged.lay(extent(0, 100, 1));
        let published = staged.first(10);
        staged.lay(extent(40, 20, 2));
        staged.remove(&published);
        assert_eq!(describe(&staged.first(10)), [(40, 20, 2, 0)]);
    }

    #[test]
    fn staged_extents_cover_the_map_below() {
        let mut staged = Staged::default();
        staged.lay(extent(10, 10, 2));
        let map = FileMap {
            extents: vec![extent(0, 30, 1)],
            patches: Vec::new(),
            known_until: 1_000,
        };
        let merged = staged.over(&map, 5, 25);
        assert_eq!(
            describe(&merged.extents),
            [(5, 5, 1, 5), (10, 10, 2, 0), (20, 5, 1, 20)]
        );
        assert_eq!(merged.pieces(5, 25).map(|piece| piece.length).sum::<u64>(), 20);
    }
}
