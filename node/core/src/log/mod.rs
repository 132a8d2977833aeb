//! The node's one write-ahead log: what all partitions promised, in one order, on one disk.
//!
//! Previous in the flow: workers hand batches of records to the log thread. Next: `release` lets go what
//! waited for the sync.
//!
//! Design: records of all partitions share segment files, so one fdatasync makes a whole turn durable.
//! `append` encodes its batch into one buffer and writes it once; `sync` is the only point at which
//! anything becomes a promise. A segment starts with a checkpoint of every partition's hard state and
//! snapshot mark, so segments are dropped from the oldest on as soon as no entry in them is needed; the
//! price is that one partition that never takes a snapshot holds back all (`pinned_by` names it).
//! A batch never spans two segments; the price is an unused end of each segment.
//!
//! Each record says what was durable when it was written (`synced_through`). Recovery reads up to the
//! first record that does not verify. If any record behind it proves that the bad one had been synced,
//! it may have been acknowledged: that is corruption and `open` refuses. Otherwise nobody was told of it:
//! it is a torn tail and is cut. Damage to the very last synced batch with nothing after it looks like a
//! torn tail; that is the limit of a single file, and why the batches of other replicas exist.
//!
//! Invariants:
//! - A segment gets its name only after everything in older segments was synced.
//! - Behind the end of the log the current segment holds nothing that could verify there: zeros, or
//!   records of another segment id.
//! - After any failed write or sync the log answers `Poisoned` for ever; a sync is never retried.
//! - Sequences count up by one over all segments; segment ids too.
//!
//! Source: LevelDB/RocksDB log recycling for the id in the checksum; TigerBeetle and "Protocol-Aware
//! Recovery" (FAST'18) for telling torn from corrupt.

mod format;
mod live;
mod recovery;
mod segment;

use std::collections::BTreeMap;
use std::io;

use bark_schema::ids::PartitionId;
use bark_schema::limits::{MIB, VALUE_SIZE_MAX};
use bytes::Bytes;

use crate::disk::{Disk, FileId};
use format::{Place, SEGMENT_HEADER_SIZE_BYTES, SegmentHeader};
use live::Live;
use segment::SegmentFiles;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// One Raft entry; replaces every entry of its partition at or above `index`.
    Entry {
        partition: PartitionId,
        term: u64,
        index: u64,
        kind: u8,
        data: Bytes,
    },
    HardState {
        partition: PartitionId,
        term: u64,
        vote: u64,
        commit: u64,
    },
    /// The partition has a durable snapshot: entries up to `index` are no longer needed.
    Snapshot {
        partition: PartitionId,
        index: u64,
        term: u64,
    },
    /// A snapshot was installed: all entries are forgotten, the log goes on after `index`.
    Reset {
        partition: PartitionId,
        index: u64,
        term: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub segment_size_bytes: u64,
    /// Largest record with its header; one may be larger than a segment, which then grows.
    pub record_size_max_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_size_bytes: 32 * MIB as u64,
            record_size_max_bytes: (VALUE_SIZE_MAX + MIB) as u64,
        }
    }
}

impl LogConfig {
    fn validate(self) -> Result<(), Error> {
        if self.segment_size_bytes < 1024 || !self.segment_size_bytes.is_multiple_of(512) {
            return Err(Error::Config(
                "segment_size_bytes must be a multiple of 512 and at least 1024",
            ));
        }
        if self.record_size_max_bytes > 1 << 31 {
            return Err(Error::Config("record_size_max_bytes must be at most 2 GiB"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// The node voted for, 0 for none.
    pub vote: u64,
    pub commit: u64,
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub partitions: BTreeMap<PartitionId, RecoveredPartition>,
    /// Bytes of torn, never acknowledged records that were cut off the end.
    pub cut_bytes: u64,
    /// The directory held no log: this node is new, or its disk is.
    pub created: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredPartition {
    pub hard_state: HardState,
    /// (term, index, kind, data), contiguous from the snapshot's index + 1.
    pub entries: Vec<(u64, u64, u8, Bytes)>,
    /// (index, term); (0, 0) before the first snapshot.
    pub snapshot: (u64, u64),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log is closed after a failed write or sync; restart the node so that it recovers from disk")]
    Poisoned,
    #[error(
        "log segment {segment}: damaged at byte {offset}, though what stood there had been synced and may have \
         been acknowledged; do not start this node from this data, replace it with `bark node replace`"
    )]
    Corrupt { segment: u64, offset: u64 },
    #[error(
        "the log misses entry {index} of {partition}; do not start this node from this data, replace it with \
         `bark node replace`"
    )]
    MissingEntry { partition: PartitionId, index: u64 },
    #[error("log segment {segment}: written by format version {version}, which this program does not know")]
    UnknownVersion { segment: u64, version: u32 },
    #[error("no space for the next log segment; nothing was written")]
    NoSpace,
    #[error("record of {size_bytes} bytes, at most {size_max_bytes} are allowed; nothing was written")]
    RecordTooLarge { size_bytes: u64, size_max_bytes: u64 },
    #[error(
        "entry {index} of {partition} does not continue its log, expected {first} to {last}; nothing was written"
    )]
    OutOfOrder {
        partition: PartitionId,
        index: u64,
        first: u64,
        last: u64,
    },
    #[error("log configuration: {0}")]
    Config(&'static str),
    #[error("log: cannot {action} {path}")]
    Disk {
        action: &'static str,
        path: String,
        source: io::Error,
    },
}

impl Error {
    fn disk(action: &'static str, path: &str, source: io::Error) -> Error {
        Error::Disk {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    files: SegmentFiles,
    /// Oldest first; the last one is being written.
    segments: Vec<Segment>,
    /// The last segment's file.
    file: FileId,
    sequence_next: u64,
    synced_through: u64,
    live: Live,
    buffer: Vec<u8>,
    poisoned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    id: u64,
    used_bytes: u64,
    /// Of the file, zeros included.
    size_bytes: u64,
}

impl Log {
    /// Opens the log in `directory`, or makes an empty one, and says what it holds. Everything it reports
    /// is durable when it returns, also if it was not before.
    pub fn open<D: Disk>(
        disk: &mut D,
        directory: &str,
        config: LogConfig,
    ) -> Result<(Log, Recovered), Error> {
        config.validate()?;
        recovery::open(disk, directory, config)
    }

    /// Whether there is a log in `directory`; looks at names only.
    pub fn exists<D: Disk>(disk: &mut D, directory: &str) -> Result<bool, Error> {
        match disk.list(directory) {
            Ok(names) => Ok(names.iter().any(|name| segment::segment_of(name).is_some())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::disk("open", directory, source)),
        }
    }

    /// Writes `records` at the end of the log; durable after the next `sync`.
    /// Errors: `NoSpace`, `RecordTooLarge` and `OutOfOrder` leave the log as it was; any other poisons it.
    pub fn append<D: Disk>(&mut self, disk: &mut D, records: &[Record]) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        let size_bytes = self.validate(records)?;
        let segment = self.current();
        if size_bytes > segment.size_bytes.saturating_sub(segment.used_bytes) {
            let rolled = self.roll(disk, size_bytes);
            self.poison_on_error(rolled)?;
        }
        let written = self.write(disk, records);
        self.poison_on_error(written)
    }

    /// Makes everything appended durable with one fdatasync; costs nothing if there is nothing.
    pub fn sync<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        self.refuse_if_poisoned()?;
        if !self.is_dirty() {
            return Ok(());
        }
        let path = self.files.path(&segment::segment_name(self.current().id));
        let synced = disk
            .sync(self.file)
            .map_err(|source| Error::disk("sync", &path, source));
        self.poison_on_error(synced)?;
        self.synced_through = self.sequence_next - 1;
        Ok(())
    }

    /// Drops the oldest segments while no partition needs an entry in them, and keeps their files as
    /// spares. Returns how many were dropped.
    pub fn collect_garbage<D: Disk>(&mut self, disk: &mut D) -> Result<u64, Error> {
        // What replaced the old records must be durable before they go.
        self.sync(disk)?;
        let mut dropped = 0;
        while self.segments.len() > 1 && self.live.pinned_by(self.segments[0].id).is_none() {
            let oldest = self.segments.remove(0);
            // One directory sync for each: a crash may undo the last drop only, never leave a hole.
            let retired = self.files.retire(disk, oldest.id, oldest.size_bytes);
            self.poison_on_error(retired)?;
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Takes one bounded step (1 MiB of zeros) towards a spare segment; true once there is one. For idle
    /// moments: without a spare the append that needs the next segment makes it, and waits.
    pub fn prepare<D: Disk>(&mut self, disk: &mut D) -> Result<bool, Error> {
        self.refuse_if_poisoned()?;
        if self.files.has_spare() {
            return Ok(true);
        }
        let stepped = self.files.prepare_step(disk);
        self.poison_on_error(stepped)?;
        Ok(self.files.has_spare())
    }

    /// Records up to this one are durable. Never goes back on one disk.
    pub fn durable_position(&self) -> u64 {
        self.synced_through
    }

    /// Bytes of records and headers in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.used_bytes).sum()
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Whether something was appended since the last sync.
    pub fn is_dirty(&self) -> bool {
        self.synced_through + 1 < self.sequence_next
    }

    /// A partition whose next snapshot would let the oldest segment go; `None` if it is the only one.
    pub fn pinned_by(&self) -> Option<PartitionId> {
        let oldest = self.segments.first().filter(|_| self.segments.len() > 1)?;
        self.live.pinned_by(oldest.id)
    }

    fn refuse_if_poisoned(&self) -> Result<(), Error> {
        if self.poisoned {
            Err(Error::Poisoned)
        } else {
            Ok(())
        }
    }

    fn poison_on_error<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result {
            self.poisoned = !matches!(error, Error::NoSpace);
        }
        result
    }

    fn current(&self) -> Segment {
        self.segments[self.segments.len() - 1]
    }

    /// The size of the batch, if each record fits and continues its partition's log.
    fn validate(&self, records: &[Record]) -> Result<u64, Error> {
        let mut size_bytes = 0;
        let mut next_indexes: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
        for record in records {
            let record_size_bytes = format::record_size_bytes(record) as u64;
            let size_max_bytes = self.config.record_size_max_bytes;
            if record_size_bytes > size_max_bytes {
                return Err(Error::RecordTooLarge {
                    size_bytes: record_size_bytes,
                    size_max_bytes,
                });
            }
            size_bytes += record_size_bytes;
            let partition = record.partition();
            let (first, last) = next_indexes
                .entry(partition)
                .or_insert_with(|| self.live.next_indexes(partition));
            match *record {
                Record::Entry { index, .. } if index < *first || index > *last || index == u64::MAX => {
                    return Err(Error::OutOfOrder {
                        partition,
                        index,
                        first: *first,
                        last: *last,
                    });
                }
                Record::Entry { index, .. } => *last = index + 1,
                Record::Snapshot { index, .. } => {
                    *first = (*first).max(index.saturating_add(1));
                    *last = (*last).max(*first);
                }
                Record::Reset { index, .. } => {
                    *first = index.saturating_add(1);
                    *last = *first;
                }
                Record::HardState { .. } => {}
            }
        }
        Ok(size_bytes)
    }

    /// Goes on in a new segment that begins with a checkpoint, unless that would gain no room.
    fn roll<D: Disk>(&mut self, disk: &mut D, needed_bytes: u64) -> Result<(), Error> {
        let checkpoint = self.live.checkpoint();
        let checkpoint_bytes: u64 = checkpoint
            .iter()
            .map(|record| format::record_size_bytes(record) as u64)
            .sum();
        if self.current().used_bytes <= SEGMENT_HEADER_SIZE_BYTES + checkpoint_bytes {
            // Nothing but a checkpoint here: the batch is larger than a segment, so this one grows.
            return Ok(());
        }
        tracing::trace!(
            segment = self.current().id + 1,
            needed_bytes,
            "log goes on in a new segment"
        );
        self.sync(disk)?;
        let id = self.current().id + 1;
        let file = self.files.create(disk, id)?;
        disk.close(self.file);
        self.file = file;
        self.segments.push(Segment {
            id,
            used_bytes: 0,
            size_bytes: self.config.segment_size_bytes,
        });
        self.write_header(disk)?;
        self.write(disk, &checkpoint)
    }

    fn write_header<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        let header = SegmentHeader {
            segment: self.current().id,
            sequence_first: self.sequence_next,
        };
        self.buffer.clear();
        self.buffer
            .extend_from_slice(&format::encode_segment_header(header));
        self.write_buffer(disk)
    }

    fn write<D: Disk>(&mut self, disk: &mut D, records: &[Record]) -> Result<(), Error> {
        let Segment { id, used_bytes, .. } = self.current();
        self.buffer.clear();
        for record in records {
            let place = Place {
                segment: id,
                offset: used_bytes + self.buffer.len() as u64,
                sequence: self.sequence_next,
                synced_through: self.synced_through,
            };
            format::encode_record(&mut self.buffer, record, place);
            self.sequence_next += 1;
            self.live.note(record, id);
        }
        self.write_buffer(disk)
    }

    fn write_buffer<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        let Segment { id, used_bytes, .. } = self.current();
        if self.buffer.is_empty() {
            return Ok(());
        }
        let path = self.files.path(&segment::segment_name(id));
        disk.write_at(self.file, used_bytes, &self.buffer)
            .map_err(|source| Error::disk("write", &path, source))?;
        let written_bytes = self.buffer.len() as u64;
        if let Some(segment) = self.segments.last_mut() {
            segment.used_bytes += written_bytes;
            segment.size_bytes = segment.size_bytes.max(segment.used_bytes);
        }
        // 4 MiB: one huge value must not hold its memory for ever.
        self.buffer.shrink_to(4 * MIB);
        Ok(())
    }
}

impl Record {
    pub fn partition(&self) -> PartitionId {
        match *self {
            Record::Entry { partition, .. }
            | Record::HardState { partition, .. }
            | Record::Snapshot { partition, .. }
            | Record::Reset { partition, .. } => partition,
        }
    }
}
