//! What is asked of a session, and what it asks of a node.

use bark_schema::data::{DataCommand, NewBytes};
use bark_schema::ids::{InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, Namespace, NewContent, NodeRequest, Query, Request, UnixNanos};

/// 8 MB/s: to a node, to its followers and to the disks of a quorum, on the slowest line worth serving.
const TRANSFER_BYTES_PER_MS: usize = 8_000;
const EXTENT_SIZE: usize = 64;

/// A request as the caller sees it: without the id that makes repeating it harmless.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Query {
        partition: PartitionId,
        query: Query,
    },
    Command {
        partition: PartitionId,
        command: Command,
    },
    /// A change under a delegation, told to be done before it is sent. Sent in the order in which the calls begin.
    Ordered {
        partition: PartitionId,
        time: UnixNanos,
        inode: Option<InodeId>,
        awaited: bool,
        command: Command,
    },
    Namespace(Namespace),
    /// Any node will do.
    AnyNode(NodeRequest),
    /// Only this node will do. Not tried elsewhere: the caller knows what else would serve.
    NamedNode(NodeNumber, NodeRequest),
}

impl Call {
    /// Bytes of the user's that the call sends.
    pub fn bulk_bytes(&self) -> usize {
        match self {
            Call::NamedNode(_, request) | Call::AnyNode(request) => bulk_of_node_request(request),
            Call::Command { command, .. } | Call::Ordered { command, .. } => bulk_of_command(command),
            Call::Namespace(operation) => bulk_of_namespace(operation),
            Call::Query { .. } => 0,
        }
    }
}

fn bulk_of_node_request(request: &NodeRequest) -> usize {
    match request {
        NodeRequest::BlockPut { data, .. } => data.len(),
        _ => 0,
    }
}

fn bulk_of_command(command: &Command) -> usize {
    match command.inner() {
        Command::Create {
            content: NewContent::Inline(data),
            ..
        } => data.len(),
        Command::KeySet { value, .. } => value.len(),
        Command::WriteInline { data, .. } | Command::Data(DataCommand::Write { data, .. }) => data.len(),
        Command::Publish { extents, .. } => extents.len() * EXTENT_SIZE,
        Command::Data(DataCommand::Update(update)) => match &update.bytes {
            NewBytes::Nothing => 0,
            NewBytes::Pieces(pieces) => pieces.iter().map(|piece| piece.data.len()).sum(),
            NewBytes::Blocks { extents, .. } => extents.len() * EXTENT_SIZE,
        },
        _ => 0,
    }
}

fn bulk_of_namespace(operation: &Namespace) -> usize {
    match operation {
        Namespace::KeySetMany { pairs, .. } => {
            pairs.iter().map(|(_, key, value)| key.len() + value.len()).sum()
        }
        _ => 0,
    }
}

/// How much longer a call may take, and each attempt at it, because of what it sends.
pub fn transfer_ms(bulk_bytes: usize) -> u64 {
    (bulk_bytes / TRANSFER_BYTES_PER_MS) as u64
}

/// A request to put on the connection to `node`.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    pub node: NodeNumber,
    pub frame_id: u64,
    /// What is left for the node to answer in.
    pub deadline_ms: u32,
    pub request: Request,
}

impl Outgoing {
    /// Bytes of the user's that it carries.
    pub fn bulk_bytes(&self) -> usize {
        bulk_of_request(&self.request)
    }
}

fn bulk_of_request(request: &Request) -> usize {
    match request {
        Request::Node(NodeRequest::Traced { request }) => bulk_of_request(request),
        Request::Node(request) => bulk_of_node_request(request),
        Request::Command { command, .. } => bulk_of_command(command),
        Request::Namespace { operation, .. } => bulk_of_namespace(operation),
        Request::Query { .. } => 0,
    }
}
