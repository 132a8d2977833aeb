//! What goes into a worker and what comes out, between turns.

use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::message::{Heartbeat, PeerMessage};
use bark_schema::operation::{DiskRefusal, Failure, Reply, Request};
use bark_schema::placement::NodeUse;
use bytes::Bytes;

use crate::block_store::BadCopy;
use crate::log::Record;
use crate::partition::event::{CallId, SnapshotEvent, SnapshotRequest};

/// Something that happened outside the worker.
#[derive(Debug)]
pub enum Input {
    /// Control and bulk connections to the node are both up.
    PeerConnected {
        node: NodeNumber,
    },
    PeerDisconnected {
        node: NodeNumber,
    },
    /// The node's hello was taken (None), or refused for its disk.
    PeerGreeted {
        node: NodeNumber,
        refusal: Option<DiskRefusal>,
    },
    Peer {
        from: NodeNumber,
        message: PeerMessage,
    },
    Sibling {
        from: u16,
        message: SiblingMessage,
    },
    /// The log has synced everything up to this batch of this worker; with durability `memory`, has written it,
    /// so that it survives the end of the process.
    LogPersisted {
        batch: u64,
    },
    /// A sync of the log took this long. Those that were quick need not be told.
    LogSynced {
        took_us: u64,
    },
    Storage(StorageEvent),
}

/// Something the worker wants done.
#[derive(Debug)]
pub enum Effect {
    /// `bulk`: on the connection for blocks and snapshots, so that heartbeats never wait behind them.
    Send {
        to: NodeNumber,
        bulk: bool,
        message: PeerMessage,
    },
    Sibling {
        to: u16,
        message: SiblingMessage,
    },
    /// Append these to the log in order, and answer `LogPersisted`.
    Persist {
        batch: u64,
        records: Vec<Record>,
    },
    Storage(StorageRequest),
    /// An operator lets the node in with another disk: to be kept durably, and then answered as a block is.
    Admit {
        call: CallId,
        node: NodeNumber,
    },
    /// From now on this node rejoins at every start, until its partitions have.
    MarkRejoining,
}

/// Between the workers of one node.
#[derive(Debug)]
pub enum SiblingMessage {
    Request {
        call: CallId,
        deadline_us: u64,
        request: Request,
    },
    Reply {
        call: CallId,
        result: Result<Reply, Failure>,
    },
    /// Arrived on the sender's connection, meant for a partition or call of the receiver.
    Peer { from: NodeNumber, message: PeerMessage },
    /// For worker 0, which sends the heartbeats of all workers together.
    Heartbeats(Vec<Heartbeat>),
    /// Another node's hello, see [`Input::PeerGreeted`].
    PeerGreeted {
        node: NodeNumber,
        refusal: Option<DiskRefusal>,
    },
    /// It lacks what was acknowledged.
    MayHaveForgotten,
    /// The disk they share stalls.
    DiskStalled,
    /// What an operator wants of this node.
    Drain(bool),
}

/// Work for the disk thread, done in order.
#[derive(Clone, Debug, PartialEq)]
pub enum StorageRequest {
    BlockPut {
        call: CallId,
        block: BlockId,
        data: Bytes,
        checksum: u32,
        /// Readers ask another node for it first.
        is_spare: bool,
    },
    BlockGet {
        call: CallId,
        block: BlockId,
        offset: u32,
        length: u32,
    },
    BlockDelete {
        call: CallId,
        blocks: Vec<BlockId>,
    },
    BlockList {
        call: CallId,
        after: Option<BlockId>,
        limit: u32,
    },
    /// Reads all of a block and compares it with this checksum, or the one it was stored with.
    BlockVerify {
        call: CallId,
        block: BlockId,
        checksum: Option<u32>,
    },
    /// Which of these are not here, or bad as far as is known.
    BlocksMissing {
        call: CallId,
        blocks: Vec<BlockId>,
    },
    BlockAudit {
        call: CallId,
        after: Option<BlockId>,
        limit: u32,
    },
    /// Compacts one segment, if one is worth it.
    BlockCompact {
        call: CallId,
    },
    Snapshot(SnapshotRequest),
}

/// What became of a [`StorageRequest`].
#[derive(Debug)]
pub enum StorageEvent {
    /// Durable, read or deleted, or why not.
    Block {
        call: CallId,
        result: Result<Reply, Failure>,
    },
    Snapshot {
        partition: PartitionId,
        event: SnapshotEvent,
    },
    /// Copies here that were found damaged, each once. Worker 0 tells those who keep the records.
    BadCopies(Vec<BadCopy>),
    /// Of the data directory's file system, and what the blocks in it take.
    Space(NodeUse),
}
