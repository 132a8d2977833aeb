//! The locks programs of this mount hold, as far as it knows, and how sure it is of them.
//!
//! The cluster keeps the locks; here is what the mount must know to keep them alive and to notice that they are gone:
//! who holds any on which file, and when each partition last confirmed its lease. The mount acts before the cluster
//! does: from half of a lease without confirmation on, nobody writes or reads under a lock until it is known
//! whether it is still held.
//!
//! In a directory this mount has for itself nobody else has locks, so the table itself gives them ([`LockTable::take_here`]), as
//! long as it knows exactly what the cluster knows: no answer is missing, and none was lost.
//!
//! Invariants:
//! - Who holds a lock in the cluster is in the table, or its release is on its way.
//! - A holder whose locks are lost learns so from each use of them until he lets go.
//! - The mutex is never held across an await.

mod here;
mod lease;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bark_schema::file_lock::{LockKind, LockRange};
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;
use fuser::Errno;
use tokio::sync::Notify;

pub(crate) use self::here::Here;
use self::lease::Lease;
use crate::lock_ranges::{LockRanges, LockedRange};

pub(crate) const LEASE: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64);

/// Whoever the kernel tells apart: an open file for flock, a process for fcntl.
pub(crate) type Holder = (LockKind, u64);

#[derive(Debug, Default)]
pub(crate) struct LockTable {
    table: Mutex<Table>,
    /// Files with locks, held or lost. While it is 0 nobody looks at the table for a read or a write.
    files: AtomicUsize,
    /// Something has changed that somebody may wait for.
    changed: Notify,
    /// The keeper has something to do at once.
    pub(crate) wake: Notify,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<InodeId, HashMap<Holder, Held>>,
    /// Files of which the cluster may have locks that are not known here, until nothing is held on them.
    unsure: HashSet<InodeId>,
    /// Locks that may have been granted and are being taken back.
    strays: HashMap<InodeId, usize>,
    lost: HashMap<InodeId, HashSet<Holder>>,
    leases: HashMap<PartitionId, Lease>,
    waits: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// Of the kernel, through which the holder took locks.
    handles: HashSet<u64>,
    /// Something was granted, and not all of it released since.
    is_granted: bool,
    /// What, unless the file is among the unsure.
    ranges: LockRanges,
    /// Requests, to take and to release, that are not answered.
    asking: usize,
}

/// What a file's locks are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Held, or there are none.
    Fine,
    /// Not confirmed for too long.
    Doubtful,
    Lost,
}

impl LockTable {
    pub(crate) fn standing(&self, inode: InodeId) -> Standing {
        // Relaxed: whoever has just taken a lock in this process is told of it through the kernel, later than this.
        if self.files.load(Ordering::Relaxed) == 0 {
            return Standing::Fine;
        }
        let table = self.lock();
        if table.lost.contains_key(&inode) {
            return Standing::Lost;
        }
        let lease = table.leases.get(&inode.home());
        match table.held.contains_key(&inode) && lease.is_some_and(Lease::is_doubtful) {
            true => Standing::Doubtful,
            false => Standing::Fine,
        }
    }

    /// Waits until it is known what a file's locks are worth. Errors: they are lost; or it takes longer than `patience`.
    pub(crate) async fn settle(&self, inode: InodeId, patience: Option<Duration>) -> Result<(), Errno> {
        let is_known = || match self.standing(inode) {
            Standing::Fine => Some(Ok(())),
            Standing::Lost => Some(Err(Errno::ESTALE)),
            Standing::Doubtful => None,
        };
        match is_known() {
            Some(known) => known,
            None => self
                .wait_until(is_known, patience)
                .await
                .unwrap_or(Err(Errno::EIO)),
        }
    }

    /// Waits until a partition is not fenced any more, as far as is known. False: the locks of `inode` are lost, or it takes
    /// too long.
    pub(crate) async fn rejoined(
        &self,
        partition: Option<PartitionId>,
        inode: Option<InodeId>,
        patience: Option<Duration>,
    ) -> bool {
        self.suspect(partition);
        self.clear(partition, inode, patience).await
    }

    /// The same without asking anybody, if nothing is amiss.
    pub(crate) async fn clear(
        &self,
        partition: Option<PartitionId>,
        inode: Option<InodeId>,
        patience: Option<Duration>,
    ) -> bool {
        let is_known = || {
            let table = self.lock();
            if inode.is_some_and(|inode| table.lost.contains_key(&inode)) {
                return Some(false);
            }
            let mut leases = table.leases.iter();
            let waits = |(of, lease): (&PartitionId, &Lease)| {
                partition.is_none_or(|partition| partition == *of)
                    && (lease.suspect || lease.is_over || lease.recovering)
            };
            (!leases.any(waits)).then_some(true)
        };
        self.wait_until(is_known, patience).await.unwrap_or(false)
    }

    async fn wait_until<T>(&self, is_known: impl Fn() -> Option<T>, patience: Option<Duration>) -> Option<T> {
        self.wake.notify_one();
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(known) = is_known() {
                    return known;
                }
                changed.await;
            }
        };
        match patience {
            Some(patience) => tokio::time::timeout(patience, wait).await.ok(),
            None => Some(wait.await),
        }
    }

    /// A holder asks for a lock; [`LockTable::answered`] must follow. Says whether he has others on this file. Errors: they
    /// are lost, which he must learn.
    pub(crate) fn ask(&self, inode: InodeId, holder: Holder, handle: u64) -> Result<bool, Errno> {
        let mut table = self.lock();
        if table.lost.get(&inode).is_some_and(|lost| lost.contains(&holder)) {
            return Err(Errno::ESTALE);
        }
        let has_others = table.begin(inode, holder).is_granted;
        let held = table.held.entry(inode).or_default().entry(holder).or_default();
        held.handles.insert(handle);
        let lease = || Lease::new(None);
        table.leases.entry(inode.home()).or_insert_with(lease);
        self.count(&table);
        Ok(has_others)
    }

    /// What a holder asked for is his, or is not. Says whether what he had is lost, and with it what he asked for.
    pub(crate) fn answered(&self, inode: InodeId, holder: Holder, granted: Option<LockedRange>) -> bool {
        let mut table = self.lock();
        table.change(inode, holder, |held| {
            held.asking = held.asking.saturating_sub(1);
            if let Some(lock) = granted {
                held.is_granted = true;
                held.ranges.take(lock);
            }
        });
        self.count(&table);
        table.lost.get(&inode).is_some_and(|lost| lost.contains(&holder))
    }

    /// Whether the holder has anything on the file, as far as is known here.
    pub(crate) fn holds(&self, inode: InodeId, holder: Holder) -> bool {
        let table = self.lock();
        table
            .held
            .get(&inode)
            .is_some_and(|held| held.contains_key(&holder))
    }

    /// Whether the holder has anything on the file, or must be told that it is lost.
    pub(crate) fn knows(&self, inode: InodeId, holder: Holder) -> bool {
        self.files.load(Ordering::Relaxed) > 0 && (self.holds(inode, holder) || self.is_lost(inode, holder))
    }

    pub(crate) fn is_lost(&self, inode: InodeId, holder: Holder) -> bool {
        let table = self.lock();
        table.lost.get(&inode).is_some_and(|lost| lost.contains(&holder))
    }

    /// The holder has nothing on the file any more. Says whether it was lost before.
    pub(crate) fn let_go(&self, inode: InodeId, holder: Holder) -> bool {
        let mut table = self.lock();
        table.let_go(inode, holder, LockRange::ALL);
        let was_lost = table.forgive(inode, holder);
        self.count(&table);
        was_lost
    }

    /// The holder had not been granted anything when the lease ran out: nothing of his is lost.
    pub(crate) fn forgive(&self, inode: InodeId, holder: Holder) {
        let mut table = self.lock();
        table.forgive(inode, holder);
        self.count(&table);
    }

    /// A handle of the kernel is closed: those who took locks through it and through no other.
    pub(crate) fn closed(&self, inode: InodeId, handle: u64) -> Vec<Holder> {
        if self.files.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let mut table = self.lock();
        let Some(holders) = table.held.get_mut(&inode) else {
            return Vec::new();
        };
        let through = holders.iter_mut().filter_map(|(holder, held)| {
            let was_last = held.handles.remove(&handle) && held.handles.is_empty();
            was_last.then_some(*holder)
        });
        through.collect()
    }

    /// Nobody has the file open any more, so nobody has locks on it.
    pub(crate) fn forget(&self, inode: InodeId) {
        if self.files.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut table = self.lock();
        table.lost.remove(&inode);
        self.count(&table);
    }

    /// A number to wait under, and to cancel.
    pub(crate) fn number_wait(&self) -> u64 {
        let mut table = self.lock();
        table.waits += 1;
        table.waits
    }

    fn count(&self, table: &Table) {
        self.files
            .store(table.held.len() + table.lost.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A request of a holder leaves. Two of them at once may arrive in any order.
    fn begin(&mut self, inode: InodeId, holder: Holder) -> &Held {
        let held = self.held.entry(inode).or_default().entry(holder).or_default();
        if held.asking > 0 {
            self.unsure.insert(inode);
        }
        held.asking += 1;
        held
    }

    /// These bytes are not the holder's any more.
    fn let_go(&mut self, inode: InodeId, holder: Holder, range: LockRange) {
        let is_unsure = self.unsure.contains(&inode);
        self.change(inode, holder, |held| {
            held.ranges.let_go(range);
            // What is not known may be left.
            if range == LockRange::ALL || (!is_unsure && held.ranges.is_empty()) {
                held.is_granted = false;
            }
        });
    }

    /// Changes what a holder has; who has nothing and asks for nothing is none.
    fn change(&mut self, inode: InodeId, holder: Holder, change: impl FnOnce(&mut Held)) {
        let Some(holders) = self.held.get_mut(&inode) else {
            return;
        };
        if let Some(held) = holders.get_mut(&holder) {
            change(held);
            if !held.is_granted && held.asking == 0 {
                holders.remove(&holder);
            }
        }
        if holders.is_empty() {
            self.held.remove(&inode);
            self.settle_doubts(inode);
        }
    }

    fn forgive(&mut self, inode: InodeId, holder: Holder) -> bool {
        let Some(lost) = self.lost.get_mut(&inode) else {
            return false;
        };
        let was_lost = lost.remove(&holder);
        if lost.is_empty() {
            self.lost.remove(&inode);
        }
        was_lost
    }
}
