//! What transactions are made of.

use bytes::Bytes;

use crate::ids::InodeId;
use crate::inode::{Entry, FileKind, NewInode};
use crate::operation::UnixNanos;
use crate::policy::Policy;

/// One check and change inside a transaction, at the partition that holds the object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Adds a directory entry. `expected` is the inode the name must have now: none, or the one being replaced.
    InsertEntry {
        entry: Entry,
        inode: InodeId,
        kind: FileKind,
        expected: Option<InodeId>,
        /// The quota the directory must be under, as with the steps below.
        quota: Option<InodeId>,
        /// The policy the directory must have, if it matters: what is born there was given it.
        policy: Option<Policy>,
    },
    /// Points a directory entry, which must be `expected`, at another inode of any kind: half of an exchange.
    ExchangeEntry {
        entry: Entry,
        inode: InodeId,
        kind: FileKind,
        expected: InodeId,
        quota: Option<InodeId>,
    },
    /// Removes a directory entry that must point at `inode`.
    RemoveEntry {
        entry: Entry,
        inode: InodeId,
    },
    /// Births a directory inode here, with this id (the counter moves past it).
    CreateDirectory {
        inode: InodeId,
        parent: InodeId,
        attributes: NewInode,
        /// It is under this quota.
        quota: Option<InodeId>,
        /// When, as whoever asked for it is told; the log entry's time if that is earlier.
        born: UnixNanos,
    },
    /// Removes a directory inode that must be empty.
    RemoveDirectory {
        inode: InodeId,
    },
    /// The directory, which is under `quota`, got a new parent.
    SetParent {
        inode: InodeId,
        parent: InodeId,
        quota: Option<InodeId>,
    },
    /// A non-directory got a name, lost one, or both: the directories these are in. Its link count changes by
    /// `count`, which is 1, -1 or 0; without a name it is an orphan.
    AddLinks {
        inode: InodeId,
        count: i32,
        added: Option<InodeId>,
        removed: Option<InodeId>,
        /// Which the directory in `added` is under.
        quota: Option<InodeId>,
    },
    /// At the root's partition: only one directory rename at a time in the cluster.
    HoldRenameLease,
    KeySet {
        key: Bytes,
        value: Bytes,
    },
    KeyDelete {
        key: Bytes,
    },
}
