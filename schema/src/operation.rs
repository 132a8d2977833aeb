//! What can be asked of the cluster, and what it answers.
//!
//! A [`Request`] is addressed to one partition's leader ([`Query`], [`Command`], [`Namespace`]) or to
//! any node ([`NodeRequest`]). Queries read; commands change one partition by one log entry; namespace
//! operations may touch several partitions and are coordinated by the leader of the first one.
//! Every change carries a [`RequestId`], so that repeating it is harmless.
//!
//! Invariants:
//! - A command's effect depends on the partition's state, the command and the entry's time, nothing else.
//! - A [`Failure`] says which of the three outcomes it is: see [`Failure::outcome`].

use bytes::Bytes;

use crate::access_time::Access;
use crate::audit::{AuditPage, AuditQuery};
use crate::data::{Copied, DataCommand, DataQuery, FileMap};
use crate::delegation::DelegationCommand;
pub use crate::failure::{Failure, Outcome, Refusal};
use crate::file_lock::{LockAnswer, LockCommand, LockQuery};
use crate::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId, TransactionId};
pub use crate::inode::{
    AttributeChange, Attributes, DirectoryEntry, Entry, FileKind, NewContent, NewInode, RenameMode, SetTime,
    Xattr,
};

pub use crate::node_request::NodeRequest;
use crate::quota::{Allowance, Quota, QuotaCommand, QuotaQuery};
use crate::repair::RepairCommand;
pub use crate::status::{ClusterStatus, DiskRefusal, NodeStatus, PartitionStatus};
pub use crate::step::Step;
use crate::trace::Traced;
use crate::upkeep::{BlockFiles, LedgerRow, Orphans, ScrubStatus};
use crate::usage::{Usage, UsageCommand, UsageQuery, UsageReport};

/// Names one change for the exactly-once tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    pub client: ClientId,
    pub sequence: u64,
    /// The client has its answer for every sequence below this one: their replies may be dropped.
    pub acknowledged_below: u64,
}

/// Milliseconds since the Unix epoch.
pub type UnixMillis = u64;
/// Nanoseconds since the Unix epoch; negative is before it.
pub type UnixNanos = i64;

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// To the leader of `partition`.
    Query { partition: PartitionId, query: Query },
    /// To the leader of `partition`: one log entry.
    Command {
        partition: PartitionId,
        id: RequestId,
        command: Command,
    },
    /// To the leader of the operation's first partition ([`Namespace::primary`]), which coordinates.
    Namespace { id: RequestId, operation: Namespace },
    /// To any node, or to the node that has the thing.
    Node(NodeRequest),
}

/// A read of one partition; linearizable.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    KeyGet {
        key: Bytes,
    },
    /// All keys must live in the partition asked. Atomic within it.
    KeyGetMany {
        keys: Vec<Bytes>,
    },
    KeyExists {
        keys: Vec<Bytes>,
    },
    /// Keys in byte order after `after` that start with `prefix`.
    KeyScan {
        after: Bytes,
        prefix: Bytes,
        limit: u32,
    },
    KeyCount,
    Lookup {
        directory: InodeId,
        name: Bytes,
    },
    Attributes {
        inode: InodeId,
    },
    /// Entries after a place in the directory's own order, which no other change moves; attributes are
    /// included for inodes whose home is here.
    ReadDirectory {
        directory: InodeId,
        after: ListPosition,
        limit: u32,
    },
    ReadLink {
        inode: InodeId,
    },
    /// Where the bytes `offset .. offset + length` are, or the bytes themselves when they are inline.
    Layout {
        inode: InodeId,
        offset: u64,
        length: u64,
    },
    /// Counters, applied index and state hash.
    PartitionStatus,
    /// What became of a transaction whose first partition this is. Coordinators and participants ask.
    TransactionOutcome {
        transaction: TransactionId,
    },
    /// The value of an extended attribute; `NoData` if there is none of this name.
    XattrGet {
        inode: InodeId,
        name: Bytes,
    },
    /// The names of all extended attributes, in byte order.
    XattrList {
        inode: InodeId,
    },
    /// About the bytes of files and about blocks.
    Data(DataQuery),
    /// About what directories take.
    Usage(UsageQuery),
    /// About quotas.
    Quota(QuotaQuery),
    /// Another query, asked by a client that may hold delegations: what it holds is not held back from it. Not one of
    /// these two.
    By {
        client: ClientId,
        query: Box<Query>,
    },
    /// Answered, with `Delegated`, when somebody wants directories back that this client holds here. It waits until its
    /// deadline.
    AwaitRecall {
        client: ClientId,
    },
    /// About advisory locks. Answers `Lock`.
    Lock(LockQuery),
    /// Looks at rows and compares those that must agree. Answers `Audit`.
    Audit(AuditQuery),
}

/// Where a page of a directory begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPosition {
    Start,
    /// Behind the entry of this name, whether or not it is still there.
    AfterName(Bytes),
    /// Behind the entry with this cookie, whether or not it is still there; never 0.
    AfterCookie(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never expires.
    Never,
    /// Keeps the time to live the key has.
    Keep,
    /// At a time of the wall clock.
    At(UnixMillis),
    /// That long after the entry's time.
    After(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    IfAbsent,
    IfPresent,
    IfVersion(u64),
}

/// A change of one partition by one log entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    KeySet {
        key: Bytes,
        value: Bytes,
        expiry: Expiry,
        condition: Condition,
        return_previous: bool,
    },
    KeyDelete {
        keys: Vec<Bytes>,
        condition: Condition,
    },
    KeyIncrement {
        key: Bytes,
        by: i64,
    },
    /// Drops up to `limit` keys whose time has come; proposed by leaders only.
    KeyExpireDue {
        limit: u32,
    },
    /// A new inode other than a directory, born in the directory's partition.
    /// `exclusive`: an existing entry is an error; otherwise an existing regular file is opened as it is.
    Create {
        directory: InodeId,
        name: Bytes,
        attributes: NewInode,
        content: NewContent,
        exclusive: bool,
    },
    /// Removes a non-directory. `CrossPartition` when the inode's home is elsewhere. Whoever has the file
    /// open keeps it: see [`Command::UpdateOpens`].
    Unlink {
        directory: InodeId,
        name: Bytes,
    },
    /// Renames within this partition. `CrossPartition` when anything it touches is elsewhere.
    Rename {
        from: Entry,
        to: Entry,
        mode: RenameMode,
    },
    /// One more name for a non-directory; answers `Attributes`. `CrossPartition` when its home is elsewhere.
    Link {
        inode: InodeId,
        to: Entry,
    },
    SetAttributes {
        inode: InodeId,
        change: AttributeChange,
    },
    /// Sets an extended attribute; `IfAbsent` refuses with `Exists`, `IfPresent` with `NoData`.
    /// `mode`: permission bits to set in the same moment, for access control lists. Answers `Attributes`.
    XattrSet {
        inode: InodeId,
        xattr: Xattr,
        condition: Condition,
        mode: Option<u32>,
    },
    /// Answers `Attributes`, or `NoData` if there is none of this name.
    XattrRemove {
        inode: InodeId,
        name: Bytes,
    },
    /// The client has these inodes open from now on, no longer those, and its lease here runs on for
    /// `lease_ms`. Answers `Opens`. An open needs to be told only if it lasts: an inode without a name stays
    /// for ORPHAN_GRACE_MS after its last unlink or close, and longer while anybody told to have it open.
    UpdateOpens {
        client: ClientId,
        opened: Vec<InodeId>,
        closed: Vec<InodeId>,
        lease_ms: u32,
    },
    /// Ends leases that ran out and drops up to `limit` inodes without name that nobody has open;
    /// proposed by leaders only.
    ReapOrphans {
        limit: u32,
    },
    /// Inodes that clients read: their times of access move where the rule of `access_time` says so. Answers
    /// `Done`, whatever became of the inodes.
    MoveAccessTimes {
        accesses: Vec<Access>,
    },
    /// Changes bytes of files; small writes among them.
    Data(DataCommand),
    /// Tells what directories take.
    Usage(UsageCommand),
    /// Keeps quotas.
    Quota(QuotaCommand),
    /// Gives directories to one client, and takes them back.
    Delegation(DelegationCommand),
    /// A change in what the client holds delegations of, told to be done before it was sent. It waits at the leader for
    /// company; a query or a command that is not ordered ends that wait.
    Ordered {
        /// The sequence of the ordered command before it, by the same client to this partition; 0: there is none.
        /// `Busy` while that one is not applied.
        after: u64,
        /// When it was told to be done: the times of inodes it changes, unless the entry's is earlier.
        time: UnixNanos,
        /// The number of the inode it makes, which was set aside by `ReserveInodes`.
        inode: Option<InodeId>,
        /// Somebody waits until it is applied: it ends the wait for company too.
        awaited: bool,
        /// A command of the tree and of files that touches no other partition, or one that takes an advisory lock without
        /// waiting or releases it; not itself ordered.
        command: Box<Command>,
    },
    /// Takes and releases advisory locks.
    Lock(LockCommand),
    /// Puts rows right that do not agree with others. `Conflict` if one of them changed since it was planned.
    Repair(RepairCommand),
    /// Writes into a file that stays at most INLINE_SIZE_MAX; `TooLargeForInline` otherwise.
    WriteInline {
        inode: InodeId,
        offset: u64,
        data: Bytes,
        truncate: bool,
    },
    /// Makes blocks part of a file, over what was there: extents in order, that do not overlap. The size
    /// grows to `size` if it was less. `replace_all` first drops what the file had, and sets the size.
    /// `base_version`: refuses with `Conflict` if the file's content changed since.
    Publish {
        inode: InodeId,
        extents: Vec<Extent>,
        size: u64,
        replace_all: bool,
        base_version: Option<u64>,
    },
    /// Two-phase commit, see ARCHITECTURE: holds the steps at a participant.
    Prepare {
        transaction: TransactionId,
        primary: PartitionId,
        steps: Vec<Step>,
    },
    /// At the first participant: checks and applies its own steps and records the outcome,
    /// or records that the transaction was aborted (`commit` false).
    Decide {
        transaction: TransactionId,
        commit: bool,
        steps: Vec<Step>,
        participants: Vec<PartitionId>,
        reply: Box<Reply>,
        acknowledged_below: u64,
    },
    /// At a participant: applies or drops the prepared steps.
    Finish {
        transaction: TransactionId,
        commit: bool,
    },
    /// Sets inode numbers aside for a coordinator's `Step::CreateDirectory`; answers `Count`, the first.
    /// Those it never uses stay unused.
    ReserveInodes {
        count: u32,
    },
    /// At the first participant: every participant has finished, the outcome record may go.
    Forget {
        transaction: TransactionId,
    },
}

/// What one log entry holds: a command, the leader's time for it and whose request it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Wall clock of the leader, never before the entry it follows.
    pub time: UnixNanos,
    /// None for what nodes propose by themselves: expiry and the later steps of transactions.
    pub id: Option<RequestId>,
    pub command: Command,
}

/// A change that may touch several partitions.
#[derive(Clone, Debug, PartialEq)]
pub enum Namespace {
    MakeDirectory {
        directory: InodeId,
        name: Bytes,
        attributes: NewInode,
    },
    RemoveDirectory {
        directory: InodeId,
        name: Bytes,
    },
    Unlink {
        directory: InodeId,
        name: Bytes,
    },
    Rename {
        from: Entry,
        to: Entry,
        mode: RenameMode,
    },
    /// Answers `Attributes` if all of it is in one partition, else `Done`.
    Link {
        inode: InodeId,
        to: Entry,
    },
    /// Several keys, atomically; the first partition is that of the first key.
    KeySetMany {
        partition: PartitionId,
        pairs: Vec<(PartitionId, Bytes, Bytes)>,
    },
    KeyDeleteMany {
        partition: PartitionId,
        keys: Vec<(PartitionId, Bytes)>,
    },
}

/// A run of a file's bytes inside one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    pub length: u32,
    pub block: BlockId,
    /// Where in the block.
    pub block_offset: u32,
    /// Size and CRC-32C of the whole block, computed by the client that cut it.
    pub block_size: u32,
    pub checksum: u32,
    /// The nodes that acknowledged the block.
    pub nodes: Vec<NodeNumber>,
}

/// What a successful request answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing to say but that it is done.
    Done,
    Value(Option<KeyValue>),
    Values(Vec<Option<Bytes>>),
    Count(u64),
    /// KeyIncrement's result.
    Number(i64),
    /// KeySet: whether it was set, the version now, and what was there before if asked for.
    Set {
        applied: bool,
        version: u64,
        previous: Option<Bytes>,
    },
    /// KeyScan: keys in order; `more` if the limit cut the page.
    Keys {
        keys: Vec<Bytes>,
        more: bool,
    },
    Entry {
        inode: InodeId,
        kind: FileKind,
        attributes: Option<Attributes>,
    },
    Attributes(Attributes),
    /// Create: the attributes, and whether the file was made now.
    Created {
        attributes: Attributes,
        created: bool,
    },
    Directory {
        entries: Vec<DirectoryEntry>,
        more: bool,
        parent: InodeId,
    },
    Link(Bytes),
    Layout {
        attributes: Attributes,
        content: Content,
    },
    /// Walk: the last component's attributes, its parent directory and the first bytes asked for.
    Walked {
        attributes: Attributes,
        parent: InodeId,
        content: Content,
    },
    /// BlockPut: who has it on disk.
    Stored {
        nodes: Vec<NodeNumber>,
    },
    Block(Bytes),
    Partition(PartitionStatus),
    Outcome(TransactionOutcome),
    Cluster(ClusterStatus),
    /// XattrGet: the value.
    Xattr(Bytes),
    /// XattrList: the names.
    Xattrs(Vec<Bytes>),
    /// UpdateOpens: which of `opened` are no longer there, and whether the lease had not run out. If it had
    /// (or is new), nothing told before counts any more: the client tells all it has open here again.
    Opens {
        missing: Vec<InodeId>,
        renewed: bool,
    },
    Copied(Copied),
    Blocks(Vec<BlockId>),
    Scrub(ScrubStatus),
    Orphans(Orphans),
    Ledger {
        rows: Vec<LedgerRow>,
        more: bool,
    },
    BlockFiles(BlockFiles),
    Usage(Usage),
    /// Answers of [`UsageCommand`] and [`UsageQuery`], which say what is in them.
    UsageReports {
        reports: Vec<UsageReport>,
        next: Vec<UsageReport>,
        transactions: Vec<TransactionId>,
        more: bool,
    },
    Allowance(Allowance),
    Quota(Quota),
    /// Directories a client is wanted to give back.
    Delegated(Vec<InodeId>),
    Lock(LockAnswer),
    /// Boxed, because it is larger than all others.
    Audit(Box<AuditPage>),
    Traced(Box<Traced>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub value: Bytes,
    pub version: u64,
    /// When it expires, if it does.
    pub expires: Option<UnixMillis>,
}

/// Content of part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Inline(Bytes),
    /// Extents and patches that overlap the range asked for.
    Mapped(FileMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    Committed,
    Aborted,
    /// No decision yet and the coordinator is still at it.
    Undecided,
}

impl Command {
    /// What it does, whether or not it is told before it is sent.
    pub fn inner(&self) -> &Command {
        match self {
            Command::Ordered { command, .. } => command,
            command => command,
        }
    }
}

impl Namespace {
    /// The partition whose leader coordinates and whose log records the outcome. It depends on the
    /// operation alone, so that a repeated request always meets its own record.
    pub fn primary(&self) -> PartitionId {
        match self {
            Namespace::MakeDirectory { directory, .. }
            | Namespace::RemoveDirectory { directory, .. }
            | Namespace::Unlink { directory, .. } => directory.home(),
            Namespace::Rename { from, .. } => from.directory.home(),
            Namespace::Link { to, .. } => to.directory.home(),
            Namespace::KeySetMany { partition, .. } | Namespace::KeyDeleteMany { partition, .. } => {
                *partition
            }
        }
    }
}

impl Request {
    /// A change that was told to be done before it was sent.
    pub fn is_ordered(&self) -> bool {
        matches!(
            self,
            Request::Command {
                command: Command::Ordered { .. },
                ..
            }
        )
    }

    /// The partition whose leader must get it, if it goes to one.
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Request::Query { partition, .. } | Request::Command { partition, .. } => Some(*partition),
            Request::Namespace { operation, .. } => Some(operation.primary()),
            Request::Node(NodeRequest::Traced { request }) => request.partition(),
            Request::Node(_) => None,
        }
    }
}
