//! The core's disk over real files below the node's data directory.
//!
//! Invariants:
//! - Paths cannot leave the data directory: parts are plain names.
//! - `sync` is fdatasync; its failure is passed on once and never retried.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use bark_core::disk::{Disk, FileId};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

/// RWF_DONTCACHE: written back at once, and out of the page cache then.
const WITHOUT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Files of one data directory; each thread has its own.
pub struct FileDisk {
    root: PathBuf,
    files: HashMap<FileId, File>,
    next: u32,
    /// The file system keeps what is written in memory, asked or not.
    caches_all: bool,
}

impl FileDisk {
    /// Creates the data directory if it is missing.
    pub fn open(root: &Path) -> io::Result<FileDisk> {
        std::fs::create_dir_all(root)?;
        Ok(FileDisk {
            root: root.to_path_buf(),
            files: HashMap::new(),
            next: 0,
            caches_all: false,
        })
    }

    fn path(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        if !relative
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path}: not inside the data directory"),
            ));
        }
        Ok(self.root.join(relative))
    }

    fn file(&self, file: FileId) -> io::Result<&File> {
        self.files
            .get(&file)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the file was closed"))
    }
}

impl Disk for FileDisk {
    fn open(&mut self, path: &str, create: bool) -> io::Result<FileId> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(self.path(path)?)?;
        self.next += 1;
        let id = FileId(self.next);
        self.files.insert(id, file);
        Ok(id)
    }

    fn close(&mut self, file: FileId) {
        self.files.remove(&file);
    }

    fn size_bytes(&mut self, file: FileId) -> io::Result<u64> {
        Ok(self.file(file)?.metadata()?.len())
    }

    fn read_at(&mut self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(file)?.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file)?.write_all_at(bytes, offset)
    }

    fn write_unread_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let handle = self.file(file)?;
        let mut done = 0;
        while !self.caches_all && done < bytes.len() {
            let left = [io::IoSlice::new(&bytes[done..])];
            match pwritev2(handle, &left, offset + done as u64, WITHOUT_CACHE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // A kernel before 6.14, or a file system that does not know of it.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if done < bytes.len() {
            handle.write_all_at(&bytes[done..], offset + done as u64)?;
            self.caches_all = true;
        }
        Ok(())
    }

    fn truncate(&mut self, file: FileId, size_bytes: u64) -> io::Result<()> {
        self.file(file)?.set_len(size_bytes)
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.file(file)?.sync_data()
    }

    fn create_directory(&mut self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.path(path)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path)?)
    }

    fn list(&mut self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(directory)?)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_directory(&mut self, path: &str) -> io::Result<()> {
        File::open(self.path(path)?)?.sync_all()
    }
}
