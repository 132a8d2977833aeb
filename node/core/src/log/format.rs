//! The bytes of the log: segment headers and records.
//!
//! Design: every checksum also covers the segment's id and the record's offset, which are not stored in
//! the record. A recycled file is full of records of its former life; under its new id none of them
//! verifies, so the file need not be zeroed again. Records start at multiples of 8, so that recovery
//! can look for records behind a damaged one without knowing how long the damaged one was.
//!
//! Format, little-endian. A segment file `{id:016x}.log`:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `BARKLOG\0` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | CRC-32C of bytes 0-11 and 16-63 |
//! | 16 | 8 | segment id |
//! | 24 | 8 | sequence of the segment's first record |
//! | 32 | 32 | zero |
//! | 64 | | records, each padded with zeros to a multiple of 8 |
//!
//! A record:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | CRC-32C of segment id (u64), offset (u64) and bytes 4 to the end of the payload |
//! | 4 | 4 | payload size |
//! | 8 | 8 | sequence, one more than that of the record before |
//! | 16 | 8 | synced_through: the last sequence that was durable when this was written |
//! | 24 | 1 | kind: 1 entry, 2 hard state, 3 snapshot, 4 reset |
//! | 25 | 1 | zero |
//! | 26 | 2 | partition |
//! | 28 | 4 | zero |
//! | 32 | | payload |
//!
//! Payloads: entry = term u64, index u64, kind u8, seven zeros, data. Hard state = term u64, vote u64,
//! commit u64. Snapshot and reset = index u64, term u64.
//!
//! Invariants:
//! - Decoding never panics and never believes a length before it is compared with what is there.
//! - `decode_record(encode(x)) == x`; the golden bytes in the tests are frozen.

use bark_schema::ids::PartitionId;
use bytes::Bytes;

use super::Record;
use crate::checksum::crc32c;

pub(super) const VERSION: u32 = 1;
pub(super) const SEGMENT_HEADER_SIZE_BYTES: u64 = 64;
pub(super) const RECORD_HEADER_SIZE_BYTES: usize = 32;
pub(super) const RECORD_ALIGNMENT_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"BARKLOG\0";
const ENTRY_HEAD_SIZE_BYTES: usize = 24;
const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_SNAPSHOT: u8 = 3;
const KIND_RESET: u8 = 4;

const _: () = assert!(SEGMENT_HEADER_SIZE_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES as u64));
const _: () = assert!(RECORD_HEADER_SIZE_BYTES.is_multiple_of(RECORD_ALIGNMENT_BYTES));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub segment: u64,
    pub sequence_first: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Invalid,
    UnknownVersion(u32),
}

/// Where a record stands: what its checksum binds it to and what it says about its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub sequence: u64,
    pub synced_through: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub record: Record,
    pub place: Place,
    /// With padding.
    pub size_bytes: usize,
}

pub(super) fn encode_segment_header(header: SegmentHeader) -> [u8; SEGMENT_HEADER_SIZE_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_SIZE_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.segment.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.sequence_first.to_le_bytes());
    let checksum = crc32c(&[&bytes[..12], &bytes[16..]]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

pub(super) fn decode_segment_header(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
    let Some(bytes) = bytes.get(..SEGMENT_HEADER_SIZE_BYTES as usize) else {
        return Err(HeaderError::Invalid);
    };
    if &bytes[..8] != MAGIC || u32_at(bytes, 12) != Some(crc32c(&[&bytes[..12], &bytes[16..]])) {
        return Err(HeaderError::Invalid);
    }
    match (u32_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 24)) {
        (Some(VERSION), Some(segment), Some(sequence_first)) => Ok(SegmentHeader {
            segment,
            sequence_first,
        }),
        (Some(version), ..) => Err(HeaderError::UnknownVersion(version)),
        (None, ..) => Err(HeaderError::Invalid),
    }
}

/// Bytes `record` takes in a segment, padding included.
pub(super) fn record_size_bytes(record: &Record) -> usize {
    padded(RECORD_HEADER_SIZE_BYTES + payload_size_bytes(record))
}

fn payload_size_bytes(record: &Record) -> usize {
    match record {
        Record::Entry { data, .. } => ENTRY_HEAD_SIZE_BYTES + data.len(),
        Record::HardState { .. } => 24,
        Record::Snapshot { .. } | Record::Reset { .. } => 16,
    }
}

fn padded(size: usize) -> usize {
    size.next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

/// Appends `record` to `buffer`. The caller has checked that its size fits a u32.
pub(super) fn encode_record(buffer: &mut Vec<u8>, record: &Record, place: Place) {
    let start = buffer.len();
    let payload_size = u32::try_from(payload_size_bytes(record)).expect("the size was checked before");
    let (kind, partition) = match record {
        Record::Entry { partition, .. } => (KIND_ENTRY, partition),
        Record::HardState { partition, .. } => (KIND_HARD_STATE, partition),
        Record::Snapshot { partition, .. } => (KIND_SNAPSHOT, partition),
        Record::Reset { partition, .. } => (KIND_RESET, partition),
    };
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&payload_size.to_le_bytes());
    buffer.extend_from_slice(&place.sequence.to_le_bytes());
    buffer.extend_from_slice(&place.synced_through.to_le_bytes());
    buffer.extend_from_slice(&[kind, 0]);
    buffer.extend_from_slice(&partition.0.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    match record {
        Record::Entry {
            term,
            index,
            kind,
            data,
            ..
        } => {
            buffer.extend_from_slice(&term.to_le_bytes());
            buffer.extend_from_slice(&index.to_le_bytes());
            buffer.extend_from_slice(&[*kind, 0, 0, 0, 0, 0, 0, 0]);
            buffer.extend_from_slice(data);
        }
        Record::HardState {
            term, vote, commit, ..
        } => {
            for number in [term, vote, commit] {
                buffer.extend_from_slice(&number.to_le_bytes());
            }
        }
        Record::Snapshot { index, term, .. } | Record::Reset { index, term, .. } => {
            buffer.extend_from_slice(&index.to_le_bytes());
            buffer.extend_from_slice(&term.to_le_bytes());
        }
    }
    let checksum = record_checksum(place.segment, place.offset, &buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(start + padded(buffer.len() - start), 0);
}

fn record_checksum(segment: u64, offset: u64, bytes: &[u8]) -> u32 {
    crc32c(&[&segment.to_le_bytes(), &offset.to_le_bytes(), bytes])
}

/// Reads the sequence and synced_through at the start of `bytes` without verifying anything: enough to
/// see cheaply that no record worth verifying starts here.
pub(super) fn peek_sequences(bytes: &[u8]) -> Option<(u64, u64)> {
    Some((u64_at(bytes, 8)?, u64_at(bytes, 16)?))
}

/// The record at the start of `bytes`, if its checksum holds for this segment and offset. `None` is a
/// torn, stale, damaged or never written record; which of these, the neighbours must tell.
pub(super) fn decode_record(bytes: &[u8], segment: u64, offset: u64) -> Option<Decoded> {
    let payload_size = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let end = RECORD_HEADER_SIZE_BYTES.checked_add(payload_size)?;
    let body = bytes.get(4..end)?;
    if u32_at(bytes, 0)? != record_checksum(segment, offset, body) {
        return None;
    }
    let place = Place {
        segment,
        offset,
        sequence: u64_at(bytes, 8)?,
        synced_through: u64_at(bytes, 16)?,
    };
    let partition = PartitionId(u16::from_le_bytes([*bytes.get(26)?, *bytes.get(27)?]));
    let payload = bytes.get(RECORD_HEADER_SIZE_BYTES..end)?;
    let record = match *bytes.get(24)? {
        KIND_ENTRY => Record::Entry {
            partition,
            term: u64_at(payload, 0)?,
            index: u64_at(payload, 8)?,
            kind: *payload.get(16)?,
            data: Bytes::copy_from_slice(payload.get(ENTRY_HEAD_SIZE_BYTES..)?),
        },
        KIND_HARD_STATE => Record::HardState {
            partition,
            term: u64_at(payload, 0)?,
            vote: u64_at(payload, 8)?,
            commit: u64_at(payload, 16)?,
        },
        KIND_SNAPSHOT => Record::Snapshot {
            partition,
            index: u64_at(payload, 0)?,
            term: u64_at(payload, 8)?,
        },
        KIND_RESET => Record::Reset {
            partition,
            index: u64_at(payload, 0)?,
            term: u64_at(payload, 8)?,
        },
        _ => return None,
    };
    Some(Decoded {
        record,
        place,
        size_bytes: padded(end),
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        segment: 3,
        offset: 64,
        sequence: 9,
        synced_through: 8,
    };

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, record, PLACE);
        assert_eq!(bytes.len(), record_size_bytes(record));
        bytes
    }

    fn records() -> Vec<Record> {
        let partition = PartitionId(7);
        vec![
            Record::Entry {
                partition,
                term: 1,
                index: 2,
                kind: 3,
                data: Bytes::from_static(b"hello"),
            },
            Record::Entry {
                partition,
                term: 1,
                index: 2,
                kind: 0,
                data: Bytes::new(),
            },
            Record::HardState {
                partition,
                term: 4,
                vote: 5,
                commit: 6,
            },
            Record::Snapshot {
                partition,
                index: 8,
                term: 9,
            },
            Record::Reset {
                partition,
                index: 10,
                term: 11,
            },
        ]
    }

    #[test]
    fn every_record_reads_back_as_written() {
        // Goal: encode and decode agree for every kind, with bytes of a neighbour behind.
        for record in records() {
            let mut bytes = encoded(&record);
            let size_bytes = bytes.len();
            bytes.extend_from_slice(&[0xff; 100]);
            let decoded = decode_record(&bytes, 3, 64).expect("valid");
            assert_eq!(
                decoded,
                Decoded {
                    record,
                    place: PLACE,
                    size_bytes
                }
            );
        }
    }

    #[test]
    fn a_record_is_bound_to_its_segment_its_offset_and_every_bit() {
        // Goal: nothing but the exact bytes at the exact place verifies; flips every bit in turn.
        for record in records() {
            let bytes = encoded(&record);
            assert_eq!(decode_record(&bytes, 4, 64), None);
            assert_eq!(decode_record(&bytes, 3, 72), None);
            let size = RECORD_HEADER_SIZE_BYTES + payload_size_bytes(&record);
            for bit in 0..size * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode_record(&flipped, 3, 64), None, "bit {bit}");
            }
            for size in 0..size {
                assert_eq!(decode_record(&bytes[..size], 3, 64), None, "cut to {size}");
            }
        }
    }

    #[test]
    fn the_format_is_frozen() {
        // Goal: a change of the bytes on disk is noticed; golden bytes of one record and one header.
        let record = Record::HardState {
            partition: PartitionId(7),
            term: 4,
            vote: 5,
            commit: 6,
        };
        assert_eq!(encoded(&record), GOLDEN_RECORD);
        let header = encode_segment_header(SegmentHeader {
            segment: 3,
            sequence_first: 9,
        });
        assert_eq!(&header[..8], b"BARKLOG\0");
        assert_eq!(header[12..16], GOLDEN_HEADER_CHECKSUM);
        assert_eq!(
            decode_segment_header(&header),
            Ok(SegmentHeader {
                segment: 3,
                sequence_first: 9
            })
        );
    }

    #[test]
    fn a_header_of_another_version_is_named_and_a_damaged_one_refused() {
        // Goal: version skew and damage are told apart; edits the header with and without its checksum.
        let mut header = encode_segment_header(SegmentHeader {
            segment: 3,
            sequence_first: 9,
        });
        header[8] = 2;
        assert_eq!(decode_segment_header(&header), Err(HeaderError::Invalid));
        let checksum = crc32c(&[&header[..12], &header[16..]]);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(
            decode_segment_header(&header),
            Err(HeaderError::UnknownVersion(2))
        );
    }

    const GOLDEN_HEADER_CHECKSUM: [u8; 4] = [153, 138, 58, 7];
    #[rustfmt::skip]
    const GOLDEN_RECORD: [u8; 56] = [
        120, 99, 167, 219, 24, 0, 0, 0,
        9, 0, 0, 0, 0, 0, 0, 0,
        8, 0, 0, 0, 0, 0, 0, 0,
        2, 0, 7, 0, 0, 0, 0, 0,
        4, 0, 0, 0, 0, 0, 0, 0,
        5, 0, 0, 0, 0, 0, 0, 0,
        6, 0, 0, 0, 0, 0, 0, 0,
    ];
}
