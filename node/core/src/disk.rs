//! The disk as the deterministic machine sees it.
//!
//! Two real implementations exist: files (`node/server/src/file_disk.rs`) and the simulated disk, which
//! forgets what was not synced, tears writes, flips bits and fails on request. Paths are relative to the
//! node's data directory, with `/` between parts; the empty path is that directory itself.
//!
//! Invariants:
//! - Nothing written is durable before `sync` of that file returned, and no file created, renamed or
//!   removed stays so before `sync_directory` of its directory returned.
//! - A failed `sync` is final: the caller stops using the file and never retries.

use std::io;

pub mod simulated;

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

pub trait Disk {
    /// Opens an existing file, or creates it empty when `create` is set.
    fn open(&mut self, path: &str, create: bool) -> io::Result<FileId>;
    fn close(&mut self, file: FileId);
    fn size_bytes(&mut self, file: FileId) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&mut self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, extending the file if needed.
    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// The same for bytes that will hardly be read soon: they need not stay in memory.
    fn write_unread_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(file, offset, bytes)
    }
    fn truncate(&mut self, file: FileId, size_bytes: u64) -> io::Result<()>;
    /// fdatasync.
    fn sync(&mut self, file: FileId) -> io::Result<()>;
    /// Creates a directory; fine if it exists.
    fn create_directory(&mut self, path: &str) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, path: &str) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn list(&mut self, directory: &str) -> io::Result<Vec<String>>;
    /// fsync of a directory.
    fn sync_directory(&mut self, path: &str) -> io::Result<()>;
}
