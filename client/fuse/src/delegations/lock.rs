//! Advisory locks of files in directories this mount has for itself: given and released here, and sent like other changes.
//!
//! Nobody else gets a lock there before the directory was recalled, and it is not given to a client while others have
//! locks in it. Of a file that came in later that is not known, so the cluster is asked about it.

use std::sync::Arc;

use bark_schema::file_lock::{FileLock, LockCommand, LockOwner, LockRange};
use bark_schema::ids::InodeId;
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;
use bark_schema::operation::{Attributes, Command};

use super::line::{Change, Haste, Ticket};
use super::read::is_decided_here;
use super::{Delegations, Name, Table, now};
use crate::lock_ranges::LockedRange;
use crate::lock_table::Here;

/// What a lock takes on its way.
const LOCK_SIZE: usize = 256;

/// What is decided here of a lock.
pub(crate) enum LockDecided {
    /// It is given, or could be. The file as it is.
    Granted(Box<Attributes>),
    /// This one is in the way.
    Held(FileLock),
    /// The cluster must be asked.
    Unknown,
}

impl Delegations {
    pub(crate) async fn take_lock(self: &Arc<Self>, lock: &FileLock, handle: u64) -> LockDecided {
        let (decided, ticket) = self.decide_lock(lock, handle);
        self.wait_for(ticket).await;
        decided
    }

    /// Whether it was released here.
    pub(crate) async fn release_lock(
        self: &Arc<Self>,
        inode: InodeId,
        owner: LockOwner,
        range: LockRange,
    ) -> bool {
        let Some(ticket) = self.decide_release(inode, owner, range) else {
            return false;
        };
        self.wait_for(ticket).await;
        true
    }

    /// What is in the way of a lock.
    pub(crate) async fn conflicting_lock(&self, lock: &FileLock) -> LockDecided {
        let mut table = self.lock();
        let Some(attributes) = table.lockable(lock.inode) else {
            return LockDecided::Unknown;
        };
        let here = self
            .locks
            .conflict_here(lock.inode, (lock.owner.kind, lock.owner.number), locked(lock));
        decided(lock, here, attributes)
    }

    fn decide_lock(&self, lock: &FileLock, handle: u64) -> (LockDecided, Option<Ticket>) {
        let mut table = self.lock();
        let Some(attributes) = table.lockable(lock.inode) else {
            return (LockDecided::Unknown, None);
        };
        let holder = (lock.owner.kind, lock.owner.number);
        let here = self.locks.take_here(lock.inode, holder, handle, locked(lock));
        let ticket = match here {
            Here::Granted => {
                let command = LockCommand::Take {
                    lock: *lock,
                    wait: 0,
                    lease_ms: LOCK_LEASE_MS_DEFAULT,
                };
                self.send_lock(&mut table, lock.inode, command)
            }
            Here::Held(_) | Here::Unknown => None,
        };
        (decided(lock, here, attributes), ticket)
    }

    fn decide_release(&self, inode: InodeId, owner: LockOwner, range: LockRange) -> Option<Option<Ticket>> {
        let mut table = self.lock();
        table.lockable(inode)?;
        if !self.locks.release_here(inode, (owner.kind, owner.number), range) {
            return None;
        }
        let command = LockCommand::Release { inode, owner, range };
        Some(self.send_lock(&mut table, inode, command))
    }

    fn send_lock(&self, table: &mut Table, inode: InodeId, command: LockCommand) -> Option<Ticket> {
        let change = Change {
            partition: inode.home(),
            time: now(),
            number: None,
            command: Command::Lock(command),
            haste: Haste::Relaxed,
            member: Some(inode),
            directories: Vec::new(),
        };
        self.send(table, change, LOCK_SIZE)
    }
}

impl Table {
    /// The file, if nobody else can have locks on it and there is room for one more change.
    fn lockable(&mut self, inode: InodeId) -> Option<Attributes> {
        let member = self.files.get(&inode)?;
        let (directory, is_unlocked_elsewhere) = (member.directory, member.is_unlocked_elsewhere);
        let attributes = member.attributes.clone()?;
        self.ready(directory)?;
        let has_room = self.lines.get(&inode.home())?.has_room();
        (is_unlocked_elsewhere && has_room && is_decided_here(&attributes)).then_some(attributes)
    }

    /// Nobody but this mount has locks on what a name leads to.
    pub(super) fn note_unlocked_elsewhere(&mut self, known: Name) {
        if let Name::Member(inode) = known
            && let Some(member) = self.files.get_mut(&inode)
        {
            member.is_unlocked_elsewhere = true;
        }
    }
}

fn locked(lock: &FileLock) -> LockedRange {
    LockedRange {
        range: lock.range,
        mode: lock.mode,
        process: lock.process,
    }
}

fn decided(lock: &FileLock, here: Here, attributes: Attributes) -> LockDecided {
    match here {
        Here::Granted => LockDecided::Granted(Box::new(attributes)),
        Here::Held(other) => LockDecided::Held(FileLock {
            range: other.range,
            mode: other.mode,
            process: other.process,
            ..*lock
        }),
        Here::Unknown => LockDecided::Unknown,
    }
}
