//! Advisory locks of files: what flock and fcntl take, across clients.
//!
//! How they are kept is told in `node/core/src/state/file_lock.rs`; here is what travels. A lock belongs to an
//! owner, who is somebody inside a client, and is kept as long as the lease of that client lasts.
//!
//! Invariant: commands may be repeated; each says everything that its effect depends on.

use crate::ids::{ClientId, InodeId};
use crate::operation::Attributes;

/// Locks of different kinds do not see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKind {
    /// Of a whole file, by an open file.
    Flock,
    /// Of bytes, by a process: what fcntl sets.
    Range,
}

/// Who holds or wants locks. What the number means is for the client to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner {
    pub client: ClientId,
    pub kind: LockKind,
    pub number: u64,
}

/// The bytes `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockRange {
    pub first: u64,
    pub last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    Shared,
    Exclusive,
}

/// A lock that somebody holds or wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLock {
    pub inode: InodeId,
    pub owner: LockOwner,
    pub range: LockRange,
    pub mode: LockMode,
    /// For those who ask who is in their way.
    pub process: u32,
}

/// A change of locks, by one log entry. The client named must be the one whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockCommand {
    /// Takes the lock instead of what its owner holds of these bytes, and renews the lease. Answers
    /// `Granted`; or, if others are in its way, `Held` or, with a number to wait under that is not 0, `Waiting`. A
    /// flock that is held in the other mode is released first, as flock does, whatever the answer.
    Take {
        lock: FileLock,
        wait: u64,
        lease_ms: u32,
    },
    /// What the owner holds of these bytes. Answers `Done`.
    Release {
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    },
    /// Nobody waits for this any more. Answers `Done`; or `Granted` if it waits no longer because it was granted.
    Cancel {
        inode: InodeId,
        client: ClientId,
        wait: u64,
    },
    /// The client still lives. Refused with `Fenced` if what it held here is lost.
    Renew { client: ClientId, lease_ms: u32 },
    /// The client knows that its locks here are lost. What it asks for from now on is carried out again.
    Rejoin { client: ClientId },
    /// Ends leases that ran out, up to so many; proposed by leaders only.
    EndLeases { limit: u32 },
}

/// A question to the partition of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockQuery {
    /// Who is in the way of this lock? Answers `Held` or `Free`.
    Conflict { lock: FileLock },
    /// What became of a wait. Answers `Granted`, or `Waiting` after a while.
    Waited {
        inode: InodeId,
        client: ClientId,
        wait: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum LockAnswer {
    /// The file, when it was granted or later: what others wrote before is in it.
    Granted(Box<Attributes>),
    Waiting,
    /// This one of another owner is in the way.
    Held(FileLock),
    Free,
}

impl LockRange {
    /// Of a whole file.
    pub const ALL: LockRange = LockRange {
        first: 0,
        last: u64::MAX,
    };

    pub fn overlaps(self, other: LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl LockCommand {
    /// The client it is about; None: about any.
    pub fn client(&self) -> Option<ClientId> {
        match self {
            LockCommand::Take { lock, .. } => Some(lock.owner.client),
            LockCommand::Release { owner, .. } => Some(owner.client),
            LockCommand::Cancel { client, .. }
            | LockCommand::Renew { client, .. }
            | LockCommand::Rejoin { client } => Some(*client),
            LockCommand::EndLeases { .. } => None,
        }
    }
}

impl FileLock {
    /// Whether both may not be held at once.
    pub fn conflicts(&self, other: &FileLock) -> bool {
        self.owner != other.owner
            && self.owner.kind == other.owner.kind
            && (self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive)
            && self.range.overlaps(other.range)
    }
}
