//! The end of the store: the one segment that is written, and when it is sealed.
//!
//! Invariants:
//! - A segment is sealed, footer and all, before the next one is begun.

use std::io;

use bark_schema::ids::BlockId;

use super::format::{self, Entry, Kind};
use super::{BlockStore, Error};
use crate::disk::{Disk, FileId};

/// The segment being written.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: u32,
    pub(super) file: FileId,
    end: u64,
    entries: Vec<Entry>,
    pub(super) dirty: bool,
}

impl BlockStore {
    pub(super) fn append_block<D: Disk>(
        &mut self,
        disk: &mut D,
        block: BlockId,
        data: &[u8],
        (checksum, size_bytes): (u32, u32),
        is_spare: bool,
    ) -> Result<(), Error> {
        let kind = Kind::Block;
        let entry = self.append(
            disk,
            Entry {
                block,
                offset: 0,
                size_bytes,
                checksum,
                kind,
            },
            data,
            is_spare,
        )?;
        let segment = self.tail.as_ref().map_or(0, |tail| tail.segment);
        self.forget(block);
        self.remember(segment, &entry);
        Ok(())
    }

    pub(super) fn append_tombstone<D: Disk>(&mut self, disk: &mut D, block: BlockId) -> Result<(), Error> {
        let entry = Entry {
            block,
            offset: 0,
            size_bytes: 0,
            checksum: 0,
            kind: Kind::Tombstone,
        };
        self.append(disk, entry, &[], false)?;
        let segment = self.tail.as_ref().map_or(0, |tail| tail.segment);
        self.segments.add_tombstone(segment);
        Ok(())
    }

    /// Writes a record at the end; its offset is filled in. `NoSpace` leaves everything as it was.
    fn append<D: Disk>(
        &mut self,
        disk: &mut D,
        mut entry: Entry,
        data: &[u8],
        is_spare: bool,
    ) -> Result<Entry, Error> {
        let appended = self
            .ready_tail(disk, format::record_size_bytes(entry.size_bytes))
            .and_then(|mut tail| {
                let written = tail.write(disk, &mut entry, data, is_spare);
                let (segment, size_bytes) = (tail.segment, tail.end);
                self.tail = Some(tail);
                written.map_err(|source| self.failed("write", source))?;
                self.segments.resize(segment, size_bytes);
                Ok(entry)
            });
        appended.map_err(|error| match error {
            Error::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => Error::NoSpace,
            error => {
                self.poisoned = true;
                error
            }
        })
    }

    /// Takes the tail out, with room for `needed_bytes`: the present one or, that sealed, a new one.
    fn ready_tail<D: Disk>(&mut self, disk: &mut D, needed_bytes: u64) -> Result<Tail, Error> {
        if let Some(tail) = self.tail.take() {
            if tail.end + needed_bytes <= self.config.segment_size_bytes || tail.entries.is_empty() {
                return Ok(tail);
            }
            self.tail = Some(tail);
            self.seal(disk)?;
        }
        let segment = self.segment_next;
        let failed = |source| self.failed("create", source);
        let file = disk.open(&self.path(segment), true).map_err(failed)?;
        disk.sync_directory(&self.directory).map_err(failed)?;
        self.segment_next = segment.checked_add(1).ok_or(Error::NoSpace)?;
        self.segments.resize(segment, 0);
        Ok(Tail {
            segment,
            file,
            end: 0,
            entries: Vec::new(),
            dirty: true,
        })
    }

    /// Ends the tail with its footer. The data is synced first: a footer that survives a crash which its
    /// records did not would vouch for bytes that are not there.
    fn seal<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        self.sync(disk)?;
        let Some(tail) = self.tail.as_mut() else {
            return Ok(());
        };
        let (segment, file) = (tail.segment, tail.file);
        let footer = tail.write_footer(disk);
        let size_bytes = footer.map_err(|source| self.failed("seal", source))?;
        self.sync(disk)?;
        self.tail = None;
        self.segments.resize(segment, size_bytes);
        self.keep_open(disk, segment, file);
        Ok(())
    }
}

impl Tail {
    fn write<D: Disk>(
        &mut self,
        disk: &mut D,
        entry: &mut Entry,
        data: &[u8],
        is_spare: bool,
    ) -> io::Result<()> {
        entry.offset = u32::try_from(self.end).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(format::head_size_bytes(entry.size_bytes) as usize);
        format::encode_head(&mut head, self.segment, entry, data);
        disk.write_at(self.file, self.end, &head)?;
        let offset = self.end + head.len() as u64;
        match is_spare {
            _ if data.is_empty() => {}
            true => disk.write_unread_at(self.file, offset, data)?,
            false => disk.write_at(self.file, offset, data)?,
        }
        self.end += format::record_size_bytes(entry.size_bytes);
        self.entries.push(*entry);
        self.dirty = true;
        Ok(())
    }

    /// Writes the footer; returns the size of the file with it.
    fn write_footer<D: Disk>(&mut self, disk: &mut D) -> io::Result<u64> {
        let footer = format::encode_footer(self.segment, self.end, &self.entries);
        self.dirty = true;
        // What a put that found no space left behind must not follow the footer.
        disk.truncate(self.file, self.end)?;
        disk.write_at(self.file, self.end, &footer)?;
        Ok(self.end + footer.len() as u64)
    }
}
