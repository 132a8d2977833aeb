//! What travels in one frame: between nodes, and between a node and the client library.
//!
//! A connection opens with eight bytes that say who speaks ([`PREAMBLE_PEER`], [`PREAMBLE_CLIENT`]);
//! anything else is taken for capnp-rpc, whose first word can be neither.
//! Requests and replies carry an id chosen by the asker; replies may come in any order.

use bytes::Bytes;

use crate::ids::{NodeNumber, PartitionId};
use crate::operation::{DiskRefusal, Failure, Reply, Request};

pub const PREAMBLE_PEER: [u8; 8] = *b"BARKPEER";
pub const PREAMBLE_CLIENT: [u8; 8] = *b"BARKCLNT";
/// Raised when a message changes in a way old readers would misread.
pub const PROTOCOL_VERSION: u32 = 1;

/// A frame between two nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    Hello(PeerHello),
    /// Raft messages of any partitions, in order.
    Raft(Vec<RaftMessage>),
    /// Heartbeats and their answers of all groups between two nodes.
    Heartbeats(Vec<Heartbeat>),
    Request {
        id: u64,
        deadline_ms: u32,
        request: Request,
    },
    Reply {
        id: u64,
        result: Result<Reply, Failure>,
    },
    SnapshotChunk(SnapshotChunk),
    /// The follower has everything before `next_offset`, or (`accepted` false) wants the stream to stop.
    SnapshotProgress {
        partition: PartitionId,
        index: u64,
        next_offset: u64,
        accepted: bool,
    },
    Standing(Standing),
}

/// What a node tells the others of itself every second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It leads nothing, because its operator wants it so, ...
    pub draining: bool,
    /// ... or because its disk takes too long.
    pub disk_slow: bool,
    /// Everything before this place of its log is durable.
    pub log_position: u64,
    /// Why it refuses the node this is told to.
    pub refusal: Option<DiskRefusal>,
}

/// A frame from the client library to a node.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    Login {
        version: u32,
        token: Bytes,
    },
    Request {
        id: u64,
        deadline_ms: u32,
        request: Request,
    },
}

/// A frame from a node to the client library.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage {
    /// Answer to a login: the cluster file as this node has it, or why not.
    Welcome(Result<Welcome, Failure>),
    Reply {
        id: u64,
        result: Result<Reply, Failure>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub version: u32,
    pub cluster: String,
    pub node: NodeNumber,
    pub partition_count: u16,
    pub replicas: u16,
    pub vnodes: u32,
    pub nodes: Vec<WelcomeNode>,
    /// Largest value of a key, in bytes; 0: not said.
    pub value_size_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WelcomeNode {
    pub number: NodeNumber,
    pub id: String,
    pub capnp: String,
    pub zone: String,
}

/// First frame on a connection between nodes, both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    pub version: u32,
    pub cluster: String,
    /// Of the parts of the cluster file all nodes must agree on.
    pub map_digest: u64,
    pub node: NodeNumber,
    /// Of its disk.
    pub incarnation: u64,
    /// Bulk connections carry blocks and snapshots, control connections everything else.
    pub bulk: bool,
    /// Everything before this place of its log is durable.
    pub log_position: u64,
    /// It knows that it may have forgotten.
    pub rejoining: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftKind {
    Propose,
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Snapshot,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    TransferLeader,
    Unreachable,
    /// From a replica that may have forgotten; `context` names the question.
    RejoinQuestion,
    /// `term`, `log_term` and `index` say how far the answering replica is.
    RejoinAnswer,
}

/// A Raft message of one partition. Field names are the library's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftMessage {
    pub partition: PartitionId,
    pub kind: RaftKind,
    pub from: NodeNumber,
    pub to: NodeNumber,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub entries: Vec<LogEntry>,
    pub commit: u64,
    pub commit_term: u64,
    pub snapshot: Option<SnapshotMetadata>,
    pub request_snapshot: u64,
    pub reject: bool,
    pub reject_hint: u64,
    pub context: Bytes,
    pub priority: i64,
}

/// One entry of a partition's log. `data` is an encoded `Command` with its id and time, or empty for a leader's first entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub term: u64,
    pub index: u64,
    /// Membership change entries are not used while membership is static, but the field is kept.
    pub kind: u8,
    pub data: Bytes,
    pub context: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMetadata {
    pub index: u64,
    pub term: u64,
    pub voters: Vec<NodeNumber>,
    pub learners: Vec<NodeNumber>,
}

/// A heartbeat of one group, or the answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub partition: PartitionId,
    pub from: NodeNumber,
    pub to: NodeNumber,
    pub response: bool,
    pub term: u64,
    pub commit: u64,
    pub context: Bytes,
    /// The leader's state hash at `hash_index` (0: none), for followers to compare.
    pub hash_index: u64,
    pub state_hash: u64,
}

/// Part of a snapshot on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    pub partition: PartitionId,
    pub from: NodeNumber,
    pub term: u64,
    pub metadata: SnapshotMetadata,
    pub offset: u64,
    pub data: Bytes,
    pub last: bool,
}
