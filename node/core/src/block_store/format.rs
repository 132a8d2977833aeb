//! The bytes of a block segment.
//!
//! Format, little-endian. A segment file `{id:08x}.blocks` is a row of records, each starting at a multiple
//! of 64, and once sealed a footer. A record:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `BLK1` |
//! | 4 | 4 | CRC-32C of segment id (u32), offset (u32), bytes 8-63 and the page checksums |
//! | 8 | 8 | block id: client |
//! | 16 | 8 | block id: counter |
//! | 24 | 4 | size of the data |
//! | 28 | 4 | CRC-32C of the data, as its writer gave it |
//! | 32 | 1 | kind: 1 block, 2 tombstone (no data) |
//! | 33 | 31 | zero |
//! | 64 | 4 n | CRC-32C of each 64 KiB page of the data, padded with zeros to a multiple of 64 |
//! | | | data, padded to a multiple of 64 (the padding may be missing at the end of the file) |
//!
//! The footer: one entry of 32 bytes for each record, in order {client u64, counter u64, offset u32,
//! size u32, checksum u32, kind u32}, then a trailer of 24 bytes at the very end of the file:
//! {`BARKFOOT`, footer offset u64, entry count u32, CRC-32C of segment id (u32), the entries and the
//! first 20 bytes of the trailer}.
//!
//! Invariants:
//! - A record verifies only in its segment at its offset.
//! - Decoding never believes a size before it is compared with its limit.

use bark_schema::ids::{BlockId, ClientId};
use bark_schema::limits::{BLOCK_SIZE_MAX, KIB};

use crate::checksum::crc32c;

pub(super) const ALIGNMENT_BYTES: u64 = 64;
pub(super) const HEADER_SIZE_BYTES: usize = 64;
pub(super) const PAGE_SIZE_BYTES: usize = 64 * KIB;
pub(super) const ENTRY_SIZE_BYTES: usize = 32;
pub(super) const TRAILER_SIZE_BYTES: usize = 24;
/// Header and page checksums of the largest block.
pub(super) const HEAD_SIZE_BYTES_MAX: usize =
    HEADER_SIZE_BYTES + 4 * BLOCK_SIZE_MAX.div_ceil(PAGE_SIZE_BYTES);
const MAGIC: &[u8; 4] = b"BLK1";
const TRAILER_MAGIC: &[u8; 8] = b"BARKFOOT";

const _: () = assert!(HEAD_SIZE_BYTES_MAX.is_multiple_of(ALIGNMENT_BYTES as usize));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Tombstone,
}

/// What a record says before its data; also what the footer repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub block: BlockId,
    pub offset: u32,
    pub size_bytes: u32,
    pub checksum: u32,
    pub kind: Kind,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Block => 1,
            Kind::Tombstone => 2,
        }
    }

    fn of(code: u32) -> Option<Kind> {
        match code {
            1 => Some(Kind::Block),
            2 => Some(Kind::Tombstone),
            _ => None,
        }
    }
}

/// Bytes before the data of a block of `size_bytes`: header and page checksums.
pub(super) fn head_size_bytes(size_bytes: u32) -> u64 {
    let pages = u64::from(size_bytes).div_ceil(PAGE_SIZE_BYTES as u64);
    (HEADER_SIZE_BYTES as u64 + 4 * pages).next_multiple_of(ALIGNMENT_BYTES)
}

/// Bytes from the start of a record to the start of the next.
pub(super) fn record_size_bytes(size_bytes: u32) -> u64 {
    (head_size_bytes(size_bytes) + u64::from(size_bytes)).next_multiple_of(ALIGNMENT_BYTES)
}

/// Appends the head of a record whose data is `data` to `buffer`.
pub(super) fn encode_head(buffer: &mut Vec<u8>, segment: u32, entry: &Entry, data: &[u8]) {
    let start = buffer.len();
    buffer.extend_from_slice(MAGIC);
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&entry.block.client.0.to_le_bytes());
    buffer.extend_from_slice(&entry.block.counter.to_le_bytes());
    buffer.extend_from_slice(&entry.size_bytes.to_le_bytes());
    buffer.extend_from_slice(&entry.checksum.to_le_bytes());
    buffer.push(entry.kind.code());
    buffer.extend_from_slice(&[0; 31]);
    for page in data.chunks(PAGE_SIZE_BYTES) {
        buffer.extend_from_slice(&crc32c(&[page]).to_le_bytes());
    }
    buffer.resize(start + head_size_bytes(entry.size_bytes) as usize, 0);
    let checksum = head_checksum(segment, entry.offset, &buffer[start + 8..]);
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

fn head_checksum(segment: u32, offset: u32, bytes: &[u8]) -> u32 {
    crc32c(&[&segment.to_le_bytes(), &offset.to_le_bytes(), bytes])
}

/// The entry of the record at the start of `bytes` and its page checksums, if the head verifies here.
pub(super) fn decode_head(bytes: &[u8], segment: u32, offset: u32) -> Option<(Entry, Vec<u32>)> {
    if bytes.get(..4)? != MAGIC {
        return None;
    }
    let size_bytes = u32_at(bytes, 24)?;
    if size_bytes as usize > BLOCK_SIZE_MAX {
        return None;
    }
    let head = bytes.get(..head_size_bytes(size_bytes) as usize)?;
    if u32_at(head, 4)? != head_checksum(segment, offset, &head[8..]) {
        return None;
    }
    let entry = Entry {
        block: BlockId {
            client: ClientId(u64_at(head, 8)?),
            counter: u64_at(head, 16)?,
        },
        offset,
        size_bytes,
        checksum: u32_at(head, 28)?,
        kind: Kind::of(u32::from(*head.get(32)?))?,
    };
    let pages = (size_bytes as usize).div_ceil(PAGE_SIZE_BYTES);
    let checksums = (0..pages)
        .map(|page| u32_at(head, HEADER_SIZE_BYTES + 4 * page))
        .collect::<Option<Vec<u32>>>()?;
    Some((entry, checksums))
}

/// Whether `data`, which starts at page `first_page`, is what the page checksums say.
pub(super) fn pages_verify(data: &[u8], first_page: usize, checksums: &[u32]) -> bool {
    data.chunks(PAGE_SIZE_BYTES)
        .enumerate()
        .all(|(page, bytes)| checksums.get(first_page + page) == Some(&crc32c(&[bytes])))
}

pub(super) fn encode_footer(segment: u32, footer_offset: u64, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_SIZE_BYTES + TRAILER_SIZE_BYTES);
    for entry in entries {
        bytes.extend_from_slice(&entry.block.client.0.to_le_bytes());
        bytes.extend_from_slice(&entry.block.counter.to_le_bytes());
        for number in [
            entry.offset,
            entry.size_bytes,
            entry.checksum,
            u32::from(entry.kind.code()),
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes.extend_from_slice(TRAILER_MAGIC);
    bytes.extend_from_slice(&footer_offset.to_le_bytes());
    // A segment of at most 4 GiB holds fewer than 2^26 records of at least 64 bytes.
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let checksum = crc32c(&[&segment.to_le_bytes(), &bytes]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Where the footer starts, judged by the last bytes of a file; nothing is verified yet.
pub(super) fn footer_offset(trailer: &[u8], file_size_bytes: u64) -> Option<u64> {
    if trailer.get(..8)? != TRAILER_MAGIC {
        return None;
    }
    let offset = u64_at(trailer, 8)?;
    let entries_bytes = u64::from(u32_at(trailer, 16)?) * ENTRY_SIZE_BYTES as u64;
    let end = offset
        .checked_add(entries_bytes)?
        .checked_add(TRAILER_SIZE_BYTES as u64)?;
    (end == file_size_bytes).then_some(offset)
}

/// The entries of a footer, if all of it verifies.
pub(super) fn decode_footer(bytes: &[u8], segment: u32) -> Option<Vec<Entry>> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if u32_at(checksum, 0)? != crc32c(&[&segment.to_le_bytes(), body]) {
        return None;
    }
    let entries = body.get(..bytes.len().checked_sub(TRAILER_SIZE_BYTES)?)?;
    entries
        .chunks_exact(ENTRY_SIZE_BYTES)
        .map(|bytes| {
            Some(Entry {
                block: BlockId {
                    client: ClientId(u64_at(bytes, 0)?),
                    counter: u64_at(bytes, 8)?,
                },
                offset: u32_at(bytes, 16)?,
                size_bytes: u32_at(bytes, 20)?,
                checksum: u32_at(bytes, 24)?,
                kind: Kind::of(u32_at(bytes, 28)?)?,
            })
        })
        .collect()
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

    const DATA: &[u8] = b"hello";
    // Computed by another implementation of the table above.
    const HEAD_CHECKSUM: u32 = 0x6aee2ff5;
    const FOOTER_CHECKSUM: u32 = 0x99e76885;

    fn entry() -> Entry {
        let block = BlockId {
            client: ClientId(7),
            counter: 9,
        };
        Entry {
            block,
            offset: 128,
            size_bytes: 5,
            checksum: crc32c(&[DATA]),
            kind: Kind::Block,
        }
    }

    #[test]
    fn the_format_is_frozen() {
        // Goal: a change of the bytes on disk is noticed; checksums of one head and one footer.
        let mut head = Vec::new();
        encode_head(&mut head, 3, &entry(), DATA);
        assert_eq!((head.len(), crc32c(&[&head])), (128, HEAD_CHECKSUM));
        let footer = encode_footer(3, 256, &[entry()]);
        assert_eq!((footer.len(), crc32c(&[&footer])), (56, FOOTER_CHECKSUM));
    }

    #[test]
    fn heads_and_footers_read_back_and_every_flipped_bit_is_noticed() {
        // Goal: nothing but the exact bytes at the exact place verifies.
        let mut head = Vec::new();
        encode_head(&mut head, 3, &entry(), DATA);
        assert_eq!(decode_head(&head, 3, 128), Some((entry(), vec![crc32c(&[DATA])])));
        assert_eq!(decode_head(&head, 4, 128), None);
        assert_eq!(decode_head(&head, 3, 192), None);
        let footer = encode_footer(3, 256, &[entry()]);
        assert_eq!(decode_footer(&footer, 3), Some(vec![entry()]));
        assert_eq!(decode_footer(&footer, 4), None);
        for bit in 0..head.len() * 8 {
            let mut flipped = head.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_head(&flipped, 3, 128), None, "head bit {bit}");
        }
        for bit in 0..footer.len() * 8 {
            let mut flipped = footer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_footer(&flipped, 3), None, "footer bit {bit}");
        }
    }
}
