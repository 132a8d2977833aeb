//! A disk in memory that forgets, tears, lies and fails, the same way every time for the same seed.
//!
//! Files are byte vectors with an undo list of the writes since the last sync. A crash undoes them all,
//! then puts each one back whole, in part (by 512-byte sectors or cut at any byte) or not at all, each
//! decided alone, which is more than any real disk does. Directory changes are treated alike: kept or
//! lost one by one unless their directory was synced.
//!
//! Invariants:
//! - What was synced is there after a crash; what was not may be there, in any combination.
//! - After a sync failed, later syncs of that file report success and make nothing durable, as kernels
//!   that mark the pages clean do; code that retries a sync is caught by this.
//! - Nothing depends on anything but the calls made and the generator handed to `crash`.

mod content;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Disk, FileId};
use crate::random::Random;
use content::Inode;
use tree::{Change, Tree, parent};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A clone is a copy of the disk as it is at that moment.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    inodes: Vec<Inode>,
    handles: BTreeMap<FileId, usize>,
    handle_next: u32,
    now: Tree,
    durable: Tree,
    changes: Vec<Change>,
    used_bytes: u64,
    capacity_bytes: Option<u64>,
    counts: Counts,
    fail_write_at: Option<u64>,
    fail_sync_at: Option<u64>,
    stop_at: Option<u64>,
}

/// How often the disk was asked to do something since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
    /// Writes, syncs, truncations and directory changes together.
    pub changes: u64,
}

impl SimulatedDisk {
    pub fn new() -> SimulatedDisk {
        SimulatedDisk::default()
    }

    /// The power goes: every open file is closed and unsynced changes survive by the fall of the dice.
    /// Injected failures are switched off, the capacity and the bytes at rest stay.
    pub fn crash(&mut self, random: &mut Random) {
        for inode in &mut self.inodes {
            inode.crash(random);
        }
        for change in std::mem::take(&mut self.changes) {
            if random.chance(2) {
                self.durable.apply(&change);
            }
        }
        self.durable.drop_orphans();
        self.now = self.durable.clone();
        self.end_process();
        self.free_unlinked();
    }

    /// The process dies and the machine lives: files are closed, everything written is still there to
    /// be read, and what was not synced is still not synced.
    pub fn restart(&mut self) {
        self.end_process();
        self.free_unlinked();
    }

    /// The `nth` write from now (1 is the next one) fails with EIO and writes nothing.
    pub fn fail_write(&mut self, nth: u64) {
        self.fail_write_at = Some(self.counts.writes + nth);
    }

    /// The `nth` sync of a file from now (1 is the next one) fails with EIO.
    pub fn fail_sync(&mut self, nth: u64) {
        self.fail_sync_at = Some(self.counts.syncs + nth);
    }

    /// After `count` more changes everything fails with EIO until `crash` or `restart`: the means to
    /// crash at any point inside a call.
    pub fn stop_after(&mut self, count: u64) {
        self.stop_at = Some(self.counts.changes + count);
    }

    /// Files together may hold `capacity_bytes`; a write that needs more fails with ENOSPC.
    pub fn set_capacity(&mut self, capacity_bytes: Option<u64>) {
        self.capacity_bytes = capacity_bytes;
    }

    /// Turns one bit over at rest. False if the file or the byte does not exist.
    pub fn flip_bit(&mut self, path: &str, offset: u64, bit: u8) -> bool {
        let Some(&inode) = self.now.files.get(path) else {
            return false;
        };
        let byte = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.inodes[inode].bytes.get_mut(offset));
        match byte {
            Some(byte) => {
                *byte ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }

    /// The bytes of a file as a reader would see them now.
    pub fn contents(&self, path: &str) -> Option<&[u8]> {
        self.now
            .files
            .get(path)
            .map(|&inode| self.inodes[inode].bytes.as_slice())
    }

    /// Every path there is, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.now.files.keys().cloned().collect()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    fn end_process(&mut self) {
        self.handles.clear();
        self.fail_write_at = None;
        self.fail_sync_at = None;
        self.stop_at = None;
    }

    /// Lets go of the bytes of files that no name and no handle can reach any more.
    fn free_unlinked(&mut self) {
        let mut reachable: BTreeSet<usize> = self.handles.values().copied().collect();
        reachable.extend(self.now.files.values());
        reachable.extend(self.durable.files.values());
        for change in &self.changes {
            if let Change::Link { inode, .. } | Change::Rename { inode, .. } = change {
                reachable.insert(*inode);
            }
        }
        for (index, inode) in self.inodes.iter_mut().enumerate() {
            if !reachable.contains(&index) {
                *inode = Inode::default();
            }
        }
        self.used_bytes = self.inodes.iter().map(|inode| inode.bytes.len() as u64).sum();
    }

    fn inode_of(&self, file: FileId) -> io::Result<usize> {
        self.handles
            .get(&file)
            .copied()
            .ok_or_else(|| io::Error::other("the file is not open"))
    }

    fn begin_change(&mut self) -> io::Result<()> {
        if self.stop_at.is_some_and(|stop_at| self.counts.changes >= stop_at) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.counts.changes += 1;
        Ok(())
    }

    fn change_tree(&mut self, change: Change) {
        self.now.apply(&change);
        self.changes.push(change);
    }

    fn require_directory(&self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.now.directories.contains(path) {
            return Ok(());
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    fn reserve(&mut self, inode: usize, size_after: u64) -> io::Result<()> {
        let size_before = self.inodes[inode].bytes.len() as u64;
        let used_after = self.used_bytes - size_before + size_after;
        if size_after > size_before && self.capacity_bytes.is_some_and(|capacity| used_after > capacity) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        self.used_bytes = used_after;
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn open(&mut self, path: &str, create: bool) -> io::Result<FileId> {
        self.require_directory(parent(path))?;
        let inode = match self.now.files.get(path) {
            Some(&inode) => inode,
            None if create => {
                self.begin_change()?;
                let inode = self.inodes.len();
                self.inodes.push(Inode::default());
                self.change_tree(Change::Link {
                    path: path.to_owned(),
                    inode,
                });
                inode
            }
            None => return Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        self.handle_next += 1;
        self.handles.insert(FileId(self.handle_next), inode);
        Ok(FileId(self.handle_next))
    }

    fn close(&mut self, file: FileId) {
        self.handles.remove(&file);
    }

    fn size_bytes(&mut self, file: FileId) -> io::Result<u64> {
        let inode = self.inode_of(file)?;
        Ok(self.inodes[inode].bytes.len() as u64)
    }

    fn read_at(&mut self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let inode = self.inode_of(file)?;
        let start = to_usize(offset)?;
        let bytes = start
            .checked_add(buffer.len())
            .and_then(|end| self.inodes[inode].bytes.get(start..end))
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let inode = self.inode_of(file)?;
        self.begin_change()?;
        self.counts.writes += 1;
        if self.fail_write_at == Some(self.counts.writes) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let offset = to_usize(offset)?;
        let end = offset.checked_add(bytes.len()).ok_or_else(too_large)?;
        self.reserve(inode, (self.inodes[inode].bytes.len().max(end)) as u64)?;
        self.counts.written_bytes += bytes.len() as u64;
        self.inodes[inode].write(offset, bytes);
        Ok(())
    }

    fn truncate(&mut self, file: FileId, size_bytes: u64) -> io::Result<()> {
        let inode = self.inode_of(file)?;
        self.begin_change()?;
        self.reserve(inode, size_bytes)?;
        self.inodes[inode].truncate(to_usize(size_bytes)?);
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        let inode = self.inode_of(file)?;
        self.begin_change()?;
        self.counts.syncs += 1;
        if self.fail_sync_at == Some(self.counts.syncs) {
            self.inodes[inode].sync_lies = true;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if !self.inodes[inode].sync_lies {
            self.inodes[inode].unsynced.clear();
        }
        Ok(())
    }

    fn create_directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.now.directories.contains(path) {
            return Ok(());
        }
        self.require_directory(parent(path))?;
        self.begin_change()?;
        self.change_tree(Change::MakeDirectory {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.require_directory(parent(to))?;
        let inode = *self
            .now
            .files
            .get(from)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        self.begin_change()?;
        self.change_tree(Change::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            inode,
        });
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        if !self.now.files.contains_key(path) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        self.begin_change()?;
        self.change_tree(Change::Unlink {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&mut self, directory: &str) -> io::Result<Vec<String>> {
        self.require_directory(directory)?;
        let paths = self.now.files.keys().chain(&self.now.directories);
        let mut names: Vec<String> = paths
            .filter(|path| parent(path) == directory)
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn sync_directory(&mut self, path: &str) -> io::Result<()> {
        self.require_directory(path)?;
        self.begin_change()?;
        let (synced, pending) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| change.directory() == path);
        self.changes = pending;
        let synced: Vec<Change> = synced;
        for change in &synced {
            self.durable.apply(change);
        }
        self.free_unlinked();
        Ok(())
    }
}

fn to_usize(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| too_large())
}

fn too_large() -> io::Error {
    io::Error::from(io::ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &mut SimulatedDisk, path: &str, bytes: &[u8]) -> FileId {
        let file = disk.open(path, true).expect("open");
        disk.write_at(file, 0, bytes).expect("write");
        file
    }

    #[test]
    fn synced_bytes_and_names_survive_every_crash() {
        // Goal: what was synced is never lost; many seeds, one synced and one later unsynced write.
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut disk = SimulatedDisk::new();
            let file = written(&mut disk, "a", &[1; 2000]);
            disk.sync(file).expect("sync");
            disk.sync_directory("").expect("sync directory");
            disk.write_at(file, 1000, &[2; 3000]).expect("write");
            disk.crash(&mut random);
            let bytes = disk.contents("a").expect("the file was synced");
            assert_eq!(&bytes[..1000], &[1; 1000]);
            assert!(bytes[1000..2000].iter().all(|byte| *byte == 1 || *byte == 2));
        }
    }

    #[test]
    fn unsynced_writes_and_names_are_sometimes_lost_sometimes_torn() {
        // Goal: the double is as hostile as it claims; counts outcomes over seeds.
        let (mut lost, mut whole, mut torn, mut nameless) = (0, 0, 0, 0);
        for seed in 0..200 {
            let mut disk = SimulatedDisk::new();
            written(&mut disk, "a", &[1; 2000]);
            disk.crash(&mut Random::new(seed));
            match disk.contents("a") {
                None => nameless += 1,
                Some([]) => lost += 1,
                Some(bytes) if bytes == [1; 2000] => whole += 1,
                Some(_) => torn += 1,
            }
        }
        assert!(lost > 0 && whole > 0 && torn > 0 && nameless > 0);
    }

    #[test]
    fn a_sync_after_a_failed_sync_makes_nothing_durable() {
        // Goal: retrying a sync is punished; the second sync says yes and the bytes can still go.
        let lost = (0..50).any(|seed| {
            let mut disk = SimulatedDisk::new();
            let file = written(&mut disk, "a", &[1; 100]);
            disk.sync_directory("").expect("sync directory");
            disk.fail_sync(1);
            assert!(disk.sync(file).is_err());
            disk.sync(file).expect("the lie");
            disk.crash(&mut Random::new(seed));
            disk.contents("a").is_none_or(|bytes| bytes != [1; 100])
        });
        assert!(lost);
    }

    #[test]
    fn a_full_disk_refuses_growth_and_allows_overwriting() {
        // Goal: ENOSPC at the stated capacity and only for growth; space returns when a file is removed.
        let mut disk = SimulatedDisk::new();
        disk.set_capacity(Some(100));
        let file = written(&mut disk, "a", &[1; 100]);
        let refused = disk.write_at(file, 100, &[1]).expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        disk.write_at(file, 0, &[2; 100]).expect("no growth");
        disk.close(file);
        disk.remove("a").expect("remove");
        disk.sync_directory("").expect("sync directory");
        written(&mut disk, "b", &[1; 100]);
    }
}
