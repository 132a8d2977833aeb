//! Looking at all rows of a cluster: what a partition compares by itself, and what it tells so that others can.
//!
//! A page is what the leader's rows say at one log entry: `faults` are rows of the partition that do not agree
//! with each other, which is certain; the lists are what other partitions and nodes have to agree with, which
//! may have changed meanwhile. Numbers only: no names, no content.
//!
//! Invariant: what a page tells of an inode is complete, but for the entries of a directory, which may go on in
//! the next page.

use crate::ids::{BlockId, InodeId, NodeNumber, PartitionId, TransactionId};
use crate::inode::FileKind;
use crate::operation::{UnixMillis, UnixNanos};
use crate::repair::{RepairCommand, RepairStep};
use crate::usage::UsageReport;

/// Which rows of a partition a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditPart {
    /// Inodes in order, each with its entries, names, extents and extended attributes.
    Files,
    /// What is recorded of blocks.
    Blocks,
    /// What directories told of their sizes, and what was told to them.
    Usages,
    /// Everything that is a sum of rows. One page.
    Counters,
    /// Sessions, opens, leases and inodes without a name. One page.
    Clients,
    /// Transactions under way and what they hold. One page.
    Locks,
}

/// Where a page begins; what the numbers mean depends on the part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditPosition {
    pub high: u64,
    pub low: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditQuery {
    /// About `limit` rows, more only to come to the end of one inode.
    Page {
        part: AuditPart,
        from: AuditPosition,
        limit: u32,
    },
    /// The entries of a directory that lead to an inode.
    Entries { directory: InodeId, inode: InodeId },
    /// The names an inode counts; `rows` is 0 if it does not exist.
    Names { inode: InodeId },
    /// Which rows a repair would change: `repair` of the page. Refused with `Conflict` if there is nothing to repair.
    Plan(RepairStep),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Index of the log entry the rows are at.
    pub applied: u64,
    /// The leader's wall clock.
    pub now_ms: UnixMillis,
    /// Rows looked at.
    pub rows: u64,
    /// Where the next page begins.
    pub next: Option<AuditPosition>,
    /// There are too many rows for one page, and nothing was looked at.
    pub too_many: bool,
    pub faults: Vec<AuditFault>,
    /// Names as directories have them.
    pub entries: Vec<AuditName>,
    /// Names as inodes have them.
    pub names: Vec<AuditName>,
    pub blocks: Vec<AuditBlock>,
    /// What was told to other directories and is known to have been taken.
    pub told: Vec<UsageReport>,
    /// What directories here were told.
    pub taken: Vec<UsageReport>,
    pub transactions: Vec<AuditTransaction>,
    /// What was planned; without rows: nothing can be done. `names` are those it counts on being there.
    pub repair: RepairCommand,
}

/// An inode has `count` names in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditName {
    pub inode: InodeId,
    pub directory: InodeId,
    pub kind: FileKind,
    pub count: u32,
    /// Of an entry; 0 if it is the inode that says so.
    pub cookie: u64,
}

/// A block as it is recorded, or as a node has it; then `nodes` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditBlock {
    pub block: BlockId,
    pub size: u32,
    pub checksum: u32,
    pub nodes: Vec<NodeNumber>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditTransaction {
    pub transaction: TransactionId,
    pub primary: PartitionId,
    pub since: UnixNanos,
}

/// Two things of one partition that do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditFault {
    pub check: AuditCheck,
    /// Or the client it is about; 0: the partition.
    pub inode: InodeId,
    pub offset: u64,
    pub block: Option<BlockId>,
    pub kept: u64,
    pub found: u64,
}

/// What did not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditCheck {
    /// A directory's count of entries.
    EntryCount,
    /// A directory's link count, which is 2 and one for each directory in it.
    DirectoryLinks,
    /// Entries of an inode that is no directory here.
    EntriesOfNothing,
    /// Entries of a directory that was removed.
    EntriesOfGone,
    /// The names an inode with several of them knows, against its link count.
    NameCount,
    /// The directory an inode counts in has none of its names.
    CountedName,
    /// An inode without a name is neither due nor open.
    OrphanStays,
    /// An inode's number was never given.
    InodeNumber,
    XattrCount,
    XattrsOfNothing,
    /// Inline bytes exceed the file's size or what an inode may hold.
    ContentLength,
    ExtentOverlap,
    ExtentBeyondEnd,
    ExtentOfNothing,
    ExtentCount,
    ExtentBytes,
    /// An extent points into a block that is not recorded, or beyond its end.
    ExtentBlock,
    BlockReferences,
    /// A block is in use and in the ledger of those nobody needs.
    BlockInLedger,
    /// A block is larger than blocks may be.
    BlockSize,
    AllocatedBytes,
    BlockBytes,
    GarbageBytes,
    PatchBytes,
    FileBytes,
    OrphanCount,
    /// What a directory takes by itself.
    UsageOwn,
    /// What a directory was told others take, against the sum of it.
    UsageBelow,
    /// What is used here of a quota.
    QuotaUsed,
    /// Opens by inode against opens by client.
    OpenIndex,
    /// A lease's count of opens.
    OpenCount,
    /// Inodes without a name, against when they are due.
    OrphanDue,
    /// A session's count of replies.
    SessionReplies,
    /// Locks against what prepared transactions hold.
    LockHolder,
    /// A delegation is listed by directory and not by client, or its client has no lease, or it is of no directory.
    Delegation,
    /// Advisory locks that are against each other, of nothing or of nobody, or counted wrong.
    FileLock,
}
