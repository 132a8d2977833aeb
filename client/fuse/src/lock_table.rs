//! The locks programs of this mount hold, as far as it knows, and how sure it is of them.
//!
//! The cluster keeps the locks; here is what the mount must know to keep them alive and to notice that they are gone:
//! who holds any on which file, and when each partition last confirmed its lease. The mount acts before the cluster
//! does: from half of a lease without confirmation on, nobody writes or reads under a lock until it is known
//! whether it is still held.
//!
//! Invariants:
//! - Who holds a lock in the cluster is in the table, or its release is on its way.
//! - A holder whose locks are lost learns so from each use of them until he lets go.
//! - The mutex is never held across an await.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bark_schema::file_lock::LockKind;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;
use fuser::Errno;
use tokio::sync::Notify;

pub(crate) const LEASE: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64);
/// Three tries before it runs out.
const RENEW_AFTER: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64 / 3);
/// For as long a lock is believed to be held without asking.
const BELIEVED: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64 / 2);

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
    /// Requests for more that are not answered.
    asking: usize,
}

#[derive(Debug)]
struct Lease {
    /// When the last request left that was answered by one who knew of the lease; none before the first grant.
    confirmed: Option<Instant>,
    renewing: bool,
    /// Somebody was told that the lease ran out.
    suspect: bool,
    /// It did, and what rested on it is being dropped.
    recovering: bool,
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
        let is_doubtful =
            |lease: &Lease| lease.suspect || lease.confirmed.is_some_and(|at| at.elapsed() > BELIEVED);
        match table.held.contains_key(&inode) && lease.is_some_and(is_doubtful) {
            true => Standing::Doubtful,
            false => Standing::Fine,
        }
    }

    /// Whether anybody here has locks on files of a partition.
    pub(crate) fn is_used(&self, partition: PartitionId) -> bool {
        self.files.load(Ordering::Relaxed) > 0 && self.lock().leases.contains_key(&partition)
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
                partition.is_none_or(|partition| partition == *of) && (lease.suspect || lease.recovering)
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
        let held = table.held.entry(inode).or_default().entry(holder).or_default();
        let has_others = held.is_granted;
        held.asking += 1;
        held.handles.insert(handle);
        table.leases.entry(inode.home()).or_insert(Lease {
            confirmed: None,
            renewing: false,
            suspect: false,
            recovering: false,
        });
        self.count(&table);
        Ok(has_others)
    }

    /// What a holder asked for is his, or is not. Says whether what he had is lost, and with it what he asked for.
    pub(crate) fn answered(&self, inode: InodeId, holder: Holder, is_granted: bool) -> bool {
        let mut table = self.lock();
        table.change(inode, holder, |held| {
            held.asking = held.asking.saturating_sub(1);
            held.is_granted |= is_granted;
        });
        self.count(&table);
        table.lost.get(&inode).is_some_and(|lost| lost.contains(&holder))
    }

    /// The cluster answered a request that left at `sent` and renews the lease.
    pub(crate) fn confirm(&self, partition: PartitionId, sent: Instant) {
        let mut table = self.lock();
        if let Some(lease) = table.leases.get_mut(&partition)
            && !lease.recovering
        {
            lease.confirmed = lease.confirmed.max(Some(sent));
        }
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
        table.change(inode, holder, |held| held.is_granted = false);
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

    /// The lease of a partition, or any, may have run out; somebody must ask.
    fn suspect(&self, partition: Option<PartitionId>) {
        let mut table = self.lock();
        if let Some(partition) = partition {
            table.leases.entry(partition).or_insert(Lease {
                confirmed: Some(Instant::now()),
                renewing: false,
                suspect: false,
                recovering: false,
            });
        }
        for (of, lease) in &mut table.leases {
            if partition.is_none_or(|partition| partition == *of) && !lease.recovering {
                lease.suspect = true;
            }
        }
    }

    /// Partitions where the lease is to be renewed now. The caller does so, and tells.
    pub(crate) fn take_due(&self) -> Vec<PartitionId> {
        let mut table = self.lock();
        let homes: HashSet<PartitionId> = table.held.keys().map(|inode| inode.home()).collect();
        table.leases.retain(|partition, lease| {
            homes.contains(partition) || lease.suspect || lease.recovering || lease.renewing
        });
        let mut due = Vec::new();
        for (partition, lease) in &mut table.leases {
            let is_old = lease.confirmed.is_some_and(|at| at.elapsed() > RENEW_AFTER);
            if (is_old || lease.suspect) && !lease.renewing && !lease.recovering {
                lease.renewing = true;
                due.push(*partition);
            }
        }
        due
    }

    /// The lease was renewed by a request that left at `sent`; or nobody could be asked.
    pub(crate) fn renewed(&self, partition: PartitionId, sent: Option<Instant>) {
        if let Some(lease) = self.lock().leases.get_mut(&partition) {
            lease.renewing = false;
            if sent.is_some() {
                lease.suspect = false;
                lease.confirmed = lease.confirmed.max(sent);
            }
        }
        self.changed.notify_waiters();
    }

    /// The lease ran out: whatever was held is lost. Names the files of which something was.
    pub(crate) fn lose(&self, partition: PartitionId) -> Vec<InodeId> {
        let mut table = self.lock();
        let table = &mut *table;
        if let Some(lease) = table.leases.get_mut(&partition) {
            lease.renewing = false;
            lease.suspect = false;
            lease.recovering = true;
        }
        let inodes = table.held.keys().filter(|inode| inode.home() == partition);
        let inodes: Vec<InodeId> = inodes.copied().collect();
        let mut lost = Vec::new();
        for inode in inodes {
            let holders = table.held.remove(&inode).unwrap_or_default();
            if holders.values().any(|held| held.is_granted) {
                lost.push(inode);
            }
            // Who has only asked must not believe an answer from before.
            table.lost.entry(inode).or_default().extend(holders.into_keys());
        }
        self.count(table);
        self.changed.notify_waiters();
        lost
    }

    /// The cluster knows that this mount knows: it may begin anew there.
    pub(crate) fn recovered(&self, partition: PartitionId) {
        self.lock().leases.remove(&partition);
        self.changed.notify_waiters();
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(7);
    const HOLDER: Holder = (LockKind::Range, 1);

    #[test]
    fn what_is_lost_is_told_until_it_is_let_go() {
        // Goal: nobody goes on under a lock that is gone, and who lets go may take it anew.
        let table = LockTable::default();
        assert_eq!(table.standing(FILE), Standing::Fine);
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        assert!(!table.answered(FILE, HOLDER, true));
        table.confirm(FILE.home(), Instant::now());
        assert_eq!(table.standing(FILE), Standing::Fine);
        assert_eq!(table.lose(FILE.home()), [FILE]);
        assert_eq!(table.standing(FILE), Standing::Lost);
        assert_eq!(table.ask(FILE, HOLDER, 3), Err(Errno::ESTALE));
        table.recovered(FILE.home());
        assert_eq!(table.standing(FILE), Standing::Lost);
        assert!(table.let_go(FILE, HOLDER));
        assert_eq!(table.standing(FILE), Standing::Fine);
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    }

    #[test]
    fn half_a_lease_without_an_answer_makes_doubtful() {
        // Goal: the mount stops before the cluster gives the lock away. Method: a confirmation of long ago.
        let table = LockTable::default();
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        assert!(table.take_due().is_empty(), "nothing is granted yet");
        let Some(long_ago) = Instant::now().checked_sub(BELIEVED + Duration::from_secs(1)) else {
            return;
        };
        table.confirm(FILE.home(), long_ago);
        assert_eq!(table.standing(FILE), Standing::Doubtful);
        assert_eq!(table.take_due(), [FILE.home()]);
        assert!(table.take_due().is_empty(), "once at a time");
        table.renewed(FILE.home(), Some(Instant::now()));
        assert_eq!(table.standing(FILE), Standing::Fine);
    }

    #[test]
    fn a_lease_nobody_needs_is_not_renewed() {
        // Goal: no traffic for locks that were released.
        let table = LockTable::default();
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        table.answered(FILE, HOLDER, true);
        table.confirm(FILE.home(), Instant::now());
        table.let_go(FILE, HOLDER);
        assert!(table.take_due().is_empty());
        assert!(table.lock().leases.is_empty());
    }

    #[test]
    fn a_handle_that_closes_takes_those_with_it_who_used_no_other() {
        // Goal: locks of open files are released, whoever has them.
        let table = LockTable::default();
        let other = (LockKind::Flock, 2);
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        table.answered(FILE, HOLDER, true);
        assert_eq!(table.ask(FILE, HOLDER, 4), Ok(true));
        assert_eq!(table.ask(FILE, other, 3), Ok(false));
        assert_eq!(table.closed(FILE, 3), [other]);
        assert_eq!(table.closed(FILE, 4), [HOLDER]);
    }

    #[test]
    fn who_is_refused_keeps_what_another_thread_got() {
        // Goal: two requests of one holder at once, of which one fails, leave the lock of the other alive.
        let table = LockTable::default();
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
        assert!(!table.answered(FILE, HOLDER, true));
        assert!(!table.answered(FILE, HOLDER, false));
        assert!(table.holds(FILE, HOLDER));
        table.let_go(FILE, HOLDER);
        assert!(!table.holds(FILE, HOLDER));
    }
}
