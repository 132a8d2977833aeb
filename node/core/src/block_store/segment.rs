//! Reading a segment file back: its footer if it is sealed, its record heads if it is not.
//!
//! Invariants:
//! - A record of an unsealed segment counts only if its data verifies; it may be torn anywhere.
//! - Damage costs the records it hits, not those behind it: the scan looks for the next head that
//!   verifies at every multiple of 64.

use std::io;

use super::format::{self, ALIGNMENT_BYTES, Entry, HEAD_SIZE_BYTES_MAX, Kind, TRAILER_SIZE_BYTES};
use crate::checksum::crc32c;
use crate::disk::{Disk, FileId};

// 1 MiB: few reads a segment, little memory.
const SCAN_SIZE_BYTES: usize = 1 << 20;

pub(super) fn segment_name(segment: u32) -> String {
    format!("{segment:08x}.blocks")
}

/// The segment a file name stands for.
pub(super) fn segment_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".blocks").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16)
        .ok()
        .filter(|segment| segment_name(*segment) == name)
}

/// The entries of a sealed segment; `None` if there is no footer or it does not verify.
pub(super) fn read_footer<D: Disk>(
    disk: &mut D,
    file: FileId,
    segment: u32,
) -> io::Result<Option<Vec<Entry>>> {
    let size_bytes = disk.size_bytes(file)?;
    let mut trailer = [0; TRAILER_SIZE_BYTES];
    let Some(trailer_offset) = size_bytes.checked_sub(TRAILER_SIZE_BYTES as u64) else {
        return Ok(None);
    };
    disk.read_at(file, trailer_offset, &mut trailer)?;
    let Some(offset) = format::footer_offset(&trailer, size_bytes) else {
        return Ok(None);
    };
    let mut footer = vec![0; usize::try_from(size_bytes - offset).map_err(io::Error::other)?];
    disk.read_at(file, offset, &mut footer)?;
    Ok(format::decode_footer(&footer, segment))
}

/// What a scan found in a segment without a footer.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub entries: Vec<Entry>,
    /// Blocks whose head verifies and whose data does not.
    pub damaged: Vec<Entry>,
    /// The end of the last record that verifies.
    pub end: u64,
}

/// Reads record after record, data included.
pub(super) fn scan<D: Disk>(disk: &mut D, file: FileId, segment: u32) -> io::Result<Scanned> {
    let size_bytes = disk.size_bytes(file)?;
    let mut window = Window {
        file,
        size_bytes,
        start: 0,
        bytes: Vec::new(),
    };
    let mut scanned = Scanned::default();
    let mut offset = 0;
    while offset < size_bytes {
        let head = window.at(disk, offset)?;
        // Offsets are u32 in the format; nothing of ours stands behind that.
        let Ok(offset_in_record) = u32::try_from(offset) else {
            break;
        };
        let Some((entry, _)) = format::decode_head(head, segment, offset_in_record) else {
            offset += ALIGNMENT_BYTES;
            continue;
        };
        if data_verifies(disk, file, size_bytes, &entry)? {
            scanned.entries.push(entry);
            offset += format::record_size_bytes(entry.size_bytes);
            scanned.end = offset;
        } else {
            scanned.damaged.push(entry);
            // Not past its data: if that was never written, another record may begin soon.
            offset += ALIGNMENT_BYTES;
        }
    }
    Ok(scanned)
}

fn data_verifies<D: Disk>(disk: &mut D, file: FileId, size_bytes: u64, entry: &Entry) -> io::Result<bool> {
    if entry.kind == Kind::Tombstone {
        return Ok(entry.size_bytes == 0);
    }
    let start = u64::from(entry.offset) + format::head_size_bytes(entry.size_bytes);
    if start + u64::from(entry.size_bytes) > size_bytes {
        return Ok(false);
    }
    let mut data = vec![0; entry.size_bytes as usize];
    disk.read_at(file, start, &mut data)?;
    Ok(crc32c(&[&data]) == entry.checksum)
}

/// A moving piece of the file, so that heads are not read one system call each.
struct Window {
    file: FileId,
    size_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The bytes from `offset`, as many as the longest head or up to the end of the file.
    fn at<D: Disk>(&mut self, disk: &mut D, offset: u64) -> io::Result<&[u8]> {
        let needed = (self.size_bytes - offset).min(HEAD_SIZE_BYTES_MAX as u64);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + needed > end {
            let size = (self.size_bytes - offset).min(SCAN_SIZE_BYTES as u64);
            self.bytes.resize(size as usize, 0);
            self.start = offset;
            disk.read_at(self.file, offset, &mut self.bytes)?;
        }
        Ok(&self.bytes[(offset - self.start) as usize..])
    }
}
