//! What any node, or a named one, answers by itself.

use bytes::Bytes;

use crate::ids::{BlockId, InodeId, NodeNumber};
use crate::operation::Request;
use crate::quota::QuotaLimits;

/// A request that any node, or a named one, answers by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeRequest {
    /// Walks a path from `start`, following links (the last one only if asked), and reads up to
    /// `first_bytes` of the file found: walk, open and first read in one round trip.
    Walk {
        start: InodeId,
        path: Bytes,
        follow_last: bool,
        first_bytes: u32,
    },
    /// Stores a block on `replicas` through this node; with `local_only` here, as the copy of one of them. Answers when a
    /// majority has it on disk.
    BlockPut {
        block: BlockId,
        data: Bytes,
        checksum: u32,
        replicas: Vec<NodeNumber>,
        local_only: bool,
    },
    /// Reads part of a block this node has.
    BlockGet {
        block: BlockId,
        offset: u32,
        length: u32,
    },
    /// Drops blocks from this node's disk. Between nodes only.
    BlockDelete {
        blocks: Vec<BlockId>,
    },
    /// The blocks this node has behind `after`, in order; none at the end. Between nodes only.
    BlockList {
        after: Option<BlockId>,
        limit: u32,
    },
    /// Reads all of a block this node has; `Corrupt` unless its checksum is this one, or the one it was stored with.
    /// Answers `Count`, its size. Between nodes only.
    BlockVerify {
        block: BlockId,
        checksum: Option<u32>,
    },
    /// How the node's reading of all its copies goes; with `start` it begins anew. Answers `Scrub`.
    Scrub {
        start: bool,
    },
    /// Blocks of this node that no record knows; with `give_up` those that are old enough are put in the ledger.
    /// Answers `Orphans`.
    Orphans {
        give_up: bool,
    },
    /// Which of these this node has no good copy of, as far as it knows. Answers `Blocks`. Between nodes only.
    BlocksMissing {
        blocks: Vec<BlockId>,
    },
    /// Copies a block to this node from one of `from`, unless it has a good copy. Between nodes only.
    BlockFetch {
        block: BlockId,
        size: u32,
        checksum: u32,
        from: Vec<NodeNumber>,
    },
    /// The same, with sizes and checksums, for those who compare them with what is recorded. Answers `Audit`.
    BlockAudit {
        after: Option<BlockId>,
        limit: u32,
    },
    /// Another request, to be told where its time went; goes where that one goes. Answers `Traced`. Not one of these.
    Traced {
        request: Box<Request>,
    },
    /// Wins back the space of dropped blocks, of one segment at most. Between nodes only.
    BlockCompact,
    ClusterStatus,
    /// What a directory and everything below it take, exactly, without a walk. Answers `Usage`.
    DirectoryUsage {
        directory: InodeId,
    },
    /// Limits what a directory and everything below it may take; without any limit the quota goes. It is in
    /// force when this is answered, and what is there already stays. May be repeated.
    SetQuota {
        directory: InodeId,
        limits: QuotaLimits,
    },
    /// The quota a directory is under. Answers `Quota`.
    GetQuota {
        directory: InodeId,
    },
    /// Whether this node shall lead nothing, until it is told otherwise or starts again. Answers `Done` at once.
    Drain {
        drain: bool,
    },
    /// The disk that node came with, or comes with next, is its new one. Answers `Done` when this node will not forget.
    Admit {
        node: NodeNumber,
    },
}
