//! Advisory locks: each on a file that exists and of a client with a lease, none against another, and all counted.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::audit::{AuditCheck, AuditPage};
use bark_schema::file_lock::FileLock;
use bark_schema::ids::{ClientId, InodeId};

use super::super::State;
use super::super::file_lock::lock_of;
use super::fault_of;

impl State {
    pub(in super::super) fn locks_and_waits(&self) -> impl Iterator<Item = FileLock> {
        let held = self.file_locks.iter().map(|(place, row)| lock_of(place, row));
        held.chain(self.lock_waits.iter().map(|(_, wait)| wait.lock))
    }

    pub(super) fn audit_file_locks(&self, page: &mut AuditPage) {
        let held: Vec<FileLock> = self
            .file_locks
            .iter()
            .map(|(place, row)| lock_of(place, row))
            .collect();
        let mut files: BTreeMap<(ClientId, InodeId), u32> = BTreeMap::new();
        let mut leases: BTreeMap<ClientId, u32> = BTreeMap::new();
        let mut wrong: BTreeSet<InodeId> = BTreeSet::new();
        for lock in self.locks_and_waits() {
            let client = lock.owner.client;
            *files.entry((client, lock.inode)).or_default() += 1;
            *leases.entry(client).or_default() += 1;
            if !self.inodes.contains(&lock.inode) || !self.lock_leases.contains(&client) {
                wrong.insert(lock.inode);
            }
        }
        for lock in &held {
            let beside = self.held_on(lock.inode).filter(|other| other != lock);
            let mut against = beside.filter(|other| {
                let of_one = other.owner == lock.owner && other.range.overlaps(lock.range);
                other.conflicts(lock) || of_one
            });
            if against.next().is_some() {
                wrong.insert(lock.inode);
            }
        }
        for inode in wrong {
            page.faults.push(fault_of(AuditCheck::FileLock, inode, 0, 0));
        }
        for (key, count) in self.lock_files.iter() {
            if files.remove(key) != Some(*count) {
                let fault = fault_of(AuditCheck::FileLock, key.1, u64::from(*count), 0);
                page.faults.push(fault);
            }
        }
        for ((_, inode), found) in files {
            page.faults
                .push(fault_of(AuditCheck::FileLock, inode, 0, u64::from(found)));
        }
        for (client, lease) in self.lock_leases.iter() {
            let found = leases.remove(client).unwrap_or(0);
            if lease.locks != found {
                let fault = fault_of(AuditCheck::FileLock, InodeId(0), lease.locks.into(), found.into());
                page.faults.push(fault);
            }
        }
    }
}
