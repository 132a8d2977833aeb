//! What operators ask of the blocks on nodes: whether copies are good, and what is to be dropped.

use crate::ids::{BlockId, InodeId, NodeNumber};
use crate::operation::UnixNanos;

/// How far a node is with reading all its copies of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    pub node: NodeNumber,
    /// Counts the cycles since the node started; 0: none yet.
    pub cycle: u64,
    pub running: bool,
    pub checked_blocks: u64,
    pub checked_bytes: u64,
    /// What the blocks of the node take.
    pub total_bytes: u64,
    pub bad_count: u64,
    /// The first of them.
    pub bad: Vec<BadCopy>,
}

/// A copy that was found bad, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCopy {
    pub block: BlockId,
    /// The segment file of the block store.
    pub segment: u32,
    pub offset: u64,
    /// A file that has the block, if that is known.
    pub inode: Option<InodeId>,
    pub health: CopyHealth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyHealth {
    /// Bad; to be made anew.
    Waiting,
    Healed,
    /// Bad, and no file has the block.
    Unneeded,
}

/// Blocks a node has and no record knows: written and not published, or not yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    pub node: NodeNumber,
    pub count: u64,
    pub bytes: u64,
    /// Of these, put in the ledger now.
    pub given_up: u64,
    /// The first of them.
    pub orphans: Vec<Orphan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub block: BlockId,
    pub size: u32,
    /// Since the node noticed.
    pub age_ms: u64,
    /// Nobody can be at it any more: it may be given up.
    pub is_old: bool,
}

/// A block nobody needs that is not dropped yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    pub block: BlockId,
    pub size: u32,
    pub since: UnixNanos,
    /// Nobody ever published it.
    pub condemned: bool,
    pub nodes: Vec<NodeNumber>,
}

/// Which files have blocks, as far as was looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockFiles {
    pub found: Vec<(BlockId, InodeId)>,
    /// Where to look on.
    pub next: Option<(InodeId, u64)>,
}
