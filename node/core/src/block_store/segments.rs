//! What the store knows of each segment file, and the sums over all of them.
//!
//! Invariant: the sums are those of the rows between any two calls, so that asking for them costs nothing.

use std::collections::BTreeMap;

use super::format;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) size_bytes: u64,
    /// Of the blocks whose latest record is here.
    pub(super) live_bytes: u64,
    pub(super) tombstone_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Segments {
    rows: BTreeMap<u32, Segment>,
    live_bytes: u64,
    size_bytes: u64,
}

impl Segments {
    pub(super) fn get(&self, segment: u32) -> Option<&Segment> {
        self.rows.get(&segment)
    }

    /// By age, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.rows.iter().map(|(id, segment)| (*id, segment))
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        self.rows.keys().next().copied()
    }

    /// Bytes of blocks that are here, and of all segment files.
    pub(super) fn space(&self) -> (u64, u64) {
        (self.live_bytes, self.size_bytes)
    }

    /// Says how large a segment is; one that is not known begins here.
    pub(super) fn resize(&mut self, segment: u32, size_bytes: u64) {
        let row = self.rows.entry(segment).or_default();
        self.size_bytes = self.size_bytes - row.size_bytes + size_bytes;
        row.size_bytes = size_bytes;
    }

    pub(super) fn add_block(&mut self, segment: u32, size_bytes: u32) {
        if let Some(row) = self.rows.get_mut(&segment) {
            row.live_bytes += format::record_size_bytes(size_bytes);
            self.live_bytes += format::record_size_bytes(size_bytes);
        }
    }

    pub(super) fn drop_block(&mut self, segment: u32, size_bytes: u32) {
        if let Some(row) = self.rows.get_mut(&segment) {
            row.live_bytes -= format::record_size_bytes(size_bytes);
            self.live_bytes -= format::record_size_bytes(size_bytes);
        }
    }

    pub(super) fn add_tombstone(&mut self, segment: u32) {
        if let Some(row) = self.rows.get_mut(&segment) {
            row.tombstone_bytes += format::record_size_bytes(0);
        }
    }

    pub(super) fn remove(&mut self, segment: u32) {
        if let Some(row) = self.rows.remove(&segment) {
            self.live_bytes -= row.live_bytes;
            self.size_bytes -= row.size_bytes;
        }
    }
}
