//! Opening the log: read every segment in order, tell torn from corrupt, leave a clean end.
//!
//! Design: all segments but the last were synced before their successor got its name, so any flaw in
//! them is corruption. In the last one the first record that does not verify ends the log, unless a
//! record behind it verifies and says that the bad one had been synced. The cut end is overwritten with
//! zeros and synced before anything is appended: otherwise a new record could end exactly where an old,
//! cut one begins and bring it back to life.
//!
//! Invariants:
//! - Opening twice gives the same answer, also when the first time was interrupted anywhere.
//! - What is reported is durable: after a mere process crash the tail may still be in the page cache.
//!
//! Bounds: one segment is in memory at a time; looking for proof behind the end costs one comparison for
//! every 8 bytes of one segment.

use std::collections::BTreeMap;

use bark_schema::ids::PartitionId;
use bytes::Bytes;

use super::format::{self, Decoded, HeaderError, RECORD_ALIGNMENT_BYTES, RECORD_HEADER_SIZE_BYTES};
use super::live::Live;
use super::segment::{self, SegmentFiles};
use super::{Error, HardState, Log, LogConfig, Record, Recovered, RecoveredPartition, Segment};
use crate::disk::{Disk, FileId};

const RECORDS_OFFSET: usize = format::SEGMENT_HEADER_SIZE_BYTES as usize;

pub(super) fn open<D: Disk>(
    disk: &mut D,
    directory: &str,
    config: LogConfig,
) -> Result<(Log, Recovered), Error> {
    let (mut files, ids) = SegmentFiles::open(disk, directory, config.segment_size_bytes)?;
    if ids.is_empty() {
        let file = files.create(disk, 1)?;
        let segment = Segment {
            id: 1,
            used_bytes: 0,
            size_bytes: config.segment_size_bytes,
        };
        let mut log = log_at(config, files, vec![segment], file, 1, Live::default());
        start_segment(&mut log, disk)?;
        return Ok((
            log,
            Recovered {
                created: true,
                ..Recovered::default()
            },
        ));
    }
    for pair in ids.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(Error::Corrupt {
                segment: pair[0] + 1,
                offset: 0,
            });
        }
    }
    let mut scan = Scan::default();
    let (&last, synced) = ids.split_last().unwrap_or((&1, &[]));
    for &id in synced {
        scan.synced_segment(disk, &files, id)?;
    }
    let (file, cut_bytes) = scan.last_segment(disk, &files, last)?;
    let Scan {
        replay,
        live,
        segments,
        sequence_next,
        ..
    } = scan;
    let used_bytes = segments.last().map_or(0, |segment| segment.used_bytes);
    let partitions = replay.finish()?;
    let mut log = log_at(config, files, segments, file, sequence_next, live);
    if used_bytes == 0 {
        start_segment(&mut log, disk)?;
    }
    disk.sync_directory(directory)
        .map_err(|source| Error::disk("sync", directory, source))?;
    Ok((
        log,
        Recovered {
            partitions,
            cut_bytes,
            created: false,
        },
    ))
}

fn log_at(
    config: LogConfig,
    files: SegmentFiles,
    segments: Vec<Segment>,
    file: FileId,
    sequence_next: u64,
    live: Live,
) -> Log {
    Log {
        config,
        files,
        segments,
        file,
        sequence_next,
        synced_through: sequence_next - 1,
        live,
        buffer: Vec::new(),
        poisoned: false,
    }
}

/// Writes the head of a segment that has its name and nothing else, and syncs it.
fn start_segment<D: Disk>(log: &mut Log, disk: &mut D) -> Result<(), Error> {
    log.write_header(disk)?;
    let checkpoint = log.live.checkpoint();
    log.write(disk, &checkpoint)?;
    let path = log.files.path(&segment::segment_name(log.current().id));
    disk.sync(log.file)
        .map_err(|source| Error::disk("sync", &path, source))?;
    log.synced_through = log.sequence_next - 1;
    Ok(())
}

struct Scan {
    replay: Replay,
    live: Live,
    segments: Vec<Segment>,
    sequence_next: u64,
    /// Where the records of the segment before ended.
    end_before: Option<(u64, u64)>,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan {
            replay: Replay::default(),
            live: Live::default(),
            segments: Vec::new(),
            sequence_next: 1,
            end_before: None,
        }
    }
}

impl Scan {
    /// Reads a segment that has a successor: every flaw is corruption.
    fn synced_segment<D: Disk>(&mut self, disk: &mut D, files: &SegmentFiles, id: u64) -> Result<(), Error> {
        let (file, bytes) = read_segment(disk, files, id)?;
        disk.close(file);
        if !self.header(&bytes, id)? {
            return Err(Error::Corrupt {
                segment: id,
                offset: 0,
            });
        }
        let end = self.records(&bytes, id);
        if proves_synced(&bytes, id, end, self.sequence_next, 0) {
            return Err(Error::Corrupt {
                segment: id,
                offset: end as u64,
            });
        }
        self.end_before = Some((id, end as u64));
        self.segments.push(Segment {
            id,
            used_bytes: end as u64,
            size_bytes: bytes.len() as u64,
        });
        Ok(())
    }

    /// Reads the segment that was being written, cuts a torn end and leaves the file synced. Returns the
    /// open file and the bytes cut.
    fn last_segment<D: Disk>(
        &mut self,
        disk: &mut D,
        files: &SegmentFiles,
        id: u64,
    ) -> Result<(FileId, u64), Error> {
        let (file, bytes) = read_segment(disk, files, id)?;
        let end = if self.header(&bytes, id)? {
            self.records(&bytes, id)
        } else if self.end_before.is_some() || id == 1 {
            // The segment got its name and the crash came before its first sync.
            0
        } else {
            return Err(Error::Corrupt {
                segment: id,
                offset: 0,
            });
        };
        if proves_synced(&bytes, id, end, self.sequence_next, self.sequence_next) {
            return Err(Error::Corrupt {
                segment: id,
                offset: end as u64,
            });
        }
        let tail = &bytes[end..];
        let cut_bytes = torn_bytes(tail, self.sequence_next);
        let path = files.path(&segment::segment_name(id));
        segment::zero_where_needed(disk, file, end as u64, tail)
            .map_err(|source| Error::disk("write", &path, source))?;
        disk.sync(file)
            .map_err(|source| Error::disk("sync", &path, source))?;
        self.segments.push(Segment {
            id,
            used_bytes: end as u64,
            size_bytes: bytes.len() as u64,
        });
        Ok((file, cut_bytes))
    }

    /// Whether the segment has begun. Errors if it has and does not continue the one before.
    fn header(&mut self, bytes: &[u8], id: u64) -> Result<bool, Error> {
        let header = match format::decode_segment_header(bytes) {
            Ok(header) => header,
            Err(HeaderError::UnknownVersion(version)) => {
                return Err(Error::UnknownVersion { segment: id, version });
            }
            Err(HeaderError::Invalid) => return Ok(false),
        };
        if header.segment != id {
            return Ok(false);
        }
        match self.end_before {
            Some((segment, offset)) if header.sequence_first != self.sequence_next => {
                Err(Error::Corrupt { segment, offset })
            }
            Some(_) => Ok(true),
            None if header.sequence_first == 0 => Err(Error::Corrupt {
                segment: id,
                offset: 24,
            }),
            None => {
                self.sequence_next = header.sequence_first;
                Ok(true)
            }
        }
    }

    /// Takes in records while they verify and follow each other; returns where they end.
    fn records(&mut self, bytes: &[u8], id: u64) -> usize {
        let mut offset = RECORDS_OFFSET;
        while let Some(rest) = bytes.get(offset..) {
            let Some(decoded) = format::decode_record(rest, id, offset as u64) else {
                break;
            };
            if decoded.place.sequence != self.sequence_next {
                break;
            }
            let Decoded {
                record, size_bytes, ..
            } = decoded;
            self.sequence_next += 1;
            self.live.note(&record, id);
            self.replay.apply(record);
            offset += size_bytes;
        }
        offset.min(bytes.len())
    }
}

fn read_segment<D: Disk>(disk: &mut D, files: &SegmentFiles, id: u64) -> Result<(FileId, Vec<u8>), Error> {
    let path = files.path(&segment::segment_name(id));
    let failed = |source| Error::disk("read", &path, source);
    let file = disk.open(&path, false).map_err(failed)?;
    let size_bytes = disk.size_bytes(file).map_err(failed)?;
    let size = usize::try_from(size_bytes).map_err(|_| Error::Corrupt {
        segment: id,
        offset: 0,
    })?;
    let mut bytes = vec![0; size];
    disk.read_at(file, 0, &mut bytes).map_err(failed)?;
    Ok((file, bytes))
}

/// Whether a record behind `end` verifies, is later than `sequence` and was written when at least
/// `synced_through_min` was durable.
fn proves_synced(bytes: &[u8], id: u64, end: usize, sequence: u64, synced_through_min: u64) -> bool {
    let first = end.max(RECORDS_OFFSET - RECORD_ALIGNMENT_BYTES) + RECORD_ALIGNMENT_BYTES;
    (first..bytes.len())
        .step_by(RECORD_ALIGNMENT_BYTES)
        .any(|offset| {
            let rest = &bytes[offset..];
            let possible_max = sequence.saturating_add((offset / RECORD_HEADER_SIZE_BYTES) as u64);
            format::peek_sequences(rest).is_some_and(|(later, synced_through)| {
                later > sequence && later <= possible_max && synced_through >= synced_through_min
            }) && format::decode_record(rest, id, offset as u64).is_some()
        })
}

/// How much of the end was a record of this life: from its start to its last byte that is not zero.
/// Nothing if the sequence there is not the one expected, as in stale bytes of a recycled file.
fn torn_bytes(tail: &[u8], sequence: u64) -> u64 {
    match format::peek_sequences(tail) {
        Some((found, _)) if found == sequence => tail
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last as u64 + 1),
        _ => 0,
    }
}

#[derive(Default)]
struct Replay {
    partitions: BTreeMap<PartitionId, ReplayPartition>,
}

#[derive(Default)]
struct ReplayPartition {
    hard_state: HardState,
    snapshot: (u64, u64),
    /// By index: (term, kind, data). May have holes until the snapshot mark that covers them is read,
    /// since the segments with those entries may be gone.
    entries: BTreeMap<u64, (u64, u8, Bytes)>,
}

impl Replay {
    fn apply(&mut self, record: Record) {
        let partition = self.partitions.entry(record.partition()).or_default();
        match record {
            Record::Entry {
                term,
                index,
                kind,
                data,
                ..
            } => {
                partition.entries.split_off(&index);
                partition.entries.insert(index, (term, kind, data));
            }
            Record::HardState {
                term, vote, commit, ..
            } => {
                partition.hard_state = HardState { term, vote, commit };
            }
            Record::Snapshot { index, term, .. } if index > partition.snapshot.0 => {
                partition.snapshot = (index, term);
                partition.entries = partition.entries.split_off(&index.saturating_add(1));
            }
            Record::Snapshot { .. } => {}
            Record::Reset { index, term, .. } => {
                partition.snapshot = (index, term);
                partition.entries.clear();
            }
        }
    }

    fn finish(self) -> Result<BTreeMap<PartitionId, RecoveredPartition>, Error> {
        self.partitions
            .into_iter()
            .map(|(id, partition)| Ok((id, partition.finish(id)?)))
            .collect()
    }
}

impl ReplayPartition {
    fn finish(self, partition: PartitionId) -> Result<RecoveredPartition, Error> {
        let mut expected = self.snapshot.0;
        let mut entries = Vec::with_capacity(self.entries.len());
        for (index, (term, kind, data)) in self.entries {
            expected = expected.saturating_add(1);
            if index != expected {
                return Err(Error::MissingEntry {
                    partition,
                    index: expected,
                });
            }
            entries.push((term, index, kind, data));
        }
        Ok(RecoveredPartition {
            hard_state: self.hard_state,
            entries,
            snapshot: self.snapshot,
        })
    }
}
