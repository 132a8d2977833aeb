//! What prepared transactions hold, and how everybody else finds out.
//!
//! A lock belongs to a transaction from its `Prepare` to its `Finish`. Nobody waits in here: who meets a
//! foreign lock is refused with the name of the holder and of the partition that knows its outcome.
//!
//! Invariants:
//! - Every lock belongs to a prepared transaction, and every step of a prepared transaction has its lock.
//! - A directory inode whose removal is prepared gains no entries, and one with entries prepared inside
//!   is not removed.

use std::ops::Bound;

use bark_schema::ids::{InodeId, TransactionId};
use bark_schema::operation::{Failure, Step};

use super::codec::{Reader, Row, Sink};
use super::{Error, State};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockKey {
    Entry(InodeId, Box<[u8]>),
    Inode(InodeId),
    Key(Box<[u8]>),
    RenameLease,
}

impl LockKey {
    pub(crate) fn entry(directory: InodeId, name: &[u8]) -> LockKey {
        LockKey::Entry(directory, name.into())
    }

    pub(crate) fn key(key: &[u8]) -> LockKey {
        LockKey::Key(key.into())
    }

    /// The one thing a step changes.
    pub(crate) fn of_step(step: &Step) -> LockKey {
        match step {
            Step::InsertEntry { entry, .. }
            | Step::RemoveEntry { entry, .. }
            | Step::ExchangeEntry { entry, .. } => LockKey::entry(entry.directory, &entry.name),
            Step::CreateDirectory { inode, .. }
            | Step::RemoveDirectory { inode }
            | Step::SetParent { inode, .. }
            | Step::AddLinks { inode, .. } => LockKey::Inode(*inode),
            Step::HoldRenameLease => LockKey::RenameLease,
            Step::KeySet { key, .. } | Step::KeyDelete { key } => LockKey::key(key),
        }
    }
}

impl State {
    /// Nobody but `holder` holds `key`.
    pub(super) fn check_held_by(&self, key: &LockKey, holder: Option<TransactionId>) -> Result<(), Failure> {
        match self.locks.get(key) {
            Some(other) if Some(*other) != holder => Err(self.locked(*other)),
            _ => Ok(()),
        }
    }

    pub(super) fn check_unlocked(&self, key: &LockKey) -> Result<(), Failure> {
        if self.locks.len() == 0 {
            Ok(())
        } else {
            self.check_held_by(key, None)
        }
    }

    pub(super) fn check_entry_unlocked(&self, directory: InodeId, name: &[u8]) -> Result<(), Failure> {
        if self.locks.len() == 0 {
            return Ok(());
        }
        self.check_held_by(&LockKey::Inode(directory), None)?;
        self.check_held_by(&LockKey::entry(directory, name), None)
    }

    pub(super) fn check_inode_unlocked(&self, inode: InodeId) -> Result<(), Failure> {
        self.check_unlocked(&LockKey::Inode(inode))
    }

    /// No entry inside `directory` is held by anybody but `holder`.
    pub(super) fn check_entries_held_by(
        &self,
        directory: InodeId,
        holder: Option<TransactionId>,
    ) -> Result<(), Failure> {
        let first = LockKey::entry(directory, &[]);
        let inside = self.locks.range((Bound::Included(&first), Bound::Unbounded));
        let mut inside =
            inside.take_while(|(key, _)| matches!(key, LockKey::Entry(of, _) if *of == directory));
        match inside.find(|(_, other)| Some(**other) != holder) {
            Some((_, other)) => Err(self.locked(*other)),
            None => Ok(()),
        }
    }

    pub(super) fn locked(&self, transaction: TransactionId) -> Failure {
        let primary = self
            .prepared
            .get(&transaction)
            .map_or(self.partition, |prepared| prepared.primary);
        Failure::Locked { transaction, primary }
    }
}

impl Row for LockKey {
    fn encode<S: Sink>(&self, sink: &mut S) {
        match self {
            LockKey::Entry(directory, name) => {
                0u8.encode(sink);
                directory.encode(sink);
                name.encode(sink);
            }
            LockKey::Inode(inode) => {
                1u8.encode(sink);
                inode.encode(sink);
            }
            LockKey::Key(key) => {
                2u8.encode(sink);
                key.encode(sink);
            }
            LockKey::RenameLease => 3u8.encode(sink),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(LockKey::Entry(Row::decode(reader)?, Row::decode(reader)?)),
            1 => Ok(LockKey::Inode(Row::decode(reader)?)),
            2 => Ok(LockKey::Key(Row::decode(reader)?)),
            3 => Ok(LockKey::RenameLease),
            _ => Err(Error::Corrupt("a lock of unknown kind")),
        }
    }
}
