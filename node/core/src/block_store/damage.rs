//! Copies that do not verify, or that the device does not read.
//!
//! Whoever reads a block finds out: a client's request, another node's, compaction, a scrub. The copy is remembered
//! as bad and told once. A bad copy counts as missing, stays where it is, and is replaced by the next put of its
//! block, behind it in the store: what lies later holds.
//!
//! Invariants:
//! - At most REMEMBERED_MAX are remembered; others are found again when they are read again.
//! - What is remembered is in the index.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bark_schema::ids::BlockId;

use super::{BlockStore, Error, Location};
use crate::checksum::crc32c;
use crate::disk::Disk;

// 65536: two megabytes. A disk with more of them has to be replaced.
const REMEMBERED_MAX: usize = 1 << 16;
/// What Linux says of a sector that cannot be read, and of structures of the file system that do not verify.
const EIO: i32 = 5;
const EBADMSG: i32 = 74;
const EUCLEAN: i32 = 117;

/// Where a bad copy lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCopy {
    pub block: BlockId,
    pub segment: u32,
    pub offset: u64,
}

#[derive(Debug, Default)]
pub(super) struct Damage {
    bad: BTreeMap<BlockId, Location>,
    found: Vec<BadCopy>,
    /// Segments with copies the device does not read: their files are not removed while blocks live in them.
    kept_segments: BTreeSet<u32>,
}

impl Damage {
    pub(super) fn knows(&self, block: BlockId) -> bool {
        self.bad.contains_key(&block)
    }

    /// The copy was replaced or deleted.
    pub(super) fn forget(&mut self, block: BlockId) {
        self.bad.remove(&block);
    }

    /// Those that opening came upon; they are in the store no more.
    pub(super) fn tell_lost(&mut self, lost: Vec<BadCopy>) {
        self.found.extend(lost);
    }

    pub(super) fn take_found(&mut self) -> Vec<BadCopy> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn keep_segment(&mut self, segment: u32) {
        self.kept_segments.insert(segment);
    }

    pub(super) fn keeps_segment(&self, segment: u32) -> bool {
        self.kept_segments.contains(&segment)
    }
}

impl BlockStore {
    /// Reads all of a block and compares it with `checksum`, or with the one it was stored with. Answers its size.
    pub fn verify<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        checksum: Option<u32>,
    ) -> Result<u32, Error> {
        let location = *self.index.get(&block).ok_or(Error::NotFound { block })?;
        let checksum = checksum.unwrap_or(location.checksum);
        let data = self.get(disk, block, 0, u64::from(location.size_bytes))?;
        if location.checksum == checksum && crc32c(&[&data]) == checksum {
            return Ok(location.size_bytes);
        }
        let error = Error::Corrupt {
            block,
            segment: location.segment,
            offset: u64::from(location.offset),
        };
        self.note_damage(block, location, &error);
        Err(error)
    }

    /// It is here, and nobody found it to be bad.
    pub fn is_sound(&self, block: BlockId) -> bool {
        self.index.contains_key(&block) && !self.damage.knows(block)
    }

    /// Remembers a copy as bad if that is what the error means.
    pub(super) fn note_damage(&mut self, block: BlockId, location: Location, error: &Error) {
        let offset = match error {
            Error::Corrupt { offset, .. } => *offset,
            Error::Disk { source, .. } if is_damage(source) => u64::from(location.offset),
            _ => return,
        };
        if self.damage.bad.len() >= REMEMBERED_MAX || self.damage.bad.insert(block, location).is_some() {
            return;
        }
        self.damage.found.push(BadCopy {
            block,
            segment: location.segment,
            offset,
        });
    }
}

/// The device or the file is at fault, not this program's limits.
fn is_damage(source: &io::Error) -> bool {
    matches!(source.raw_os_error(), Some(EIO | EBADMSG | EUCLEAN)) || source.kind() == io::ErrorKind::NotFound
}
