//! Locks the table gives itself, and how it knows that it may: no answer of the cluster is missing, and none was lost.

use std::time::Instant;

use bark_schema::file_lock::{LockKind, LockMode, LockRange};
use bark_schema::ids::InodeId;

use super::lease::Lease;
use super::{Holder, LockTable, Table};
use crate::lock_ranges::LockedRange;

/// Files on which locks are given here, and locks on each: fewer than the cluster has room for.
const HERE_FILES_MAX: usize = 128;
const HERE_PER_FILE_MAX: usize = 96;

/// What the table itself says to who wants a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    Granted,
    /// This one of another holder is in the way.
    Held(LockedRange),
    /// The cluster must be asked.
    Unknown,
}

impl LockTable {
    /// What a holder asks the cluster to release; [`LockTable::released`] must follow.
    pub(crate) fn begin_release(&self, inode: InodeId, holder: Holder) {
        self.lock().begin(inode, holder);
    }

    /// These bytes are the holder's no more, or it is not known.
    pub(crate) fn released(&self, inode: InodeId, holder: Holder, range: Option<LockRange>) {
        let mut table = self.lock();
        match range {
            Some(range) => table.let_go(inode, holder, range),
            None => drop(table.unsure.insert(inode)),
        }
        table.change(inode, holder, |held| held.asking = held.asking.saturating_sub(1));
        table.settle_doubts(inode);
        self.count(&table);
    }

    /// Somebody takes back what may have been granted on a file; [`LockTable::took_back`] must follow.
    pub(crate) fn take_back(&self, inode: InodeId) {
        let mut table = self.lock();
        *table.strays.entry(inode).or_default() += 1;
        table.unsure.insert(inode);
    }

    pub(crate) fn took_back(&self, inode: InodeId) {
        let mut table = self.lock();
        if let Some(strays) = table.strays.get_mut(&inode) {
            *strays -= 1;
            if *strays == 0 {
                table.strays.remove(&inode);
            }
        }
        table.settle_doubts(inode);
    }

    /// Gives a lock on a file in a directory that nobody else uses. The cluster must be told, before anything that rests on
    /// it, and [`LockTable::confirm`] or [`LockTable::fail`] must follow.
    pub(crate) fn take_here(&self, inode: InodeId, holder: Holder, handle: u64, lock: LockedRange) -> Here {
        let mut table = self.lock();
        if !table.is_sure(inode) {
            return Here::Unknown;
        }
        let mut held = 0;
        for (other, theirs) in table.held.get(&inode).into_iter().flatten() {
            held += theirs.ranges.len();
            if *other == holder || other.0 != holder.0 {
                continue;
            }
            if let Some(other) = theirs.ranges.in_the_way(lock.range, lock.mode) {
                // Asking for another mode lets go of a flock, whatever the answer.
                return match holder.0 == LockKind::Flock && table.has_other_mode(inode, holder, lock.mode) {
                    true => Here::Unknown,
                    false => Here::Held(other),
                };
            }
        }
        if held >= HERE_PER_FILE_MAX || table.held.len() >= HERE_FILES_MAX {
            return Here::Unknown;
        }
        let held = table.held.entry(inode).or_default().entry(holder).or_default();
        held.handles.insert(handle);
        held.is_granted = true;
        held.ranges.take(lock);
        let now = Instant::now();
        let lease = table
            .leases
            .entry(inode.home())
            .or_insert_with(|| Lease::new(None));
        // The delegation outlasts this, so the lock is as good as one that was granted now.
        lease.confirmed = lease.confirmed.or(Some(now));
        self.count(&table);
        Here::Granted
    }

    /// The same for a release. False: the cluster must be asked.
    pub(crate) fn release_here(&self, inode: InodeId, holder: Holder, range: LockRange) -> bool {
        let mut table = self.lock();
        if !table.is_sure(inode) {
            return false;
        }
        table.let_go(inode, holder, range);
        self.count(&table);
        true
    }

    /// What is in the way of a lock on such a file.
    pub(crate) fn conflict_here(&self, inode: InodeId, holder: Holder, lock: LockedRange) -> Here {
        let table = self.lock();
        if !table.is_sure(inode) {
            return Here::Unknown;
        }
        let mut others = table.held.get(&inode).into_iter().flatten();
        let found = others.find_map(|(other, theirs)| match *other != holder && other.0 == holder.0 {
            true => theirs.ranges.in_the_way(lock.range, lock.mode),
            false => None,
        });
        found.map_or(Here::Granted, Here::Held)
    }
}

impl Table {
    /// Whether all that the cluster knows of a file's locks is known here, and nothing is amiss.
    pub(super) fn is_sure(&self, inode: InodeId) -> bool {
        let is_lost = self.lost.contains_key(&inode);
        let is_unsure = self.unsure.contains(&inode) || self.strays.contains_key(&inode);
        let mut holders = self.held.get(&inode).into_iter().flatten();
        let lease = self.leases.get(&inode.home());
        let is_fine = lease.is_none_or(|lease| !lease.is_doubtful() && !lease.recovering);
        !is_lost && !is_unsure && is_fine && holders.all(|(_, held)| held.asking == 0)
    }

    pub(super) fn has_other_mode(&self, inode: InodeId, holder: Holder, mode: LockMode) -> bool {
        let held = self.held.get(&inode).and_then(|holders| holders.get(&holder));
        held.is_some_and(|held| held.ranges.has_other_mode(mode))
    }

    /// Nobody has anything on the file: nothing about it can be unknown, unless something is being taken back.
    pub(super) fn settle_doubts(&mut self, inode: InodeId) {
        if !self.held.contains_key(&inode) && !self.strays.contains_key(&inode) {
            self.unsure.remove(&inode);
        }
    }
}
