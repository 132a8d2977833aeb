//! Getting space back: copy what is alive in the emptiest segment to the end, then remove its file.
//!
//! Design: a step at a time, which copies a bounded number of bytes; the caller decides how often. Files in which
//! nothing is alive go first, many in a step, since they cost no copying. Then one segment at a time, chosen by its
//! live share, over as many steps as its living bytes need. A tombstone is copied along while an older
//! segment might hold the block it buries, and dropped otherwise.
//!
//! Between steps the segment is like any other, blocks in it are read and deleted. A crash leaves some of its blocks
//! twice; the later copy counts, and another compaction begins anew with what is left.
//!
//! Invariants:
//! - A file goes only after what was copied from it was synced. It holds no tombstone that an older file may need.
//! - A tombstone is never copied behind a newer life of its block.

use std::vec;

use bark_schema::ids::BlockId;
use bark_schema::limits::MIB;

use super::format::{self, Entry, Kind};
use super::segments::Segment;
use super::{BlockStore, Error, Location, segment};
use crate::disk::Disk;

/// Files removed in one step: a millisecond or two.
const REMOVED_FILES_MAX: usize = 32;

/// How much one step may do, and when there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactConfig {
    /// Segments with at least this share of living bytes are left alone.
    pub live_percent_max: u64,
    /// A step ends with the block that reaches this.
    pub copied_bytes_max: u64,
}

impl Default for CompactConfig {
    fn default() -> CompactConfig {
        CompactConfig {
            // Half: what is copied is at most what is won, and the store takes at most about twice what lives in it.
            live_percent_max: 50,
            // 4: with the reading, about 5 ms of the disk thread.
            copied_bytes_max: 4 * MIB as u64,
        }
    }
}

/// What one step of compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    pub copied_bytes: u64,
    pub removed_files: u64,
    /// Blocks that did not verify when they were to be copied; they are not in the store any more.
    pub damaged: Vec<BlockId>,
    /// There may be more to do.
    pub more: bool,
}

/// The segment that is being emptied, and its records that were not looked at yet.
#[derive(Debug)]
pub(super) struct Victim {
    segment: u32,
    entries: vec::IntoIter<Entry>,
}

impl BlockStore {
    /// One step of removing files without living blocks and of emptying the segment with the smallest share of
    /// them.
    pub fn compact<D: Disk>(&mut self, disk: &mut D, config: CompactConfig) -> Result<CompactReport, Error> {
        self.sync(disk)?;
        let mut report = CompactReport::default();
        self.remove_dead(disk, &mut report)?;
        let victim = match self.victim.take() {
            Some(victim) => Some(victim),
            None => self.choose_victim(disk, config.live_percent_max)?,
        };
        let Some(mut victim) = victim else {
            return Ok(report);
        };
        report.more = true;
        while let Some(entry) = victim.entries.next() {
            self.rescue(disk, victim.segment, &entry, &mut report)?;
            if report.copied_bytes >= config.copied_bytes_max {
                self.victim = Some(victim);
                return Ok(report);
            }
        }
        if self.damage.keeps_segment(victim.segment) {
            return Ok(report);
        }
        self.give_up_unreadable(disk, victim.segment, &mut report)?;
        self.sync(disk)?;
        self.remove_files(disk, &[victim.segment])?;
        report.removed_files += 1;
        Ok(report)
    }

    /// Removes files with neither a living block nor a tombstone. No record depends on any of them, so it
    /// does not matter which of them are still there after a crash.
    fn remove_dead<D: Disk>(&mut self, disk: &mut D, report: &mut CompactReport) -> Result<(), Error> {
        let is_dead = |segment: &Segment| segment.live_bytes == 0 && segment.tombstone_bytes == 0;
        let dead: Vec<u32> = self
            .segments
            .iter()
            .filter(|(id, segment)| is_dead(segment) && !self.is_in_use(*id))
            .map(|(id, _)| id)
            .take(REMOVED_FILES_MAX)
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        report.removed_files += dead.len() as u64;
        report.more = true;
        self.remove_files(disk, &dead)
    }

    /// The end of the store, and what is being emptied.
    fn is_in_use(&self, segment: u32) -> bool {
        let tail = self.tail.as_ref().map(|tail| tail.segment);
        let victim = self.victim.as_ref().map(|victim| victim.segment);
        tail == Some(segment) || victim == Some(segment)
    }

    fn choose_victim<D: Disk>(
        &mut self,
        disk: &mut D,
        live_percent_max: u64,
    ) -> Result<Option<Victim>, Error> {
        let oldest = self.segments.oldest();
        // Tombstones that would be copied along count as alive: else they would be moved for ever.
        let kept_bytes = |id: u32, segment: &Segment| match oldest == Some(id) {
            true => segment.live_bytes,
            false => segment.live_bytes + segment.tombstone_bytes,
        };
        let emptiest = self
            .segments
            .iter()
            .filter(|(id, _)| !self.is_in_use(*id) && !self.damage.keeps_segment(*id))
            .map(|(id, segment)| (kept_bytes(id, segment) * 100 / segment.size_bytes.max(1), id))
            .filter(|(live_percent, _)| *live_percent < live_percent_max)
            .min();
        let Some((_, segment)) = emptiest else {
            return Ok(None);
        };
        let entries = self.sealed_entries(disk, segment)?.into_iter();
        Ok(Some(Victim { segment, entries }))
    }

    fn sealed_entries<D: Disk>(&mut self, disk: &mut D, victim: u32) -> Result<Vec<Entry>, Error> {
        let file = self.file(disk, victim)?;
        let failed = |source| Error::Disk {
            action: "read",
            path: self.path(victim),
            source,
        };
        match segment::read_footer(disk, file, victim).map_err(failed)? {
            Some(entries) => Ok(entries),
            // The footer rotted since it was written; the heads say the same.
            None => Ok(segment::scan(disk, file, victim).map_err(failed)?.entries),
        }
    }

    fn rescue<D: Disk>(
        &mut self,
        disk: &mut D,
        victim: u32,
        entry: &Entry,
        report: &mut CompactReport,
    ) -> Result<(), Error> {
        let Entry {
            block,
            offset,
            size_bytes,
            checksum,
            kind,
        } = *entry;
        let present = self.index.get(&block).copied();
        if kind == Kind::Tombstone {
            let is_needed = self.segments.oldest() != Some(victim) && present.is_none();
            if is_needed {
                report.copied_bytes += format::record_size_bytes(0);
                self.append_tombstone(disk, block)?;
            }
            return Ok(());
        }
        let here = Location {
            segment: victim,
            offset,
            size_bytes,
            checksum,
        };
        if present != Some(here) {
            return Ok(());
        }
        match self.get(disk, block, 0, u64::from(size_bytes)) {
            Ok(data) => {
                report.copied_bytes += format::record_size_bytes(size_bytes);
                self.append_block(disk, block, &data, (checksum, size_bytes), true)
            }
            Err(Error::Corrupt { block, .. }) => self.give_up(disk, block, report),
            // Not given up: the device may read it another time.
            Err(Error::Disk { .. }) if self.damage.knows(block) => {
                self.damage.keep_segment(victim);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Blocks of `victim` that neither a footer nor a head names any more.
    fn give_up_unreadable<D: Disk>(
        &mut self,
        disk: &mut D,
        victim: u32,
        report: &mut CompactReport,
    ) -> Result<(), Error> {
        if self
            .segments
            .get(victim)
            .is_none_or(|segment| segment.live_bytes == 0)
        {
            return Ok(());
        }
        let left = self
            .index
            .iter()
            .filter(|(_, location)| location.segment == victim);
        let left: Vec<BlockId> = left.map(|(block, _)| *block).collect();
        left.into_iter()
            .try_for_each(|block| self.give_up(disk, block, report))
    }

    fn give_up<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        report: &mut CompactReport,
    ) -> Result<(), Error> {
        // Older copies of it must not come back to life.
        self.append_tombstone(disk, block)?;
        self.forget(block);
        self.damage.forget(block);
        report.damaged.push(block);
        Ok(())
    }

    /// They are gone for good when this returns.
    fn remove_files<D: Disk>(&mut self, disk: &mut D, segments: &[u32]) -> Result<(), Error> {
        for segment in segments {
            if let Some(position) = self.open_files.iter().position(|(id, _)| id == segment)
                && let Some((_, file)) = self.open_files.remove(position)
            {
                disk.close(file);
            }
        }
        let removed = segments
            .iter()
            .try_for_each(|segment| disk.remove(&self.path(*segment)))
            .and_then(|()| disk.sync_directory(&self.directory));
        removed.map_err(|source| {
            self.poisoned = true;
            self.failed("remove", source)
        })?;
        for segment in segments {
            self.segments.remove(*segment);
        }
        Ok(())
    }
}
