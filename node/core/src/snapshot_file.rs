//! Snapshot files: the state of one partition at one index, as a row of opaque chunks.
//!
//! Previous in the flow: a partition encodes its state a chunk at a time. Next: at start the newest file is
//! loaded, and a leader sends its bytes to followers that are too far behind for the log.
//!
//! Design: a file is written under a temporary name, synced, renamed and its directory synced; only then
//! may the log be told (`Record::Snapshot`). The footer repeats the length and seals the whole with one
//! checksum, so a torn file is never taken for a snapshot, whatever its name. The chunks follow each other
//! without a separator that only this file knows: a follower that receives the bytes of `read_at` has the
//! same stream. `open_newest` reads the file once to verify it; the price is that reading twice, and what
//! it buys is that a half-good snapshot is never half-loaded.
//!
//! Format, little-endian, file `p{partition}-{index}-{term}.snap`:
//!
//! | bytes | field |
//! | --- | --- |
//! | 8 | `BARKSNAP` |
//! | 4 | format version, 1 |
//! | 4 | partition |
//! | 8 | index |
//! | 8 | term |
//! | | chunk stream: chunks of {size u32, CRC-32C of the data u32, data} |
//! | 8 | footer: `BARKSEND` |
//! | 8 | size of the chunk stream |
//! | 4 | zero |
//! | 4 | CRC-32C of the header, the chunk stream and the first 20 bytes of the footer |
//!
//! Invariants:
//! - A file with a snapshot's name was synced before it got the name.
//! - A chunk has at most `CHUNK_SIZE_MAX` bytes, when written and when read. What is handed in larger, a row with a
//!   large value, becomes several; those who load take pieces of any size.

use std::io;

use bark_schema::ids::PartitionId;
use bark_schema::limits::MIB;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use crate::checksum::crc32c;
use crate::disk::{Disk, FileId};

pub const CHUNK_SIZE_MAX: usize = MIB;
const MAGIC: &[u8; 8] = b"BARKSNAP";
const FOOTER_MAGIC: &[u8; 8] = b"BARKSEND";
const VERSION: u32 = 1;
const HEADER_SIZE_BYTES: usize = 32;
const CHUNK_HEADER_SIZE_BYTES: usize = 8;
const FOOTER_SIZE_BYTES: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot {path}: damaged at byte {offset}")]
    Corrupt { path: String, offset: u64 },
    #[error("snapshot {path}: format version {version}, which this program does not know")]
    UnknownVersion { path: String, version: u32 },
    #[error("snapshot {path}: bytes {offset} to {end} of the chunk stream do not exist")]
    OutOfRange { path: String, offset: u64, end: u64 },
    #[error("no space for snapshot {path}")]
    NoSpace { path: String },
    #[error("snapshot: cannot {action} {path}")]
    Disk {
        action: &'static str,
        path: String,
        source: io::Error,
    },
}

/// Which state a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    pub partition: PartitionId,
    pub index: u64,
    pub term: u64,
}

impl SnapshotName {
    fn file_name(self) -> String {
        format!("p{}-{}-{}.snap", self.partition.0, self.index, self.term)
    }

    fn parse(file_name: &str) -> Option<SnapshotName> {
        let mut numbers = file_name.strip_prefix('p')?.strip_suffix(".snap")?.splitn(3, '-');
        let name = SnapshotName {
            partition: PartitionId(numbers.next()?.parse().ok()?),
            index: numbers.next()?.parse().ok()?,
            term: numbers.next()?.parse().ok()?,
        };
        (name.file_name() == file_name).then_some(name)
    }

    fn header(self) -> [u8; HEADER_SIZE_BYTES] {
        let mut header = [0; HEADER_SIZE_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&u32::from(self.partition.0).to_le_bytes());
        header[16..24].copy_from_slice(&self.index.to_le_bytes());
        header[24..32].copy_from_slice(&self.term.to_le_bytes());
        header
    }
}

/// A snapshot being written. Dropped without `finish` it leaves a temporary file that `remove_older` and
/// the next `create` of the same name clear away.
#[derive(Debug)]
pub struct SnapshotWriter {
    directory: String,
    name: SnapshotName,
    file: FileId,
    end: u64,
    checksum: Digest,
}

impl SnapshotWriter {
    pub fn create<D: Disk>(
        disk: &mut D,
        directory: &str,
        partition: PartitionId,
        index: u64,
        term: u64,
    ) -> Result<SnapshotWriter, Error> {
        let name = SnapshotName {
            partition,
            index,
            term,
        };
        let path = temporary_path(directory, name);
        let failed = |source| disk_error("create", &path, source);
        disk.create_directory(directory).map_err(failed)?;
        let above = directory.rsplit_once('/').map_or("", |(above, _)| above);
        disk.sync_directory(above).map_err(failed)?;
        let file = disk.open(&path, true).map_err(failed)?;
        let header = name.header();
        disk.truncate(file, 0)
            .and_then(|()| disk.write_at(file, 0, &header))
            .map_err(failed)?;
        let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        checksum.update(&header);
        let end = header.len() as u64;
        Ok(SnapshotWriter {
            directory: directory.to_owned(),
            name,
            file,
            end,
            checksum,
        })
    }

    pub fn write<D: Disk>(&mut self, disk: &mut D, data: &[u8]) -> Result<(), Error> {
        let mut rest = data;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK_SIZE_MAX));
            let size_bytes = chunk.len();
            let mut bytes = Vec::with_capacity(CHUNK_HEADER_SIZE_BYTES + size_bytes);
            bytes.extend_from_slice(&(size_bytes as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32c(&[chunk]).to_le_bytes());
            bytes.extend_from_slice(chunk);
            self.append(disk, &bytes)?;
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Appends a piece of another node's chunk stream as `SnapshotReader::read_at` gave it.
    pub fn write_stream<D: Disk>(&mut self, disk: &mut D, piece: &[u8]) -> Result<(), Error> {
        self.append(disk, piece)
    }

    /// Bytes of the chunk stream so far.
    pub fn stream_size_bytes(&self) -> u64 {
        self.end - HEADER_SIZE_BYTES as u64
    }

    /// Gives the file its name; it is durable when this returns.
    pub fn finish<D: Disk>(mut self, disk: &mut D) -> Result<SnapshotName, Error> {
        let mut footer = Vec::with_capacity(FOOTER_SIZE_BYTES);
        footer.extend_from_slice(FOOTER_MAGIC);
        footer.extend_from_slice(&self.stream_size_bytes().to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        self.checksum.update(&footer);
        footer.extend_from_slice(&(self.checksum.finalize() as u32).to_le_bytes());
        self.append(disk, &footer)?;
        let (temporary, path) = (
            temporary_path(&self.directory, self.name),
            path(&self.directory, self.name),
        );
        let synced = disk.sync(self.file);
        disk.close(self.file);
        synced
            .and_then(|()| disk.rename(&temporary, &path))
            .and_then(|()| disk.sync_directory(&self.directory))
            .map_err(|source| disk_error("finish", &path, source))?;
        Ok(self.name)
    }

    /// Gives up: closes and removes the temporary file.
    pub fn abandon<D: Disk>(self, disk: &mut D) -> Result<(), Error> {
        disk.close(self.file);
        let path = temporary_path(&self.directory, self.name);
        disk.remove(&path)
            .map_err(|source| disk_error("remove", &path, source))
    }

    fn append<D: Disk>(&mut self, disk: &mut D, bytes: &[u8]) -> Result<(), Error> {
        disk.write_at(self.file, self.end, bytes)
            .map_err(|source| disk_error("write", &temporary_path(&self.directory, self.name), source))?;
        self.end += bytes.len() as u64;
        self.checksum.update(bytes);
        Ok(())
    }
}

/// A finished snapshot whose checksum held when it was opened. `close` it after use.
#[derive(Debug)]
pub struct SnapshotReader {
    name: SnapshotName,
    path: String,
    file: FileId,
    stream_size_bytes: u64,
    /// Of the next chunk, in the chunk stream.
    position: u64,
}

impl SnapshotReader {
    /// The valid snapshot of `partition` with the highest index, and the names of newer ones that were
    /// passed over because they are damaged.
    pub fn open_newest<D: Disk>(
        disk: &mut D,
        directory: &str,
        partition: PartitionId,
    ) -> Result<(Option<SnapshotReader>, Vec<SnapshotName>), Error> {
        let mut damaged = Vec::new();
        for name in list(disk, directory, partition)?.into_iter().rev() {
            match SnapshotReader::open(disk, directory, name) {
                Ok(reader) => return Ok((Some(reader), damaged)),
                Err(Error::Corrupt { .. }) => damaged.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// Opens one snapshot and verifies all of it.
    pub fn open<D: Disk>(disk: &mut D, directory: &str, name: SnapshotName) -> Result<SnapshotReader, Error> {
        let path = path(directory, name);
        let file = disk
            .open(&path, false)
            .map_err(|source| disk_error("open", &path, source))?;
        match verify(disk, file, &path, name) {
            Ok(stream_size_bytes) => Ok(SnapshotReader {
                name,
                path,
                file,
                stream_size_bytes,
                position: 0,
            }),
            Err(error) => {
                disk.close(file);
                Err(error)
            }
        }
    }

    pub fn name(&self) -> SnapshotName {
        self.name
    }

    pub fn stream_size_bytes(&self) -> u64 {
        self.stream_size_bytes
    }

    /// The next chunk, verified; `None` at the end.
    pub fn next_chunk<D: Disk>(&mut self, disk: &mut D) -> Result<Option<Bytes>, Error> {
        if self.position == self.stream_size_bytes {
            return Ok(None);
        }
        let at = HEADER_SIZE_BYTES as u64 + self.position;
        let corrupt = || Error::Corrupt {
            path: self.path.clone(),
            offset: at,
        };
        let header = self.read_or_corrupt(disk, CHUNK_HEADER_SIZE_BYTES as u64)?;
        let (size_bytes, checksum) = (u32_at(&header, 0).ok_or_else(corrupt)?, u32_at(&header, 4));
        if size_bytes as usize > CHUNK_SIZE_MAX {
            return Err(corrupt());
        }
        let with_header =
            self.read_or_corrupt(disk, CHUNK_HEADER_SIZE_BYTES as u64 + u64::from(size_bytes))?;
        let data = with_header.slice(CHUNK_HEADER_SIZE_BYTES..);
        if checksum != Some(crc32c(&[&data])) {
            return Err(corrupt());
        }
        self.position += with_header.len() as u64;
        Ok(Some(data))
    }

    /// `length` bytes of the chunk stream from `offset`, for sending; the receiver's checks cover them.
    pub fn read_at<D: Disk>(&self, disk: &mut D, offset: u64, length: u64) -> Result<Bytes, Error> {
        let end = offset.saturating_add(length);
        let size = usize::try_from(length)
            .ok()
            .filter(|_| end <= self.stream_size_bytes);
        let size = size.ok_or_else(|| Error::OutOfRange {
            path: self.path.clone(),
            offset,
            end,
        })?;
        let mut bytes = vec![0; size];
        disk.read_at(self.file, HEADER_SIZE_BYTES as u64 + offset, &mut bytes)
            .map_err(|source| disk_error("read", &self.path, source))?;
        Ok(Bytes::from(bytes))
    }

    pub fn close<D: Disk>(self, disk: &mut D) {
        disk.close(self.file);
    }

    fn read_or_corrupt<D: Disk>(&self, disk: &mut D, length: u64) -> Result<Bytes, Error> {
        self.read_at(disk, self.position, length)
            .map_err(|error| match error {
                Error::OutOfRange { path, offset, .. } => Error::Corrupt { path, offset },
                error => error,
            })
    }
}

/// The snapshots of `partition` in `directory`, oldest first; they may be damaged.
pub fn list<D: Disk>(
    disk: &mut D,
    directory: &str,
    partition: PartitionId,
) -> Result<Vec<SnapshotName>, Error> {
    let names = match disk.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(disk_error("list", directory, source)),
    };
    let mut found: Vec<SnapshotName> = names
        .iter()
        .filter_map(|name| SnapshotName::parse(name))
        .collect();
    found.retain(|name| name.partition == partition);
    found.sort_unstable();
    Ok(found)
}

/// Removes the snapshots of `keep.partition` that are older than `keep`, and temporary files of its
/// older attempts. Call it after the log was told of `keep`. Returns how many files went.
pub fn remove_older<D: Disk>(disk: &mut D, directory: &str, keep: SnapshotName) -> Result<u64, Error> {
    let names = disk
        .list(directory)
        .map_err(|source| disk_error("list", directory, source))?;
    let mut removed = 0;
    for file_name in names {
        let name = SnapshotName::parse(file_name.strip_suffix(".new").unwrap_or(&file_name));
        if name.is_some_and(|name| name.partition == keep.partition && name < keep) {
            let path = format!("{directory}/{file_name}");
            disk.remove(&path)
                .map_err(|source| disk_error("remove", &path, source))?;
            removed += 1;
        }
    }
    if removed > 0 {
        disk.sync_directory(directory)
            .map_err(|source| disk_error("sync", directory, source))?;
    }
    Ok(removed)
}

/// Checks the whole file; returns the size of its chunk stream.
fn verify<D: Disk>(disk: &mut D, file: FileId, path: &str, name: SnapshotName) -> Result<u64, Error> {
    let failed = |source| disk_error("read", path, source);
    let corrupt = |offset| Error::Corrupt {
        path: path.to_owned(),
        offset,
    };
    let size_bytes = disk.size_bytes(file).map_err(failed)?;
    let framing_bytes = (HEADER_SIZE_BYTES + FOOTER_SIZE_BYTES) as u64;
    let stream_size_bytes = size_bytes.checked_sub(framing_bytes).ok_or_else(|| corrupt(0))?;
    let sealed_bytes = size_bytes - 4;
    let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut piece = vec![0; CHUNK_SIZE_MAX];
    let mut offset = 0;
    while offset < sealed_bytes {
        let count = (sealed_bytes - offset).min(piece.len() as u64) as usize;
        disk.read_at(file, offset, &mut piece[..count]).map_err(failed)?;
        checksum.update(&piece[..count]);
        offset += count as u64;
    }
    let mut header = [0; HEADER_SIZE_BYTES];
    let mut footer = [0; FOOTER_SIZE_BYTES];
    disk.read_at(file, 0, &mut header).map_err(failed)?;
    disk.read_at(file, HEADER_SIZE_BYTES as u64 + stream_size_bytes, &mut footer)
        .map_err(failed)?;
    let whole = footer.starts_with(FOOTER_MAGIC)
        && footer[8..16] == stream_size_bytes.to_le_bytes()
        && u32_at(&footer, 20) == Some(checksum.finalize() as u32);
    if !whole || !header.starts_with(MAGIC) {
        return Err(corrupt(HEADER_SIZE_BYTES as u64 + stream_size_bytes));
    }
    match u32_at(&header, 8) {
        Some(VERSION) if header == name.header() => Ok(stream_size_bytes),
        Some(version) if version != VERSION => Err(Error::UnknownVersion {
            path: path.to_owned(),
            version,
        }),
        _ => Err(corrupt(0)),
    }
}

fn path(directory: &str, name: SnapshotName) -> String {
    format!("{directory}/{}", name.file_name())
}

fn temporary_path(directory: &str, name: SnapshotName) -> String {
    format!("{}.new", path(directory, name))
}

fn disk_error(action: &'static str, path: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull => Error::NoSpace {
            path: path.to_owned(),
        },
        _ => Error::Disk {
            action,
            path: path.to_owned(),
            source,
        },
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(offset..offset + 4)?.try_into().ok()?,
    ))
}
