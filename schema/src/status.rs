//! What partitions and nodes tell of themselves.

use crate::ids::{NodeNumber, PartitionId};
use crate::placement::NodeUse;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub partition: PartitionId,
    pub leader: Option<NodeNumber>,
    pub term: u64,
    pub applied: u64,
    /// Of the whole state at `applied`; equal on every replica.
    pub state_hash: u64,
    pub keys: u64,
    /// Inodes with a name, and the sizes of the regular files among them.
    pub inodes: u64,
    pub file_bytes: u64,
    /// What these inodes store: content, link targets and extended attributes.
    pub allocated_bytes: u64,
    /// Inodes without a name that are still open somewhere, or were a moment ago.
    pub orphans: u64,
    /// Lengths of the log kept for followers and of the last snapshot, for operators.
    pub log_entries: u64,
    pub snapshot_index: u64,
    /// Of blocks in use, and of those nobody needs that are not dropped yet; one copy of each.
    pub block_bytes: u64,
    pub garbage_bytes: u64,
    /// Written through the log and not in blocks yet.
    pub patch_bytes: u64,
}

/// What one node knows of the cluster. `partitions` are those with a replica on the answering node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    pub cluster: String,
    pub node: NodeNumber,
    pub nodes: Vec<NodeStatus>,
    pub partitions: Vec<PartitionStatus>,
    pub durability: String,
    pub replicas: u32,
    pub partition_count: u32,
    pub disk_total_bytes: u64,
    pub disk_free_bytes: u64,
    /// Of the blocks the answering node stores.
    pub block_bytes: u64,
}

impl ClusterStatus {
    /// What the answering node has room for.
    pub fn node_use(&self) -> NodeUse {
        NodeUse {
            total_bytes: self.disk_total_bytes,
            free_bytes: self.disk_free_bytes,
            block_bytes: self.block_bytes,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    pub number: NodeNumber,
    pub id: String,
    pub capnp: String,
    pub resp: String,
    pub http: String,
    pub zone: String,
    /// The answering node has a working connection to it.
    pub reachable: bool,
    /// It shall lead nothing.
    pub draining: bool,
    /// It leads nothing, because its disk takes too long.
    pub disk_slow: bool,
    /// Why the answering node refuses it.
    pub refusal: Option<DiskRefusal>,
}

/// Why a node is not taken for the one that went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRefusal {
    /// Its disk is not the one that is known.
    OtherDisk,
    /// Its disk lacks what the node had told to be durable.
    OlderCopy,
}
