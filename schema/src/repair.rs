//! Putting right what an audit found, a log entry at a time, so that it can be put back.
//!
//! A leader plans a step: which rows change, with their bytes before and after. Whoever repairs keeps that in a
//! journal and sends the same rows as a command. It changes nothing unless every row is still what it was before, so
//! what was found and is no longer so harms nothing; and the same rows the other way round take the step back.
//!
//! Rows are in the format of snapshots, whose version goes with them.

use bytes::Bytes;

use crate::audit::AuditFault;
use crate::ids::InodeId;
use crate::inode::FileKind;

/// A table of a partition that a repair may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepairTable {
    /// Inodes. Of one that exists only what others have to agree with is compared and changed: link count, size,
    /// directory, and counts of entries, extents and attributes.
    Inodes,
    /// Entries of directories. The directory's counts change with them.
    Entries,
    /// Where an inode with several names has them.
    Names,
    Extents,
    Attributes,
    Blocks,
    /// Blocks to drop.
    Ledger,
    Sessions,
    /// What directories take. Versions are not compared; a row that was changed is told again.
    Usages,
    /// What directories were told. The sum in the directory's row changes with them.
    Contributions,
    Allowances,
    Opens,
    OpensByClient,
    Leases,
    Orphans,
    DueOrphans,
    TransactionLocks,
    Delegations,
    DelegationsByClient,
    LockFiles,
    LockLeases,
    /// Of the partition: key 0 is the next inode number, key 1 the bytes of files.
    Counters,
}

/// One row, as it was and as it is to be; none: it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowEdit {
    pub table: RepairTable,
    pub key: Bytes,
    pub before: Option<Bytes>,
    pub after: Option<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairCommand {
    /// Of the rows' bytes. Another one than the partition's is refused.
    pub format: u16,
    /// All or none.
    pub edits: Vec<RowEdit>,
    /// Sums that are not part of the replicated state are made anew.
    pub recount: bool,
}

/// What is to be put right, by a partition that looks whether it is wrong and says which rows change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairStep {
    /// What a page called a fault. What has no name and is kept gets one in `quarantine`.
    Fault { fault: AuditFault, quarantine: InodeId },
    /// Takes an entry out of its directory.
    DropEntry {
        directory: InodeId,
        cookie: u64,
        inode: InodeId,
    },
    /// An entry says what its inode is.
    EntryKind {
        directory: InodeId,
        cookie: u64,
        inode: InodeId,
        kind: FileKind,
    },
    /// Gives an inode an entry in a directory, named after its number.
    NumberEntry {
        directory: InodeId,
        inode: InodeId,
        kind: FileKind,
    },
    /// An inode counts so many names in a directory; of one that is a directory itself, that is its parent.
    Names {
        inode: InodeId,
        directory: InodeId,
        count: u32,
    },
    /// What a directory takes, or what files here take in one that is elsewhere, is told again.
    Tell { directory: InodeId },
    /// What a contributor told a directory is nothing until it tells again; unless it `stays`, it is forgotten.
    Contribution {
        directory: InodeId,
        contributor: InodeId,
        stays: bool,
    },
}

impl RowEdit {
    /// What takes it back.
    pub fn reversed(self) -> RowEdit {
        RowEdit {
            before: self.after,
            after: self.before,
            ..self
        }
    }
}

impl RepairCommand {
    /// What takes it back. Sums that were made anew stay so.
    pub fn reversed(self) -> RepairCommand {
        RepairCommand {
            edits: self.edits.into_iter().rev().map(RowEdit::reversed).collect(),
            recount: false,
            ..self
        }
    }
}

impl RepairTable {
    pub const ALL: [RepairTable; 22] = [
        RepairTable::Inodes,
        RepairTable::Entries,
        RepairTable::Names,
        RepairTable::Extents,
        RepairTable::Attributes,
        RepairTable::Blocks,
        RepairTable::Ledger,
        RepairTable::Sessions,
        RepairTable::Usages,
        RepairTable::Contributions,
        RepairTable::Allowances,
        RepairTable::Opens,
        RepairTable::OpensByClient,
        RepairTable::Leases,
        RepairTable::Orphans,
        RepairTable::DueOrphans,
        RepairTable::TransactionLocks,
        RepairTable::Delegations,
        RepairTable::DelegationsByClient,
        RepairTable::LockFiles,
        RepairTable::LockLeases,
        RepairTable::Counters,
    ];

    /// How journals call it.
    pub fn name(self) -> &'static str {
        match self {
            RepairTable::Inodes => "inodes",
            RepairTable::Entries => "entries",
            RepairTable::Names => "names",
            RepairTable::Extents => "extents",
            RepairTable::Attributes => "attributes",
            RepairTable::Blocks => "blocks",
            RepairTable::Ledger => "ledger",
            RepairTable::Sessions => "sessions",
            RepairTable::Usages => "usages",
            RepairTable::Contributions => "contributions",
            RepairTable::Allowances => "allowances",
            RepairTable::Opens => "opens",
            RepairTable::OpensByClient => "opens-by-client",
            RepairTable::Leases => "leases",
            RepairTable::Orphans => "orphans",
            RepairTable::DueOrphans => "due-orphans",
            RepairTable::TransactionLocks => "transaction-locks",
            RepairTable::Delegations => "delegations",
            RepairTable::DelegationsByClient => "delegations-by-client",
            RepairTable::LockFiles => "lock-files",
            RepairTable::LockLeases => "lock-leases",
            RepairTable::Counters => "counters",
        }
    }
}
