//! Snapshots of the state, drawn chunk by chunk while entries go on being applied.
//!
//! Previous in the flow: the partition asks for one every so often. Next: the disk, or a follower.
//!
//! Nothing is copied at the beginning: the tables save old rows aside as they change ([`super::table`]).
//!
//! Invariants:
//! - The chunks hold the state exactly as it was at `begin_snapshot`.
//! - Loading never panics, whatever the bytes, and never reserves memory the bytes do not fill.
//! - A state that was loaded has the hash it was written with.
//!
//! Format of a chunk, little-endian:
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 4 | `BKSN` |
//! | 4 | 2 | format version |
//! | 6 | 1 | what it holds: 0 first chunk, 1 to 26 rows of that table, 255 last chunk |
//! | 7 | 1 | zero |
//! | 8 | 4 | number of rows |
//! | 12 | 4 | size of the payload |
//! | 16 | 4 | CRC-32C of bytes 0 to 16 and of the payload |
//! | 20 | … | payload: rows as in [`super::codec`]; the first chunk's are [`Scalars`], the last one's the total number of rows |

use bark_schema::ids::PartitionId;
use bark_schema::limits::{KEY_SIZE_MAX, MIB, VALUE_SIZE_MAX};
use bark_schema::operation::UnixNanos;

use crate::checksum::crc32c;

use super::codec::{FORMAT_VERSION, Reader, Row, row_struct};
use super::{Error, State, each_table};

/// Which state a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMark {
    pub index: u64,
    pub hash: u64,
}

/// A snapshot in progress.
pub(super) struct Snapshot {
    scalars: Option<Scalars>,
    rows_count: u64,
}

/// What the state holds beside its tables.
struct Scalars {
    partition: PartitionId,
    partition_count: u16,
    applied: u64,
    time: UnixNanos,
    inode_counter_next: u64,
    file_bytes: u64,
    hash: u64,
}
row_struct!(Scalars {
    partition,
    partition_count,
    applied,
    time,
    inode_counter_next,
    file_bytes,
    hash
});

const MAGIC: [u8; 4] = *b"BKSN";
const HEADER_SIZE: usize = 20;
const CHECKED_HEADER_SIZE: usize = 16;
const HOLDS_SCALARS: u8 = 0;
const HOLDS_END: u8 = 255;
/// A target is reached by at most one row more: the largest value, twice for a reply that carries one.
const PAYLOAD_SIZE_MAX: usize = 2 * (VALUE_SIZE_MAX + KEY_SIZE_MAX) + 64 * MIB;
/// Targets beyond this are cut to it.
const TARGET_SIZE_MAX: usize = 16 * MIB;

impl State {
    /// Begins a snapshot of the state as it is now; one in progress is abandoned.
    pub fn begin_snapshot(&mut self) -> SnapshotMark {
        let hash = self.hash();
        let scalars = Scalars {
            partition: self.partition,
            partition_count: self.partition_count,
            applied: self.applied,
            time: self.time,
            inode_counter_next: self.inode_counter_next,
            file_bytes: self.file_bytes,
            hash,
        };
        self.snapshot = Some(Snapshot {
            scalars: Some(scalars),
            rows_count: 0,
        });
        each_table!(self, table, table.begin_capture());
        SnapshotMark {
            index: self.applied,
            hash,
        }
    }

    /// The next chunk, of about `size_bytes_target` bytes; None when there is no snapshot in progress
    /// or all of it was drawn.
    pub fn snapshot_chunk(&mut self, size_bytes_target: usize) -> Option<Vec<u8>> {
        let snapshot = self.snapshot.as_mut()?;
        let mut chunk = vec![0; HEADER_SIZE];
        if let Some(scalars) = snapshot.scalars.take() {
            scalars.encode(&mut chunk);
            return Some(seal(chunk, HOLDS_SCALARS, 1));
        }
        let target = size_bytes_target.clamp(HEADER_SIZE + 1, TARGET_SIZE_MAX);
        each_table!(self, table, {
            let count = table.emit(&mut chunk, target);
            if count > 0 {
                let tag = table.tag();
                self.count_snapshot_rows(count);
                return Some(seal(chunk, tag, count));
            }
            table.end_capture();
        });
        let snapshot = self.snapshot.take()?;
        snapshot.rows_count.encode(&mut chunk);
        Some(seal(chunk, HOLDS_END, 1))
    }

    fn count_snapshot_rows(&mut self, count: u32) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.rows_count += u64::from(count);
        }
    }

    pub fn abandon_snapshot(&mut self) {
        self.snapshot = None;
        each_table!(self, table, table.end_capture());
    }
}

fn seal(mut chunk: Vec<u8>, holds: u8, rows_count: u32) -> Vec<u8> {
    let payload_size = u32::try_from(chunk.len() - HEADER_SIZE).expect("limits keep a chunk below 4 GiB");
    chunk[0..4].copy_from_slice(&MAGIC);
    chunk[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    chunk[6] = holds;
    chunk[8..12].copy_from_slice(&rows_count.to_le_bytes());
    chunk[12..16].copy_from_slice(&payload_size.to_le_bytes());
    let checksum = crc32c(&[&chunk[..CHECKED_HEADER_SIZE], &chunk[HEADER_SIZE..]]);
    chunk[16..20].copy_from_slice(&checksum.to_le_bytes());
    chunk
}

/// Makes a state of the chunks of a snapshot. Bytes may be fed in pieces of any size.
pub struct StateLoader {
    /// Bytes that are not a whole chunk yet.
    pending: Vec<u8>,
    state: Option<State>,
    hash: u64,
    rows_count: u64,
    is_complete: bool,
}

impl Default for StateLoader {
    fn default() -> Self {
        StateLoader::new()
    }
}

impl StateLoader {
    pub fn new() -> StateLoader {
        StateLoader {
            pending: Vec::new(),
            state: None,
            hash: 0,
            rows_count: 0,
            is_complete: false,
        }
    }

    /// Takes the next bytes of the snapshot. After an error the loader is of no more use.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), Error> {
        // Whole chunks, the usual case, are read where they are.
        if self.pending.is_empty() {
            let rest = self.load_chunks(chunk)?;
            self.pending.extend_from_slice(rest);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(chunk);
        let rest_size = self.load_chunks(&pending)?.len();
        pending.drain(..pending.len() - rest_size);
        self.pending = pending;
        Ok(())
    }

    /// The state, once its last chunk was fed and its hash is what it was.
    pub fn finish(self) -> Result<State, Error> {
        let mut state = self.state.ok_or(Error::Incomplete)?;
        if !self.is_complete || !self.pending.is_empty() {
            return Err(Error::Incomplete);
        }
        state.recount();
        let found = state.hash();
        if found != self.hash {
            return Err(Error::Hash {
                expected: self.hash,
                found,
            });
        }
        Ok(state)
    }

    /// Loads the whole chunks in `bytes` and returns what is left.
    fn load_chunks<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let mut rest = bytes;
        while let Some((header, after)) = rest.split_at_checked(HEADER_SIZE) {
            let header = Header::read(header)?;
            let Some((payload, after)) = after.split_at_checked(header.payload_size) else {
                break;
            };
            if crc32c(&[&rest[..CHECKED_HEADER_SIZE], payload]) != header.checksum {
                return Err(Error::Corrupt("a chunk does not match its checksum"));
            }
            self.load_chunk(&header, payload)?;
            rest = after;
        }
        Ok(rest)
    }

    fn load_chunk(&mut self, header: &Header, payload: &[u8]) -> Result<(), Error> {
        if self.is_complete {
            return Err(Error::Corrupt("there is more after the last chunk"));
        }
        let mut reader = Reader::new(payload);
        match (header.holds, &mut self.state) {
            (HOLDS_SCALARS, None) => {
                let scalars = Scalars::decode(&mut reader)?;
                let mut state = State::empty(scalars.partition, scalars.partition_count);
                state.applied = scalars.applied;
                state.time = scalars.time;
                state.inode_counter_next = scalars.inode_counter_next;
                state.file_bytes = scalars.file_bytes;
                self.hash = scalars.hash;
                self.state = Some(state);
            }
            (HOLDS_END, Some(_)) => {
                if u64::decode(&mut reader)? != self.rows_count {
                    return Err(Error::Corrupt("rows are missing"));
                }
                self.is_complete = true;
            }
            (tag, Some(state)) => {
                for _ in 0..header.rows_count {
                    load_row(state, tag, &mut reader)?;
                }
                self.rows_count += u64::from(header.rows_count);
            }
            (_, None) => return Err(Error::Corrupt("the first chunk is missing")),
        }
        if reader.is_empty() {
            Ok(())
        } else {
            Err(Error::Corrupt("a chunk is longer than its rows"))
        }
    }
}

fn load_row(state: &mut State, tag: u8, reader: &mut Reader<'_>) -> Result<(), Error> {
    each_table!(state, table, {
        if table.tag() == tag {
            return table.load_row(reader);
        }
    });
    Err(Error::Corrupt("rows of an unknown table"))
}

struct Header {
    holds: u8,
    rows_count: u32,
    payload_size: usize,
    checksum: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, Error> {
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(Error::Corrupt("not a chunk of a snapshot"));
        }
        let version = u16::decode(&mut reader)?;
        if version != FORMAT_VERSION {
            return Err(Error::Version {
                found: version,
                expected: FORMAT_VERSION,
            });
        }
        let holds = u8::decode(&mut reader)?;
        u8::decode(&mut reader)?;
        let rows_count = u32::decode(&mut reader)?;
        let payload_size = u32::decode(&mut reader)? as usize;
        let checksum = u32::decode(&mut reader)?;
        if payload_size > PAYLOAD_SIZE_MAX {
            return Err(Error::Corrupt("a chunk is too large"));
        }
        Ok(Header {
            holds,
            rows_count,
            payload_size,
            checksum,
        })
    }
}
