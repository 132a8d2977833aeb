//! What goes into a partition and what comes out.

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{PeerMessage, SnapshotChunk};
use bark_schema::operation::{Failure, Reply};
use bytes::Bytes;

use crate::consensus::Outgoing;
use crate::log::Record;

/// Names one request waiting inside this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// The answer to a submitted query or command.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    pub call: CallId,
    pub result: Result<Reply, Failure>,
}

/// Everything a partition wants done after a turn.
#[derive(Default)]
pub struct Output {
    pub messages: Vec<Outgoing>,
    pub records: Vec<Record>,
    pub completions: Vec<Completion>,
    pub snapshots: Vec<SnapshotRequest>,
    /// Snapshot parts for other nodes, on the bulk connection.
    pub chunks: Vec<(NodeNumber, SnapshotChunk)>,
    /// Answers to snapshot parts from other nodes.
    pub progress: Vec<(NodeNumber, PeerMessage)>,
}

/// Work on snapshot files, done by the disk thread in order. `writer` tells one file being written from
/// another that was begun before it and abandoned.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotRequest {
    Create {
        partition: PartitionId,
        writer: u64,
        index: u64,
        term: u64,
    },
    Write {
        partition: PartitionId,
        writer: u64,
        chunk: Bytes,
    },
    /// Makes it durable and removes older ones.
    Finish {
        partition: PartitionId,
        writer: u64,
    },
    Abandon {
        partition: PartitionId,
        writer: u64,
    },
    /// The part `to` is to be sent next.
    Read {
        partition: PartitionId,
        index: u64,
        term: u64,
        offset: u64,
        to: NodeNumber,
    },
}

/// What became of a [`SnapshotRequest`].
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotEvent {
    Created {
        writer: u64,
    },
    Written {
        writer: u64,
    },
    Finished {
        writer: u64,
    },
    /// The file could not be written; the reason was logged.
    Failed {
        writer: u64,
    },
    Part {
        to: NodeNumber,
        index: u64,
        offset: u64,
        data: Bytes,
        last: bool,
    },
    Unreadable {
        to: NodeNumber,
        index: u64,
    },
}
