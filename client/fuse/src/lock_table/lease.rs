//! The leases of the locks, a partition each: when they were confirmed, when they are to be renewed, and what is lost with them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;

use super::LockTable;

/// Three tries before it runs out.
const RENEW_AFTER: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64 / 3);
/// For as long a lock is believed to be held without asking.
pub(super) const BELIEVED: Duration = Duration::from_millis(LOCK_LEASE_MS_DEFAULT as u64 / 2);

#[derive(Debug)]
pub(super) struct Lease {
    /// When the last request left that was answered by one who knew of the lease; none before the first grant.
    pub(super) confirmed: Option<Instant>,
    renewing: bool,
    /// The cluster has granted something under it. Before, there is nothing to be renewed.
    is_known: bool,
    /// A lock given here was refused by the cluster: what it knows and what is known here differ.
    pub(super) is_over: bool,
    /// Somebody was told that the lease ran out.
    pub(super) suspect: bool,
    /// It did, and what rested on it is being dropped.
    pub(super) recovering: bool,
}

impl Lease {
    pub(super) fn new(confirmed: Option<Instant>) -> Lease {
        Lease {
            confirmed,
            renewing: false,
            is_known: false,
            is_over: false,
            suspect: false,
            recovering: false,
        }
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.suspect || self.is_over || self.confirmed.is_some_and(|at| at.elapsed() > BELIEVED)
    }
}

impl LockTable {
    /// Whether anybody here has locks on files of a partition.
    pub(crate) fn is_used(&self, partition: PartitionId) -> bool {
        self.files.load(Ordering::Relaxed) > 0 && self.lock().leases.contains_key(&partition)
    }

    /// The cluster refused a lock that was given here, or nobody knows: what is held in that partition is lost.
    pub(crate) fn fail(&self, partition: PartitionId) {
        self.suspect(Some(partition));
        if let Some(lease) = self.lock().leases.get_mut(&partition) {
            lease.is_over = true;
        }
        self.wake.notify_one();
    }

    pub(crate) fn is_over(&self, partition: PartitionId) -> bool {
        let table = self.lock();
        table.leases.get(&partition).is_some_and(|lease| lease.is_over)
    }

    /// The cluster answered a request that left at `sent` and renews the lease.
    pub(crate) fn confirm(&self, partition: PartitionId, sent: Instant) {
        let mut table = self.lock();
        if let Some(lease) = table.leases.get_mut(&partition)
            && !lease.recovering
        {
            lease.confirmed = lease.confirmed.max(Some(sent));
            lease.is_known = true;
        }
        drop(table);
        self.changed.notify_waiters();
    }

    /// The lease of a partition, or any, may have run out; somebody must ask.
    pub(super) fn suspect(&self, partition: Option<PartitionId>) {
        let mut table = self.lock();
        if let Some(partition) = partition {
            let lease = || Lease::new(Some(Instant::now()));
            table.leases.entry(partition).or_insert_with(lease);
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
            homes.contains(partition) || lease.suspect || lease.is_over || lease.recovering || lease.renewing
        });
        let mut due = Vec::new();
        for (partition, lease) in &mut table.leases {
            let is_old = lease.is_known && lease.confirmed.is_some_and(|at| at.elapsed() > RENEW_AFTER);
            if (is_old || lease.suspect || lease.is_over) && !lease.renewing && !lease.recovering {
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
            table.unsure.remove(&inode);
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
}
