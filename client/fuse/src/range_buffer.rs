//! Bytes a program wrote that are not on their way to the cluster yet.
//!
//! Neighbours are joined as they come, up to the boundaries of the file's blocks: a range never crosses one,
//! so that whatever is taken out is at most one block, and a block that was written from end to end is one
//! range. Price: a write over a boundary becomes two ranges.
//!
//! Invariants:
//! - Ranges do not overlap, are not empty and do not cross a multiple of the block size.
//! - `size` is the sum of their lengths.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

/// A run of bytes and where in the file it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

impl Piece {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }

    /// Writes the part of this piece that lies in `target`, which starts at `offset` in the file.
    pub(crate) fn copy_onto(&self, offset: u64, target: &mut [u8]) {
        copy_onto(self.offset, &self.data, offset, target);
    }
}

#[derive(Debug)]
pub(crate) struct RangeBuffer {
    block_size: u64,
    ranges: BTreeMap<u64, BytesMut>,
    size: usize,
}

impl RangeBuffer {
    pub(crate) fn new(block_size: u64) -> RangeBuffer {
        assert!(block_size > 0);
        RangeBuffer {
            block_size,
            ranges: BTreeMap::new(),
            size: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Where the last range ends; 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.ranges
            .last_key_value()
            .map_or(0, |(offset, data)| offset + data.len() as u64)
    }

    /// Takes bytes that are newer than whatever is here.
    pub(crate) fn insert(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.block_size - offset % self.block_size;
            let length = room.min(data.len() as u64) as usize;
            self.insert_within_block(offset, &data[..length]);
            offset += length as u64;
            data = &data[length..];
        }
    }

    /// Takes bytes that are older than whatever is here.
    pub(crate) fn insert_beneath(&mut self, piece: &Piece) {
        let newer = self.overlapping(piece.offset, piece.end());
        self.insert(piece.offset, &piece.data);
        for piece in newer {
            self.insert(piece.offset, &piece.data);
        }
    }

    fn insert_within_block(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.cut(offset, end);
        self.size += data.len();
        let in_block = |at: u64| at / self.block_size == offset / self.block_size;
        let before = self.ranges.range_mut(..offset).next_back();
        let (start, joined) = match before {
            Some((start, before)) if in_block(*start) && start + before.len() as u64 == offset => {
                before.extend_from_slice(data);
                (*start, true)
            }
            _ => (offset, false),
        };
        if !joined {
            self.ranges.insert(offset, BytesMut::from(data));
        }
        if in_block(end)
            && let Some(after) = self.ranges.remove(&end)
            && let Some(range) = self.ranges.get_mut(&start)
        {
            range.extend_from_slice(&after);
        }
    }

    /// Forgets the bytes `from .. to`.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        let first = match self.ranges.range(..from).next_back() {
            Some((start, data)) if start + data.len() as u64 > from => *start,
            _ => from,
        };
        let touched: Vec<u64> = self
            .ranges
            .range((Bound::Included(first), Bound::Excluded(to.max(first))))
            .map(|(start, _)| *start)
            .collect();
        for start in touched {
            let Some(mut data) = self.ranges.remove(&start) else {
                continue;
            };
            self.size -= data.len();
            let end = start + data.len() as u64;
            if end > to {
                let right = data.split_off((to - start) as usize);
                self.size += right.len();
                self.ranges.insert(to, right);
            }
            if start < from {
                data.truncate((from - start) as usize);
                self.size += data.len();
                self.ranges.insert(start, data);
            }
        }
    }

    /// Copies of what is held of `from .. to`, by offset.
    pub(crate) fn overlapping(&self, from: u64, to: u64) -> Vec<Piece> {
        let before = self.ranges.range(..from).next_back();
        let rest = self
            .ranges
            .range((Bound::Included(from), Bound::Excluded(to.max(from))));
        before
            .into_iter()
            .chain(rest)
            .filter_map(|(start, data)| {
                let end = start + data.len() as u64;
                let (low, high) = (from.max(*start), to.min(end));
                (low < high).then(|| Piece {
                    offset: low,
                    data: Bytes::copy_from_slice(&data[(low - start) as usize..(high - start) as usize]),
                })
            })
            .collect()
    }

    /// Takes out the range at `offset` if it fills its block.
    pub(crate) fn take_full_block(&mut self, offset: u64) -> Option<Piece> {
        let start = offset - offset % self.block_size;
        let full = self
            .ranges
            .get(&start)
            .is_some_and(|data| data.len() as u64 == self.block_size);
        if !full {
            return None;
        }
        let data = self.ranges.remove(&start)?;
        self.size -= data.len();
        Some(Piece {
            offset: start,
            data: data.freeze(),
        })
    }

    /// Where ranges lie that fill their block.
    pub(crate) fn full_blocks(&self) -> Vec<u64> {
        let full =
            |(offset, data): (&u64, &BytesMut)| (data.len() as u64 == self.block_size).then_some(*offset);
        self.ranges.iter().filter_map(full).collect()
    }

    /// Takes out everything, by offset.
    pub(crate) fn take_all(&mut self) -> Vec<Piece> {
        self.size = 0;
        std::mem::take(&mut self.ranges)
            .into_iter()
            .map(|(offset, data)| Piece {
                offset,
                data: data.freeze(),
            })
            .collect()
    }
}

fn copy_onto(source_offset: u64, source: &[u8], offset: u64, target: &mut [u8]) {
    let low = source_offset.max(offset);
    let high = (source_offset + source.len() as u64).min(offset + target.len() as u64);
    if low < high {
        target[(low - offset) as usize..(high - offset) as usize]
            .copy_from_slice(&source[(low - source_offset) as usize..(high - source_offset) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 16;

    /// A small generator of its own: the test needs the same numbers every time, nothing more.
    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *seed >> 33
    }

    fn check(buffer: &RangeBuffer, model: &[Option<u8>]) {
        let mut seen = vec![None; model.len()];
        let mut size = 0;
        for piece in buffer.overlapping(0, u64::MAX) {
            assert!(!piece.data.is_empty());
            assert_eq!(piece.offset / BLOCK, (piece.end() - 1) / BLOCK);
            size += piece.data.len();
            for (index, byte) in piece.data.iter().enumerate() {
                let place = &mut seen[piece.offset as usize + index];
                assert!(place.is_none(), "ranges overlap");
                *place = Some(*byte);
            }
        }
        assert_eq!(seen, model);
        assert_eq!(buffer.size(), size);
    }

    #[test]
    fn buffer_holds_what_an_array_of_bytes_would() {
        // Goal: writes, older bytes and cuts in any order leave what a plain array has. Method: seeded model.
        let mut seed = 7;
        for _ in 0..200 {
            let mut buffer = RangeBuffer::new(BLOCK);
            let mut model = vec![None; 96];
            for step in 0..60u8 {
                let from = next(&mut seed) % 80;
                let to = from + next(&mut seed) % 16;
                match next(&mut seed) % 4 {
                    0 => {
                        buffer.cut(from, to);
                        model[from as usize..to as usize].fill(None);
                    }
                    1 => {
                        let data = Bytes::from(vec![step; (to - from) as usize]);
                        buffer.insert_beneath(&Piece { offset: from, data });
                        for place in &mut model[from as usize..to as usize] {
                            place.get_or_insert(step);
                        }
                    }
                    _ => {
                        buffer.insert(from, &vec![step; (to - from) as usize]);
                        model[from as usize..to as usize].fill(Some(step));
                    }
                }
                check(&buffer, &model);
            }
        }
    }

    #[test]
    fn sequential_writes_fill_whole_blocks() {
        // Goal: a stream of small writes comes out as whole blocks. Method: 3-byte writes over two blocks.
        let mut buffer = RangeBuffer::new(BLOCK);
        for index in 0..12 {
            buffer.insert(index * 3, &[index as u8; 3]);
        }
        assert_eq!(buffer.take_full_block(5).map(|piece| piece.offset), Some(0));
        assert_eq!(buffer.take_full_block(20).map(|piece| piece.data.len()), Some(16));
        assert_eq!(buffer.take_full_block(33), None);
        assert_eq!(buffer.size(), 4);
        assert_eq!(buffer.end(), 36);
    }
}
