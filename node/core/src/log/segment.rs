//! The files of the log: their names, and how a fresh one is made ready.
//!
//! Design: a synced append to a file that does not grow costs one data write; to a growing file it
//! costs a journal commit as well, about twice the time. So files are written full of zeros before
//! their first use (`prepare` → `spare-N`) and used again when their records are no longer needed.
//! The price is `SPARES_MAX` idle files and one burst of zeros for each file in its life.
//!
//! Invariants:
//! - A spare is exactly one segment long and was synced before it got its name.
//! - A file gets a segment's name only after everything in the segments before it was synced.

use std::io;

use super::Error;
use crate::disk::{Disk, FileId};

pub(super) const SPARES_MAX: usize = 2;
const PREPARE_NAME: &str = "prepare";
// 1 MiB: one step of zeroing stays under a millisecond or two on a disk that writes 1 GB/s.
const ZEROS_SIZE_BYTES: u64 = 1 << 20;
static ZEROS: [u8; ZEROS_SIZE_BYTES as usize] = [0; ZEROS_SIZE_BYTES as usize];

pub(super) fn segment_name(segment: u64) -> String {
    format!("{segment:016x}.log")
}

/// The segment a file name stands for.
pub(super) fn segment_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|segment| segment_name(*segment) == name)
}

/// The directory of the log and the prepared files in it.
#[derive(Debug)]
pub(super) struct SegmentFiles {
    directory: String,
    segment_size_bytes: u64,
    spares: Vec<String>,
    preparing: Option<Preparing>,
}

#[derive(Debug)]
struct Preparing {
    file: FileId,
    zeroed_bytes: u64,
}

impl SegmentFiles {
    /// Takes stock of the directory: the segments in it, ascending. Half-prepared files are removed.
    pub fn open<D: Disk>(
        disk: &mut D,
        directory: &str,
        segment_size_bytes: u64,
    ) -> Result<(SegmentFiles, Vec<u64>), Error> {
        let failed = |source| Error::disk("open", directory, source);
        disk.create_directory(directory).map_err(failed)?;
        let above = directory.rsplit_once('/').map_or("", |(above, _)| above);
        disk.sync_directory(above).map_err(failed)?;
        let mut files = SegmentFiles {
            directory: directory.to_owned(),
            segment_size_bytes,
            spares: Vec::new(),
            preparing: None,
        };
        let mut segments = Vec::new();
        for name in disk.list(directory).map_err(failed)? {
            if let Some(segment) = segment_of(&name) {
                segments.push(segment);
            } else if name.starts_with("spare-") || name == PREPARE_NAME {
                files.take_stock_of(disk, name)?;
            }
        }
        segments.sort_unstable();
        Ok((files, segments))
    }

    fn take_stock_of<D: Disk>(&mut self, disk: &mut D, name: String) -> Result<(), Error> {
        let path = self.path(&name);
        let failed = |source| Error::disk("open", &path, source);
        let file = disk.open(&path, false).map_err(failed)?;
        let size_bytes = disk.size_bytes(file);
        disk.close(file);
        let usable = name != PREPARE_NAME && size_bytes.map_err(failed)? == self.segment_size_bytes;
        if usable && self.spares.len() < SPARES_MAX {
            self.spares.push(name);
            return Ok(());
        }
        disk.remove(&path).map_err(failed)
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// Gives a prepared file the name of `segment` and opens it. `Error::NoSpace` leaves all as it was.
    pub fn create<D: Disk>(&mut self, disk: &mut D, segment: u64) -> Result<FileId, Error> {
        while self.spares.is_empty() {
            self.prepare_step(disk)?;
        }
        let Some(spare) = self.spares.pop() else {
            return Err(Error::Poisoned);
        };
        let path = self.path(&segment_name(segment));
        let failed = |source| Error::disk("create", &path, source);
        disk.rename(&self.path(&spare), &path).map_err(failed)?;
        disk.sync_directory(&self.directory).map_err(failed)?;
        disk.open(&path, false).map_err(failed)
    }

    /// Keeps the file of a segment nobody needs as a spare, or removes it. Durable when this returns.
    pub fn retire<D: Disk>(&mut self, disk: &mut D, segment: u64, size_bytes: u64) -> Result<(), Error> {
        let path = self.path(&segment_name(segment));
        let failed = |source| Error::disk("retire", &path, source);
        if size_bytes == self.segment_size_bytes && self.spares.len() < SPARES_MAX {
            let spare = self.spare_name();
            disk.rename(&path, &self.path(&spare)).map_err(failed)?;
            self.spares.push(spare);
        } else {
            disk.remove(&path).map_err(failed)?;
        }
        disk.sync_directory(&self.directory).map_err(failed)
    }

    pub fn has_spare(&self) -> bool {
        !self.spares.is_empty()
    }

    /// One bounded step towards the next spare.
    pub fn prepare_step<D: Disk>(&mut self, disk: &mut D) -> Result<(), Error> {
        let path = self.path(PREPARE_NAME);
        let failed = |source| Error::disk("prepare", &path, source);
        let Preparing { file, zeroed_bytes } = match self.preparing.take() {
            Some(preparing) => preparing,
            None => Preparing {
                file: disk.open(&path, true).map_err(failed)?,
                zeroed_bytes: 0,
            },
        };
        let step_bytes = ZEROS_SIZE_BYTES.min(self.segment_size_bytes - zeroed_bytes);
        if let Err(source) = disk.write_at(file, zeroed_bytes, &ZEROS[..step_bytes as usize]) {
            disk.close(file);
            return Err(self.give_up_preparing(disk, source));
        }
        let zeroed_bytes = zeroed_bytes + step_bytes;
        if zeroed_bytes < self.segment_size_bytes {
            self.preparing = Some(Preparing { file, zeroed_bytes });
            return Ok(());
        }
        disk.sync(file).map_err(failed)?;
        disk.close(file);
        let spare = self.spare_name();
        disk.rename(&path, &self.path(&spare)).map_err(failed)?;
        disk.sync_directory(&self.directory).map_err(failed)?;
        self.spares.push(spare);
        Ok(())
    }

    fn give_up_preparing<D: Disk>(&mut self, disk: &mut D, source: io::Error) -> Error {
        let path = self.path(PREPARE_NAME);
        if source.kind() != io::ErrorKind::StorageFull {
            return Error::disk("prepare", &path, source);
        }
        // Gives the space back to others; the next attempt starts again from nothing.
        match disk.remove(&path) {
            Ok(()) => Error::NoSpace,
            Err(source) => Error::disk("remove", &path, source),
        }
    }

    fn spare_name(&self) -> String {
        let free = |name: &String| !self.spares.contains(name);
        (0..=self.spares.len())
            .map(|n| format!("spare-{n}"))
            .find(free)
            .unwrap_or_default()
    }
}

/// Overwrites `bytes` of `file` from `offset` with zeros where they are not zeros yet.
pub(super) fn zero_where_needed<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    let mut position = offset;
    for chunk in bytes.chunks(ZEROS_SIZE_BYTES as usize) {
        if chunk.iter().any(|byte| *byte != 0) {
            disk.write_at(file, position, &ZEROS[..chunk.len()])?;
        }
        position += chunk.len() as u64;
    }
    Ok(())
}
