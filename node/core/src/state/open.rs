//! Inodes without a name: who still has them open, and when they go.
//!
//! An inode whose last name goes is an orphan: it stays, with link count 0, until nobody has it open. Telling
//! of every open would cost a log entry each, so clients tell only of those that last: an orphan stays for
//! a grace time anyway, and a client that still has it open after a tenth of that time has told. What was
//! opened and closed in between costs nothing at all, and whoever unlinks need not know who has it open.
//! The price: the room a file took is free only after the grace time.
//!
//! What a client tells holds as long as its lease, which it renews by telling (even nothing). The leader
//! sees leases run out and orphans fall due by its own clock and proposes `ReapOrphans`; what goes is decided
//! when that is applied, by the time in the log.
//!
//! Invariants:
//! - Every inode with link count 0 is due in `orphans` or open in `opens`.
//! - `orphans` and `due_orphans` hold the same pairs: an inode is due at one time, the last it was given.
//! - `opens` and `opens_by_client` hold the same pairs, as many of a client as its lease counts.
//! - An inode with a name, or told to be open under a lease that runs, is not reaped.

use bark_schema::ids::{ClientId, InodeId};
use bark_schema::limits::{
    LEASE_MS_MAX, LEASE_MS_MIN, OPENS_PER_CLIENT_MAX, OPENS_PER_COMMAND_MAX, ORPHAN_GRACE_MS,
};
use bark_schema::operation::{Failure, Refusal, Reply, UnixNanos};

use super::State;
use super::codec::row_struct;
use super::inode::Body;
use super::unfinished::ROWS_CUT_MAX;
#[cfg(feature = "planted-bugs")]
use crate::planted::{Defect, is_planted};

/// What a client told last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LeaseRow {
    pub(crate) expires: UnixNanos,
    pub(crate) opens: u32,
    /// It ran out, and some of what the client had open may be released already.
    pub(crate) is_over: bool,
    /// The sequence of its last ordered command that was applied; 0: none.
    pub(crate) ordered: u64,
}
row_struct!(LeaseRow {
    expires,
    opens,
    is_over,
    ordered
});

const MILLISECOND: UnixNanos = 1_000_000;
const GRACE: UnixNanos = ORPHAN_GRACE_MS as UnixNanos * MILLISECOND;

impl State {
    pub(super) fn update_opens(
        &mut self,
        client: ClientId,
        opened: &[InodeId],
        closed: &[InodeId],
        lease_ms: u32,
    ) -> Result<Reply, Failure> {
        if opened.len() + closed.len() > OPENS_PER_COMMAND_MAX {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "too many opens in one command",
            ));
        }
        let known = self.leases.get(&client).copied();
        let told = known.map_or(0, |lease| lease.opens as usize);
        if told + opened.len() > OPENS_PER_CLIENT_MAX + OPENS_PER_COMMAND_MAX {
            return Err(Failure::Busy("too many open files of one client".to_owned()));
        }
        let mut missing = Vec::new();
        for inode in opened {
            match self.inode(*inode) {
                Ok(_) => {}
                Err(Failure::Refused(..)) => missing.push(*inode),
                // It is about to be born.
                Err(locked) => return Err(locked),
            }
        }
        let renewed = self.renew_lease(client, lease_ms);
        for inode in opened {
            if self.inodes.contains(inode) && !self.opens.contains(&(*inode, client)) {
                self.opens.insert((*inode, client), ());
                self.opens_by_client.insert((client, *inode), ());
                self.leases.update(&client, |lease| lease.opens += 1);
            }
        }
        for inode in closed {
            self.release_open(client, *inode);
        }
        Ok(Reply::Opens { missing, renewed })
    }

    /// The client lives. Says whether its lease had not run out.
    pub(super) fn renew_lease(&mut self, client: ClientId, lease_ms: u32) -> bool {
        let known = self.leases.get(&client).copied();
        let lease_ms = lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        let lease = LeaseRow {
            expires: self.time.saturating_add(UnixNanos::from(lease_ms) * MILLISECOND),
            opens: known.map_or(0, |lease| lease.opens),
            is_over: false,
            ordered: known.map_or(0, |lease| lease.ordered),
        };
        self.leases.insert(client, lease);
        known.is_some_and(|lease| !lease.is_over)
    }

    fn release_open(&mut self, client: ClientId, inode: InodeId) {
        if self.opens.remove(&(inode, client)).is_none() {
            return;
        }
        self.opens_by_client.remove(&(client, inode));
        self.leases.update(&client, |lease| lease.opens -= 1);
        let is_orphan = self.inodes.get(&inode).is_some_and(|row| row.link_count == 0);
        if is_orphan && !self.is_open(inode) {
            self.make_due(inode);
        }
    }

    pub(super) fn is_open(&self, inode: InodeId) -> bool {
        let clients = (inode, ClientId(0))..=(inode, ClientId(u64::MAX));
        self.opens.range(clients).next().is_some()
    }

    /// The inode goes after the grace time, unless somebody tells to have it open.
    pub(super) fn make_due(&mut self, inode: InodeId) {
        let due = self.time.saturating_add(GRACE);
        self.forget_due(inode);
        self.orphans.insert(inode, due);
        self.due_orphans.insert((due, inode), ());
    }

    fn forget_due(&mut self, inode: InodeId) {
        if let Some(due) = self.orphans.remove(&inode) {
            self.due_orphans.remove(&(due, inode));
        }
    }

    /// Whether `ReapOrphans` would do anything at `now`.
    pub fn has_due_orphans(&self, now: UnixNanos) -> bool {
        self.due_orphans.first().is_some_and(|((due, _), ())| *due <= now)
            || self.leases.iter().any(|(_, lease)| lease.expires <= now)
    }

    /// Releases what leases that ran out hold, then drops orphans that are due; answers how many.
    pub(super) fn reap_orphans(&mut self, limit: u32) -> Result<Reply, Failure> {
        self.end_leases(limit as usize);
        let mut reaped = 0;
        let mut rows_left = ROWS_CUT_MAX as u64;
        for _ in 0..limit {
            let Some((&(due, inode), ())) = self.due_orphans.first() else {
                break;
            };
            if due > self.time {
                break;
            }
            let is_orphan = self.inodes.get(&inode).is_some_and(|row| row.link_count == 0);
            if is_orphan && !self.keeps(inode) {
                if rows_left == 0 {
                    break;
                }
                if self.check_inode_unlocked(inode).is_err() {
                    self.make_due(inode);
                    continue;
                }
                if !self.take_rows(inode, &mut rows_left) {
                    break;
                }
                self.remove_inode(inode);
                reaped += 1;
            }
            self.forget_due(inode);
        }
        Ok(Reply::Count(reaped))
    }

    /// Whether an orphan that is due stays all the same.
    fn keeps(&self, inode: InodeId) -> bool {
        #[cfg(feature = "planted-bugs")]
        if is_planted(Defect::OpenDropped) {
            return false;
        }
        self.is_open(inode)
    }

    /// Takes extents from an orphan as far as there are any left to take; true if what it still has, attributes
    /// included, may go with it.
    fn take_rows(&mut self, inode: InodeId, rows_left: &mut u64) -> bool {
        let Some(row) = self.inodes.get(&inode) else {
            return true;
        };
        let xattrs = u64::from(row.xattr_count);
        let extents = match row.body {
            Body::Extents { count, .. } => count,
            _ => 0,
        };
        if extents > *rows_left {
            let all = (inode, 0)..=(inode, u64::MAX);
            let end = self.extents.range(all).nth(*rows_left as usize);
            if let Some((_, offset)) = end.map(|(key, _)| *key) {
                self.cut_extents(inode, 0, offset);
            }
            *rows_left = 0;
            return false;
        }
        // At least one inode goes with its attributes: there are fewer of them than an entry may take.
        *rows_left = rows_left.saturating_sub(extents + xattrs);
        true
    }

    fn end_leases(&mut self, limit: usize) {
        let over: Vec<ClientId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires <= self.time)
            .map(|(client, _)| *client)
            .take(limit)
            .collect();
        let mut left = limit;
        for client in over {
            self.leases.update(&client, |lease| lease.is_over = true);
            let held = (client, InodeId(0))..=(client, InodeId(u64::MAX));
            let held = self.opens_by_client.range(held).take(left);
            let inodes: Vec<InodeId> = held.map(|((_, inode), ())| *inode).collect();
            left -= inodes.len();
            for inode in inodes {
                self.release_open(client, inode);
            }
            // Nothing of a client comes back by halves: while delegations are left, so is the lease.
            left -= self.end_delegations(client, left);
            if left > 0 && self.leases.get(&client).is_some_and(|lease| lease.opens == 0) {
                self.leases.remove(&client);
            }
        }
    }
}
