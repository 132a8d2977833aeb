//! Getting space back: copy what is alive in the emptiest segment to the end, then remove its file.
//!
//! Design: one segment at a time, chosen by its live share; the caller decides how often. A tombstone is
//! copied along while an older segment might hold the block it buries, and dropped otherwise.
//!
//! Invariants:
//! - The file goes only after the copies were synced, and each removal is durable before the next.
//! - A tombstone is never copied behind a newer life of its block.

use bark_schema::ids::BlockId;

use super::format::{Entry, Kind};
use super::{BlockStore, Error, Location, Segment, segment};
use crate::disk::Disk;

/// What one round of compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    pub reclaimed_bytes: u64,
    /// Blocks that did not verify when they were to be copied; they are not in the store any more.
    pub damaged: Vec<BlockId>,
}

impl BlockStore {
    /// Rewrites the sealed segment with the smallest share of live bytes, if that is below
    /// `live_percent_max`. `None` if there is none.
    pub fn compact<D: Disk>(
        &mut self,
        disk: &mut D,
        live_percent_max: u64,
    ) -> Result<Option<CompactReport>, Error> {
        self.sync(disk)?;
        let Some(victim) = self.emptiest(live_percent_max) else {
            return Ok(None);
        };
        let (_, total_before) = self.space();
        let mut report = CompactReport::default();
        for entry in self.sealed_entries(disk, victim)? {
            self.rescue(disk, victim, &entry, &mut report)?;
        }
        self.give_up_unreadable(disk, victim, &mut report)?;
        self.sync(disk)?;
        self.remove_segment(disk, victim)?;
        let (_, total_after) = self.space();
        report.reclaimed_bytes = total_before.saturating_sub(total_after);
        Ok(Some(report))
    }

    fn emptiest(&self, live_percent_max: u64) -> Option<u32> {
        let tail = self.tail.as_ref().map(|tail| tail.segment);
        let oldest = self.segments.keys().next().copied();
        // Tombstones that would be copied along count as alive: else they would be moved for ever.
        let kept_bytes = |id: u32, segment: &Segment| match oldest == Some(id) {
            true => segment.live_bytes,
            false => segment.live_bytes + segment.tombstone_bytes,
        };
        self.segments
            .iter()
            .filter(|(id, _)| Some(**id) != tail)
            .map(|(id, segment)| (kept_bytes(*id, segment) * 100 / segment.size_bytes.max(1), *id))
            .filter(|(live_percent, _)| *live_percent < live_percent_max)
            .min()
            .map(|(_, id)| id)
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
            let older = self.segments.range(..victim).next().is_some();
            return if older && present.is_none() {
                self.append_tombstone(disk, block)
            } else {
                Ok(())
            };
        }
        if present
            != Some(Location {
                segment: victim,
                offset,
                size_bytes,
                checksum,
            })
        {
            return Ok(());
        }
        match self.get(disk, block, 0, u64::from(size_bytes)) {
            Ok(data) => self.append_block(disk, block, &data, checksum, size_bytes),
            Err(Error::Corrupt { block, .. }) => self.give_up(disk, block, report),
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
            .get(&victim)
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
        report.damaged.push(block);
        Ok(())
    }

    fn remove_segment<D: Disk>(&mut self, disk: &mut D, victim: u32) -> Result<(), Error> {
        if let Some(position) = self.open_files.iter().position(|(id, _)| *id == victim)
            && let Some((_, file)) = self.open_files.remove(position)
        {
            disk.close(file);
        }
        let removed = disk
            .remove(&self.path(victim))
            .and_then(|()| disk.sync_directory(&self.directory));
        removed.map_err(|source| {
            self.poisoned = true;
            self.failed("remove", source)
        })?;
        self.segments.remove(&victim);
        Ok(())
    }
}
