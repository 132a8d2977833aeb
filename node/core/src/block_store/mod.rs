//! The block store: immutable, checksummed blocks in append-only segment files.
//!
//! Previous in the flow: block bytes from clients, peers and applied log entries. Next: reads and scrub.
//!
//! Design: a block is written once, behind a head that carries its checksum and one for each 64 KiB
//! page, so that a partial read verifies only the pages it touches. The index is in memory, an ordered map
//! of 32 bytes a block (at most 48 with the map's own cost) so that nothing depends on hash order. A full segment
//! is sealed with a footer that repeats its heads; opening reads footers, and scans only the one segment
//! that was being written, which it then seals. Deleting appends a tombstone; `compact` copies what is
//! alive in the emptiest segment to the end and removes the file. The price is up to twice the space.
//!
//! Blocks have copies on other nodes. So damage is never fatal here: a damaged block is named by the
//! error or the report, and fetched again from a peer.
//!
//! Invariants:
//! - Only the last segment is unsealed, and it was created by this process.
//! - Among the records of a block the one in the latest place (segment, offset) says what holds.
//! - A segment is removed only after everything copied from it was synced.
//! - A copy that was found bad stays until it is put again or deleted, so that the rest of it can be read.
//! - After a failed sync, or a failed write that was not for want of space, nothing is written any
//!   more (`Poisoned`); reading goes on.

mod compaction;
mod damage;
mod format;
mod segment;
mod segments;
mod tail;

use std::collections::VecDeque;
use std::io;

use bark_schema::ids::BlockId;
use bark_schema::limits::{BLOCK_SIZE_MAX, MIB};
use bytes::Bytes;

use crate::checksum::crc32c;
use crate::disk::{Disk, FileId};
use crate::paged_map::PagedMap;
use compaction::Victim;
pub use compaction::{CompactConfig, CompactReport};
pub use damage::BadCopy;
use damage::Damage;
use format::{Entry, Kind, PAGE_SIZE_BYTES};
use segments::Segments;
use tail::Tail;

// 128: the log, snapshots and sockets need descriptors too, and 1024 is a common limit.
const OPEN_FILES_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStoreConfig {
    pub segment_size_bytes: u64,
    /// `put` answers `NoSpace` beyond this; tombstones and compaction may go further, since they are
    /// the way back.
    pub capacity_bytes: u64,
}

impl Default for BlockStoreConfig {
    fn default() -> BlockStoreConfig {
        BlockStoreConfig {
            segment_size_bytes: 64 * MIB as u64,
            capacity_bytes: u64::MAX,
        }
    }
}

/// What `open` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    pub block_count: u64,
    /// Blocks that were here once and whose data does not verify; they are not in the store any more.
    pub damaged: Vec<BlockId>,
    /// Segments without a usable footer, read record by record and sealed.
    pub scanned_segments: u64,
    /// Bytes of torn records cut off the end.
    pub cut_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{block} is not here")]
    NotFound { block: BlockId },
    #[error("{block} is damaged in block segment {segment} at byte {offset}")]
    Corrupt {
        block: BlockId,
        segment: u32,
        offset: u64,
    },
    #[error("{block} has {size_bytes} bytes; {length} from {offset} were asked for")]
    OutOfRange {
        block: BlockId,
        size_bytes: u32,
        offset: u64,
        length: u64,
    },
    #[error("{block} of {size_bytes} bytes: a block has at most {BLOCK_SIZE_MAX}")]
    TooLarge { block: BlockId, size_bytes: usize },
    #[error("{block}: the data has checksum {found:08x}, its writer said {expected:08x}")]
    ChecksumMismatch {
        block: BlockId,
        expected: u32,
        found: u32,
    },
    #[error("{block} is here already with other data (checksum {present:08x}, offered {offered:08x})")]
    Conflict {
        block: BlockId,
        present: u32,
        offered: u32,
    },
    #[error("no space for more blocks; nothing was stored")]
    NoSpace,
    #[error("the block store takes no writes after a failed write or sync; restart the node")]
    Poisoned,
    #[error("block store configuration: {0}")]
    Config(&'static str),
    #[error("block store: cannot {action} {path}")]
    Disk {
        action: &'static str,
        path: String,
        source: io::Error,
    },
}

#[derive(Debug)]
pub struct BlockStore {
    directory: String,
    config: BlockStoreConfig,
    index: PagedMap<BlockId, Location>,
    segments: Segments,
    tail: Option<Tail>,
    victim: Option<Victim>,
    segment_next: u32,
    /// Segments with an open file, oldest opened first.
    open_files: VecDeque<(u32, FileId)>,
    damage: Damage,
    poisoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Location {
    segment: u32,
    offset: u32,
    size_bytes: u32,
    checksum: u32,
}

const _: () = assert!(size_of::<BlockId>() + size_of::<Location>() == 32);

impl BlockStore {
    pub fn open<D: Disk>(
        disk: &mut D,
        directory: &str,
        config: BlockStoreConfig,
    ) -> Result<(BlockStore, OpenReport), Error> {
        // Offsets are u32 on disk; a quarter leaves room for the last block and the footer.
        if config.segment_size_bytes > 1 << 30 {
            return Err(Error::Config("segment_size_bytes must be at most 1 GiB"));
        }
        let mut store = BlockStore {
            directory: directory.to_owned(),
            config,
            index: PagedMap::new(),
            segments: Segments::default(),
            tail: None,
            victim: None,
            segment_next: 1,
            open_files: VecDeque::new(),
            damage: Damage::default(),
            poisoned: false,
        };
        let mut report = OpenReport::default();
        let mut lost = Vec::new();
        for segment in store.list_segments(disk)? {
            store.segment_next = segment.saturating_add(1);
            store.load(disk, segment, &mut report, &mut lost)?;
        }
        // A block may be damaged in one place and whole in a later one.
        report.damaged.retain(|block| !store.index.contains_key(block));
        lost.retain(|bad| !store.index.contains_key(&bad.block));
        store.damage.tell_lost(lost);
        report.block_count = store.index.len() as u64;
        disk.sync_directory(directory)
            .map_err(|source| store.failed("sync", source))?;
        Ok((store, report))
    }

    /// Stores `data`, whose CRC-32C is `checksum`; durable after the next `sync`. Storing the same block
    /// again changes nothing, but that a copy known to be bad is replaced.
    pub fn put<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        data: &[u8],
        checksum: u32,
    ) -> Result<(), Error> {
        self.put_copy(disk, block, data, checksum, false)
    }

    /// The same for a copy that is read only when another one cannot be: it does not stay in memory.
    pub fn put_spare<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        data: &[u8],
        checksum: u32,
    ) -> Result<(), Error> {
        self.put_copy(disk, block, data, checksum, true)
    }

    fn put_copy<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        data: &[u8],
        checksum: u32,
        is_spare: bool,
    ) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        let size_bytes = u32::try_from(data.len())
            .ok()
            .filter(|size| *size as usize <= BLOCK_SIZE_MAX);
        let size_bytes = size_bytes.ok_or(Error::TooLarge {
            block,
            size_bytes: data.len(),
        })?;
        let found = crc32c(&[data]);
        if found != checksum {
            return Err(Error::ChecksumMismatch {
                block,
                expected: checksum,
                found,
            });
        }
        let offered = (checksum, size_bytes);
        match self.index.get(&block) {
            Some(present) if (present.checksum, present.size_bytes) != offered => {
                return Err(Error::Conflict {
                    block,
                    present: present.checksum,
                    offered: checksum,
                });
            }
            Some(_) if !self.damage.knows(block) => return Ok(()),
            _ => {}
        }
        let (_, total_bytes) = self.space();
        if total_bytes.saturating_add(format::record_size_bytes(size_bytes)) > self.config.capacity_bytes {
            return Err(Error::NoSpace);
        }
        let described = (checksum, size_bytes);
        self.append_block(disk, block, data, described, is_spare)?;
        self.damage.forget(block);
        Ok(())
    }

    /// Makes all puts and deletes so far durable.
    pub fn sync<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.dirty) else {
            return Ok(());
        };
        match disk.sync(tail.file) {
            Ok(()) => {
                tail.dirty = false;
                Ok(())
            }
            Err(source) => {
                self.poisoned = true;
                Err(self.failed("sync", source))
            }
        }
    }

    /// `length` bytes of a block from `offset`, verified page by page.
    pub fn get<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, Error> {
        let location = *self.index.get(&block).ok_or(Error::NotFound { block })?;
        let size_bytes = location.size_bytes;
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= u64::from(size_bytes));
        let end = end.ok_or(Error::OutOfRange {
            block,
            size_bytes,
            offset,
            length,
        })?;
        let read = self
            .file(disk, location.segment)
            .and_then(|file| self.read_verified(disk, file, block, location, offset, end));
        if let Err(error) = &read {
            self.note_damage(block, location, error);
        }
        read
    }

    pub fn contains(&self, block: BlockId) -> bool {
        self.index.contains_key(&block)
    }

    /// Size and checksum of a block that is here.
    pub fn describe(&self, block: BlockId) -> Option<(u32, u32)> {
        self.index
            .get(&block)
            .map(|location| (location.size_bytes, location.checksum))
    }

    /// The blocks after `after`, in order, at most `count_max`: for scrub and repair.
    pub fn blocks_after(&self, after: Option<BlockId>, count_max: usize) -> Vec<BlockId> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.index
            .range((start, std::ops::Bound::Unbounded))
            .take(count_max)
            .map(|(block, _)| *block)
            .collect()
    }

    /// Damaged copies that were found since this was called last.
    pub fn take_found(&mut self) -> Vec<BadCopy> {
        self.damage.take_found()
    }

    /// Forgets those of `blocks` that are here; durable after the next `sync`.
    pub fn delete<D: Disk>(&mut self, disk: &mut D, blocks: &[BlockId]) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        for &block in blocks {
            if self.index.contains_key(&block) {
                self.append_tombstone(disk, block)?;
                self.forget(block);
                self.damage.forget(block);
            }
        }
        Ok(())
    }

    /// Bytes of blocks that are here, and of all segment files.
    pub fn space(&self) -> (u64, u64) {
        self.segments.space()
    }

    fn refuse_if_poisoned(&self) -> Result<(), Error> {
        if self.poisoned {
            Err(Error::Poisoned)
        } else {
            Ok(())
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> Error {
        Error::Disk {
            action,
            path: self.directory.clone(),
            source,
        }
    }

    fn path(&self, segment: u32) -> String {
        format!("{}/{}", self.directory, segment::segment_name(segment))
    }

    fn list_segments<D: Disk>(&self, disk: &mut D) -> Result<Vec<u32>, Error> {
        let failed = |source| self.failed("open", source);
        disk.create_directory(&self.directory).map_err(failed)?;
        let above = self.directory.rsplit_once('/').map_or("", |(above, _)| above);
        disk.sync_directory(above).map_err(failed)?;
        let names = disk.list(&self.directory).map_err(failed)?;
        let mut segments: Vec<u32> = names
            .iter()
            .filter_map(|name| segment::segment_of(name))
            .collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// Takes a segment into the index; seals it first if it has no footer.
    fn load<D: Disk>(
        &mut self,
        disk: &mut D,
        segment: u32,
        report: &mut OpenReport,
        lost: &mut Vec<BadCopy>,
    ) -> Result<(), Error> {
        let file = self.file(disk, segment)?;
        let failed = |source| Error::Disk {
            action: "read",
            path: self.path(segment),
            source,
        };
        let entries = match segment::read_footer(disk, file, segment).map_err(failed)? {
            // Written after its records were synced, so they are durable even if it is not.
            Some(entries) => entries,
            None => {
                let scanned = segment::scan(disk, file, segment).map_err(failed)?;
                let size_bytes = disk.size_bytes(file).map_err(failed)?;
                report.scanned_segments += 1;
                report.cut_bytes += size_bytes.saturating_sub(scanned.end);
                for entry in &scanned.damaged {
                    report.damaged.push(entry.block);
                    lost.push(BadCopy {
                        block: entry.block,
                        segment,
                        offset: u64::from(entry.offset),
                    });
                }
                let footer = format::encode_footer(segment, scanned.end, &scanned.entries);
                disk.truncate(file, scanned.end).map_err(failed)?;
                // As in `seal`: the data may be in the page cache only.
                disk.sync(file).map_err(failed)?;
                disk.write_at(file, scanned.end, &footer).map_err(failed)?;
                disk.sync(file).map_err(failed)?;
                scanned.entries
            }
        };
        let size_bytes = disk.size_bytes(file).map_err(failed)?;
        self.segments.resize(segment, size_bytes);
        for entry in &entries {
            self.forget(entry.block);
            match entry.kind {
                Kind::Block => self.remember(segment, entry),
                Kind::Tombstone => self.segments.add_tombstone(segment),
            }
        }
        Ok(())
    }

    fn remember(&mut self, segment: u32, entry: &Entry) {
        let Entry {
            block,
            offset,
            size_bytes,
            checksum,
            ..
        } = *entry;
        self.index.insert(
            block,
            Location {
                segment,
                offset,
                size_bytes,
                checksum,
            },
        );
        self.segments.add_block(segment, size_bytes);
    }

    fn forget(&mut self, block: BlockId) {
        if let Some((_, location)) = self.index.remove(&block) {
            self.segments.drop_block(location.segment, location.size_bytes);
        }
    }

    fn keep_open<D: Disk>(&mut self, disk: &mut D, segment: u32, file: FileId) {
        if self.open_files.len() >= OPEN_FILES_MAX
            && let Some((_, oldest)) = self.open_files.pop_front()
        {
            disk.close(oldest);
        }
        self.open_files.push_back((segment, file));
    }

    fn file<D: Disk>(&mut self, disk: &mut D, segment: u32) -> Result<FileId, Error> {
        if let Some(tail) = self.tail.as_ref().filter(|tail| tail.segment == segment) {
            return Ok(tail.file);
        }
        if let Some((_, file)) = self.open_files.iter().find(|(id, _)| *id == segment) {
            return Ok(*file);
        }
        let file = disk
            .open(&self.path(segment), false)
            .map_err(|source| self.failed("open", source))?;
        self.keep_open(disk, segment, file);
        Ok(file)
    }

    fn read_verified<D: Disk>(
        &self,
        disk: &mut D,
        file: FileId,
        block: BlockId,
        location: Location,
        start: u64,
        end: u64,
    ) -> Result<Bytes, Error> {
        let Location {
            segment,
            offset,
            size_bytes,
            checksum,
        } = location;
        let corrupt = |at: u64| Error::Corrupt {
            block,
            segment,
            offset: u64::from(offset) + at,
        };
        // A file that ends early is damage of this block, not a failing disk.
        let failed = |source: io::Error, at| match source.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(at),
            _ => self.failed("read", source),
        };
        let head_size_bytes = format::head_size_bytes(size_bytes);
        let mut head = vec![0; head_size_bytes as usize];
        disk.read_at(file, u64::from(offset), &mut head)
            .map_err(|source| failed(source, 0))?;
        let (entry, checksums) = format::decode_head(&head, segment, offset).ok_or(corrupt(0))?;
        if (entry.block, entry.size_bytes, entry.checksum) != (block, size_bytes, checksum) {
            return Err(corrupt(0));
        }
        let page_size = PAGE_SIZE_BYTES as u64;
        let pages_start = start - start % page_size;
        let pages_end = end
            .next_multiple_of(page_size)
            .min(u64::from(size_bytes))
            .max(pages_start);
        let mut data = vec![0; (pages_end - pages_start) as usize];
        let at = head_size_bytes + pages_start;
        disk.read_at(file, u64::from(offset) + at, &mut data)
            .map_err(|source| failed(source, at))?;
        if !format::pages_verify(&data, (pages_start / page_size) as usize, &checksums) {
            return Err(corrupt(at));
        }
        Ok(Bytes::from(data).slice((start - pages_start) as usize..(end - pages_start) as usize))
    }
}
