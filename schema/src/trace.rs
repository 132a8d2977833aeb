//! Where the time of one request went, told by the nodes that carried it out.
//!
//! Only a request that asks for it is looked at ([`crate::operation::NodeRequest::Traced`]). Times are those of
//! workers' turns, each node's own, counted from when it took the request up; so what the network and a busy
//! worker took is what is left of the asker's own time.

use crate::ids::{NodeNumber, PartitionId};
use crate::operation::{Command, Namespace, NodeRequest, Query, Reply, Request};

/// What a request was about in a span of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracePhase {
    /// All of it on this node.
    Request,
    /// Until its partition, disk or coordinator took it.
    Worker,
    /// Gathered with others into one log entry.
    Batch,
    /// Until the leader's own log had it on disk.
    Sync,
    /// Until another node had it on disk and said so.
    Follower,
    /// Until a quorum had it and it was applied.
    Commit,
    /// Until a quorum said that the leader still leads.
    Confirm,
    BlockStore,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub phase: TracePhase,
    /// Who it is about: the node that did it.
    pub node: NodeNumber,
    pub partition: Option<PartitionId>,
    /// Those that follow with a greater depth are parts of it.
    pub depth: u16,
    pub from_us: u64,
    pub until_us: u64,
    /// Of a request.
    pub what: String,
}

/// An answer, and where its time went; the first span is all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    pub reply: Reply,
    pub spans: Vec<Span>,
}

/// A request in a few words.
pub fn describe(request: &Request) -> &'static str {
    match request {
        Request::Query { query, .. } => describe_query(query),
        Request::Command { command, .. } => describe_command(command),
        Request::Namespace { operation, .. } => match operation {
            Namespace::MakeDirectory { .. } => "make a directory",
            Namespace::RemoveDirectory { .. } => "remove a directory",
            Namespace::Unlink { .. } => "remove a name",
            Namespace::Rename { .. } => "rename",
            Namespace::Link { .. } => "give another name",
            Namespace::KeySetMany { .. } | Namespace::KeyDeleteMany { .. } => "change keys",
        },
        Request::Node(request) => match request {
            NodeRequest::Walk { .. } => "walk a path",
            NodeRequest::BlockPut { local_only: true, .. } => "store a copy of a block",
            NodeRequest::BlockPut { .. } => "store a block",
            NodeRequest::BlockGet { .. } => "read a block",
            NodeRequest::Traced { request } => describe(request),
            _ => "ask a node",
        },
    }
}

fn describe_query(query: &Query) -> &'static str {
    match query {
        Query::Lookup { .. } => "look up a name",
        Query::Attributes { .. } => "attributes",
        Query::ReadDirectory { .. } => "list a directory",
        Query::ReadLink { .. } => "read a link",
        Query::Layout { .. } => "where a file's bytes are",
        Query::TransactionOutcome { .. } => "what became of a transaction",
        Query::By { query, .. } => describe_query(query),
        _ => "read",
    }
}

fn describe_command(command: &Command) -> &'static str {
    match command {
        Command::Create { .. } => "create",
        Command::Unlink { .. } => "remove a name",
        Command::Publish { .. } => "publish blocks",
        Command::Prepare { .. } => "prepare a transaction",
        Command::Decide { .. } => "decide a transaction",
        Command::Finish { .. } => "finish a transaction",
        Command::Forget { .. } => "forget a transaction",
        Command::ReserveInodes { .. } => "set inode numbers aside",
        _ => "change",
    }
}
