//! How long a client's locks last, and how it learns that they are lost.
//!
//! A client that holds locks in a partition, or waits for some, renews a lease there. When it runs out, the leader
//! proposes `EndLeases`: the locks go, others are granted, and from then on the client is fenced: changes it asks for
//! here are refused, whatever they are, since any of them may rest on a lock it believes to hold. It learns that
//! from the refusal, or from the next renewal, drops what it had not published under these locks, and says
//! `Rejoin`. Requests of a client are numbered in the order it makes them, so those with a number below
//! that of `Rejoin` were made before it knew, and stay refused for ever; those above are carried out. The number is
//! the fencing token: it is in every change already, and no change needs a field for it.
//!
//! The price: until it rejoins, a client that lost one lock can change nothing in that partition.
//!
//! Invariants:
//! - A client with locks or waits has a lease, and is not fenced without end.
//! - A fence only ever moves up, until it is forgotten LOCK_FENCE_MS after it was set.

use bark_schema::ids::ClientId;
use bark_schema::limits::{LEASE_MS_MAX, LEASE_MS_MIN, LOCK_FENCE_MS};
use bark_schema::operation::{Command, Failure, Refusal, Reply, UnixNanos};

use super::State;
use super::codec::row_struct;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LockLeaseRow {
    pub(crate) expires: UnixNanos,
    /// Locks and waits.
    pub(crate) locks: u32,
}
row_struct!(LockLeaseRow { expires, locks });

/// Requests of a client with sequences below are refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FenceRow {
    pub(crate) below: u64,
    pub(crate) since: UnixNanos,
}
row_struct!(FenceRow { below, since });

/// Until the client rejoins.
const ALL: u64 = u64::MAX;
const MILLISECOND: UnixNanos = 1_000_000;
const FENCE_LIFE: UnixNanos = LOCK_FENCE_MS as UnixNanos * MILLISECOND;

impl State {
    /// Whether a change of this client may be carried out.
    pub(super) fn check_fence(&self, client: ClientId, sequence: u64) -> Result<(), Failure> {
        match self.lock_fences.get(&client) {
            Some(fence) if sequence < fence.below => Err(fenced()),
            _ => Ok(()),
        }
    }

    /// Whether the client lost its locks here and has not said that it knows.
    pub fn is_fenced(&self, client: ClientId) -> bool {
        self.lock_fences
            .get(&client)
            .is_some_and(|fence| fence.below == ALL)
    }

    /// Whether `EndLeases` would do anything at `now`.
    pub fn has_due_lock_leases(&self, now: UnixNanos) -> bool {
        self.lock_leases.iter().any(|(_, lease)| lease.expires <= now)
    }

    pub(super) fn is_lock_lease_running(&self, client: ClientId) -> bool {
        let lease = self.lock_leases.get(&client);
        lease.is_some_and(|lease| lease.expires > self.time)
    }

    pub(super) fn extend_lock_lease(&mut self, client: ClientId, lease_ms: u32) {
        let lease_ms = lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        let until = self.time.saturating_add(UnixNanos::from(lease_ms) * MILLISECOND);
        let was_running = self.is_lock_lease_running(client);
        let known = self.lock_leases.update(&client, |lease| {
            lease.expires = lease.expires.max(until);
        });
        if !known {
            let row = LockLeaseRow {
                expires: until,
                locks: 0,
            };
            self.lock_leases.insert(client, row);
        } else if !was_running {
            // It may have missed its turn.
            self.grant_waits_of(client);
        }
    }

    pub(super) fn renew_lock_lease(&mut self, client: ClientId, lease_ms: u32) -> Result<Reply, Failure> {
        if !self.lock_leases.contains(&client) {
            return Err(fenced());
        }
        self.extend_lock_lease(client, lease_ms);
        Ok(Reply::Done)
    }

    /// What the client had here is over, and it knows; `sequence` is that of the request which says so.
    pub(super) fn rejoin(&mut self, client: ClientId, sequence: u64) -> Result<Reply, Failure> {
        self.drop_locks_of_client(client);
        self.lock_leases.remove(&client);
        let since = self.time;
        let fence = self.lock_fences.get(&client).filter(|fence| fence.below != ALL);
        let below = fence.map_or(sequence, |fence| fence.below.max(sequence));
        self.lock_fences.insert(client, FenceRow { below, since });
        Ok(Reply::Done)
    }

    /// Ends leases that ran out, and forgets fences nobody can meet any more.
    pub(super) fn end_lock_leases(&mut self, limit: u32) -> Reply {
        let leases = self.lock_leases.iter();
        let over = leases.filter(|(_, lease)| lease.expires <= self.time);
        let over: Vec<ClientId> = over.map(|(client, _)| *client).take(limit as usize).collect();
        for client in &over {
            let had = self.lock_leases.get(client).map_or(0, |lease| lease.locks);
            self.drop_locks_of_client(*client);
            self.lock_leases.remove(client);
            if had > 0 {
                let row = FenceRow {
                    below: ALL,
                    since: self.time,
                };
                self.lock_fences.insert(*client, row);
            }
        }
        let fences = self.lock_fences.iter();
        let old = fences.filter(|(_, fence)| fence.since.saturating_add(FENCE_LIFE) <= self.time);
        let old: Vec<ClientId> = old.map(|(client, _)| *client).take(limit as usize).collect();
        for client in old {
            self.lock_fences.remove(&client);
        }
        Reply::Count(over.len() as u64)
    }
}

/// Whether a fenced client may ask for this: it rests on no lock. Ordered changes rest on a delegation: while it lasts nobody
/// else has looked at what they change since it was granted, whoever has a lock on it. But locks themselves are lost.
pub(super) fn passes_fence(command: &Command) -> bool {
    matches!(
        command,
        Command::UpdateOpens { .. } | Command::MoveAccessTimes { .. } | Command::Delegation(_)
    ) || matches!(command, Command::Ordered { command, .. } if !matches!(**command, Command::Lock(_)))
}

pub(super) fn fenced() -> Failure {
    Failure::refused(
        Refusal::Fenced,
        "the lease of the client's locks ran out; what rests on them is not done",
    )
}
