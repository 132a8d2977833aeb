//! What a full scan finds: whether the rows of a partition agree with each other and with its counters.
//!
//! Every module here promises that of its own rows; this looks at all of them at once, at any moment. It costs a
//! walk over everything, so nodes do not do it; the simulator and tests do. What lies in several partitions, as an
//! entry and its inode may, is not looked at here.
//!
//! Invariants checked:
//! - The counters are what counting anew gives.
//! - Inodes: directories count their entries and subdirectories, attributes and extents are counted, and one without
//!   a name is due or open.
//! - Extents do not overlap, lie within their file, and are what the blocks' references count.
//! - Opens, delegations and leases, sessions and replies, locks and prepared transactions belong to each other.
//! - Advisory locks do not conflict, and are counted.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::file_lock::FileLock;
use bark_schema::ids::{BlockId, ClientId, InodeId};
use bark_schema::operation::FileKind;

use super::State;
use super::counters::SpaceCounters;
use super::extent::ExtentRow;
use super::file_lock::lock_of;
use super::inode::Body;
use super::lock::LockKey;

impl State {
    /// Errors: the first thing that does not agree. One of them is a defect, whatever was asked of the partition.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_counters()?;
        self.audit_directories()?;
        self.audit_inodes()?;
        self.audit_extents()?;
        self.audit_opens()?;
        self.audit_delegations()?;
        self.audit_sessions()?;
        self.audit_locks()?;
        self.audit_file_locks()
    }

    fn audit_counters(&self) -> Result<(), String> {
        let mut counted = SpaceCounters::default();
        let (mut file_bytes, mut orphans) = (0u64, 0u64);
        for (_, row) in self.inodes.iter() {
            match row.link_count {
                0 => orphans += 1,
                _ => {
                    counted.allocated_bytes = counted.allocated_bytes.wrapping_add(row.allocated());
                    let size = if row.kind() == FileKind::Regular {
                        row.size
                    } else {
                        0
                    };
                    file_bytes = file_bytes.wrapping_add(size);
                }
            }
        }
        counted.block_bytes = self.blocks.iter().map(|(_, row)| u64::from(row.size)).sum();
        counted.garbage_bytes = self.garbage.iter().map(|(_, row)| u64::from(row.size)).sum();
        let mut patches = BTreeSet::new();
        for (key, row) in self.extents.iter() {
            if let ExtentRow::Patch { bytes, .. } = row {
                counted.patch_bytes += bytes.len() as u64;
                patches.insert(*key);
            }
        }
        agree("space", &self.space(), &counted)?;
        agree("bytes of files", &self.file_bytes, &file_bytes)?;
        agree("orphans", &self.orphan_count, &orphans)?;
        agree("patches", &self.patches, &patches)
    }

    fn audit_directories(&self) -> Result<(), String> {
        let mut children: BTreeMap<InodeId, (u64, u32)> = BTreeMap::new();
        for (key, entry) in self.dentries.iter() {
            let counts = children.entry(key.directory).or_default();
            counts.0 += 1;
            counts.1 += u32::from(entry.kind == FileKind::Directory);
        }
        for (inode, row) in self.inodes.iter() {
            let Body::Directory {
                children: counted, ..
            } = row.body
            else {
                continue;
            };
            let (entries, directories) = children.remove(inode).unwrap_or_default();
            agree(&format!("entries of {inode}"), &counted, &entries)?;
            match row.link_count {
                0 => agree(&format!("entries of {inode}, which is gone,"), &entries, &0)?,
                links => agree(&format!("links of {inode}"), &links, &(2 + directories))?,
            }
        }
        match children.keys().next() {
            Some(directory) => Err(format!("{directory} has entries and is no directory")),
            None => Ok(()),
        }
    }

    fn audit_inodes(&self) -> Result<(), String> {
        let mut xattrs: BTreeMap<InodeId, u8> = BTreeMap::new();
        for ((inode, _), _) in self.xattrs.iter() {
            let count = xattrs.entry(*inode).or_default();
            *count = count.saturating_add(1);
        }
        for (inode, row) in self.inodes.iter() {
            if row.link_count == 0 && !self.orphans.contains(inode) && !self.is_open(*inode) {
                return Err(format!("{inode} has no name, is not open and never goes"));
            }
            if inode.0 & InodeId::COUNTER_MAX >= self.inode_counter_next {
                return Err(format!("{inode} is beyond the counter"));
            }
            let counted = xattrs.remove(inode).unwrap_or(0);
            agree(&format!("xattrs of {inode}"), &row.xattr_count, &counted)?;
        }
        match xattrs.keys().next() {
            Some(inode) => Err(format!("{inode} has xattrs and does not exist")),
            None => Ok(()),
        }
    }

    fn audit_extents(&self) -> Result<(), String> {
        let mut references: BTreeMap<BlockId, u32> = BTreeMap::new();
        let mut maps: BTreeMap<InodeId, (u64, u64)> = BTreeMap::new();
        let mut end_before = (InodeId(0), 0);
        for ((inode, offset), row) in self.extents.iter() {
            let end = offset.saturating_add(row.length());
            if row.length() == 0 || (end_before.0 == *inode && end_before.1 > *offset) {
                return Err(format!("the extent of {inode} at {offset} is empty or overlaps"));
            }
            if self.inodes.get(inode).is_none_or(|row| row.size < end) {
                return Err(format!("the extent of {inode} at {offset} is beyond the file"));
            }
            end_before = (*inode, end);
            let map = maps.entry(*inode).or_default();
            *map = (map.0 + 1, map.1 + row.length());
            if let ExtentRow::Block { block, .. } = row {
                *references.entry(*block).or_default() += 1;
            }
        }
        for (inode, row) in self.inodes.iter() {
            let counted = match row.body {
                Body::Extents { count, allocated } => (count, allocated),
                _ => (0, 0),
            };
            let found = maps.remove(inode).unwrap_or_default();
            agree(&format!("extents of {inode}"), &counted, &found)?;
        }
        for (block, row) in self.blocks.iter() {
            let found = references.remove(block).unwrap_or(0);
            agree(&format!("references to {block}"), &row.references, &found)?;
            if self.garbage.contains(block) {
                return Err(format!("{block} is in use and in the ledger"));
            }
        }
        if let Some(block) = self.unnoticed_shortage() {
            return Err(format!("{block} has too few copies and is not among those"));
        }
        match references.keys().next() {
            Some(block) => Err(format!("{block} is pointed into and not known")),
            None => Ok(()),
        }
    }

    fn audit_opens(&self) -> Result<(), String> {
        for (inode, due) in self.orphans.iter() {
            if !self.due_orphans.contains(&(*due, *inode)) {
                return Err(format!("{inode} is due at {due}, but not found then"));
            }
        }
        agree("orphans by time", &self.due_orphans.len(), &self.orphans.len())?;
        let mut opens: BTreeMap<ClientId, u32> = BTreeMap::new();
        for ((inode, client), ()) in self.opens.iter() {
            if !self.opens_by_client.contains(&(*client, *inode)) {
                return Err(format!("{inode} is open, but not by {client}"));
            }
            *opens.entry(*client).or_default() += 1;
        }
        agree("opens by client", &self.opens_by_client.len(), &self.opens.len())?;
        for (client, lease) in self.leases.iter() {
            let found = opens.remove(client).unwrap_or(0);
            agree(&format!("opens of {client}"), &lease.opens, &found)?;
        }
        match opens.keys().next() {
            Some(client) => Err(format!("{client} has open files and no lease")),
            None => Ok(()),
        }
    }

    fn audit_delegations(&self) -> Result<(), String> {
        for (directory, client) in self.delegations.iter() {
            if !self.delegations_by_client.contains(&(*client, *directory)) {
                return Err(format!("{directory} is delegated, but not to {client}"));
            }
            if !self.leases.contains(client) {
                return Err(format!("{client} holds {directory} and has no lease"));
            }
            let is_directory = self
                .inodes
                .get(directory)
                .is_some_and(|row| row.kind() == FileKind::Directory && row.link_count > 0);
            if !is_directory {
                return Err(format!("{directory} is delegated and no directory with a name"));
            }
        }
        agree(
            "delegations by client",
            &self.delegations_by_client.len(),
            &self.delegations.len(),
        )
    }

    fn audit_sessions(&self) -> Result<(), String> {
        let mut replies: BTreeMap<ClientId, u32> = BTreeMap::new();
        for ((client, _), _) in self.replies.iter() {
            *replies.entry(*client).or_default() += 1;
        }
        for (client, session) in self.sessions.iter() {
            let found = replies.remove(client).unwrap_or(0);
            agree(&format!("replies to {client}"), &session.replies, &found)?;
        }
        match replies.keys().next() {
            Some(client) => Err(format!("{client} has replies and no session")),
            None => Ok(()),
        }
    }

    fn audit_locks(&self) -> Result<(), String> {
        let mut expected = BTreeMap::new();
        for (transaction, prepared) in self.prepared.iter() {
            for step in &prepared.steps {
                expected.insert(LockKey::of_step(step), *transaction);
            }
        }
        let held: BTreeMap<_, _> = self
            .locks
            .iter()
            .map(|(key, holder)| (key.clone(), *holder))
            .collect();
        agree("locks", &held, &expected)
    }

    fn audit_file_locks(&self) -> Result<(), String> {
        let held: Vec<FileLock> = self
            .file_locks
            .iter()
            .map(|(place, row)| lock_of(place, row))
            .collect();
        let mut files: BTreeMap<(ClientId, InodeId), u32> = BTreeMap::new();
        let mut leases: BTreeMap<ClientId, u32> = BTreeMap::new();
        let waits = self.lock_waits.iter().map(|(_, wait)| wait.lock);
        for lock in held.iter().copied().chain(waits) {
            let client = lock.owner.client;
            *files.entry((client, lock.inode)).or_default() += 1;
            *leases.entry(client).or_default() += 1;
            if !self.inodes.contains(&lock.inode) || !self.lock_leases.contains(&client) {
                return Err(format!("{lock:?} is on nothing or of nobody"));
            }
        }
        for (index, lock) in held.iter().enumerate() {
            let beside = self.held_on(lock.inode).filter(|other| other != lock);
            let wrong = beside.filter(|other| {
                let of_one = other.owner == lock.owner && other.range.overlaps(lock.range);
                other.conflicts(lock) || of_one
            });
            if let Some(other) = wrong.into_iter().next() {
                return Err(format!("lock {index}: {lock:?} and {other:?} are held at once"));
            }
        }
        let kept = self
            .lock_files
            .iter()
            .map(|(key, count)| (*key, *count))
            .collect();
        agree("files with locks", &kept, &files)?;
        let counted = self.lock_leases.iter().filter(|(_, lease)| lease.locks > 0);
        let kept = counted.map(|(client, lease)| (*client, lease.locks)).collect();
        agree("locks of clients", &kept, &leases)
    }
}

fn agree<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, found: &T) -> Result<(), String> {
    match kept == found {
        true => Ok(()),
        false => Err(format!("{what}: {kept:?} are kept, {found:?} are found")),
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::PartitionId;

    use super::*;

    /// Goal: an audit that never fails is none. Method: harm a state in one place, each time another.
    #[test]
    fn rows_that_do_not_agree_are_found() {
        let harmed = |harm: fn(&mut State)| {
            let mut state = State::new(PartitionId(0), 4);
            assert_eq!(state.audit(), Ok(()));
            harm(&mut state);
            assert!(state.audit().is_err());
        };
        harmed(|state| state.file_bytes += 1);
        harmed(|state| state.patch_bytes += 1);
        harmed(|state| {
            state.change_inode(InodeId::ROOT, |row| row.link_count += 1);
        });
        harmed(|state| {
            state.change_inode(InodeId::ROOT, |row| row.xattr_count += 1);
        });
        harmed(|state| {
            state.change_inode(InodeId::ROOT, |row| row.link_count = 0);
        });
        harmed(|state| state.inode_counter_next = 1);
        harmed(|state| state.opens.insert((InodeId::ROOT, ClientId(1)), ()));
        harmed(|state| state.replies.insert((ClientId(1), 1), Box::default()));
        harmed(|state| {
            let row = ExtentRow::Patch {
                written: 1,
                bytes: Box::from([1]),
            };
            state.extents.insert((InodeId::ROOT, 0), row);
        });
    }
}
