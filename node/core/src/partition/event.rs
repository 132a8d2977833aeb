//! What goes into a partition and what comes out.

use std::rc::Rc;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{PeerMessage, SnapshotChunk};
use bark_schema::operation::{Failure, Reply, Request, RequestId, UnixMillis};
use bytes::Bytes;

use crate::consensus::Outgoing;
use crate::log::Record;

/// Names one request waiting inside this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Gets answers to calls without a coroutine for each.
pub trait CompletionSink {
    fn complete(&self, token: u64, result: Result<Reply, Failure>);
}

/// Gets answers to plain reads and SETs of one key, which take the short way past the table of calls.
/// When such an operation cannot end on that way it becomes a call, and `complete` ends it.
pub trait KeySink: CompletionSink {
    /// A key was read; None if there is none.
    fn found(&self, token: u64, found: Option<FoundKey<'_>>);
    /// A SET was applied.
    fn stored(&self, token: u64);
}

/// A key as it lies in the state.
#[derive(Clone, Copy, Debug)]
pub struct FoundKey<'a> {
    pub value: &'a Bytes,
    pub version: u64,
    pub expires: Option<UnixMillis>,
}

/// Who waits for a plain read or SET.
#[derive(Clone)]
pub struct KeyAsker {
    pub sink: Rc<dyn KeySink>,
    pub token: u64,
}

/// Who waits for a command.
#[derive(Clone)]
pub enum Asker {
    /// The partition itself, or somebody who was answered already.
    Nobody,
    Call(CallId),
    Key(KeyAsker),
}

impl From<Option<CallId>> for Asker {
    fn from(call: Option<CallId>) -> Asker {
        call.map_or(Asker::Nobody, Asker::Call)
    }
}

/// A plain read or SET that must go on as a call.
pub struct Returned {
    pub asker: KeyAsker,
    pub deadline_us: u64,
    pub request: Request,
    pub failure: Failure,
}

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
    pub returned: Vec<Returned>,
    /// Names of runs whose SETs were all answered or returned.
    pub ended_runs: Vec<(PartitionId, RequestId)>,
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
