//! What the holder of a capability may do, checked at every call.
//!
//! A session starts with everything. `restrict` gives a copy with less: reading only, nothing outside one
//! directory, nothing after a time. Every object handed out carries the authority it was reached by.
//!
//! Changes are named for the exactly-once tables by the worker; the name is given back when the answer is
//! known, or when nobody waits for it any more.
//!
//! Invariants:
//! - Authority only ever shrinks.
//! - No call reaches the gateway without `check_read` or `check_write`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bark_core::worker::gateway::{Gateway, Reach};
use bark_schema::generated::client_capnp::node;
use bark_schema::ids::{BlockId, ClientId, InodeId, PartitionId};
use bark_schema::operation::{
    Command, Failure, Namespace, NodeRequest, Query, Refusal, Reply, Request, RequestId, UnixMillis,
};
use capnp::capability::FromClientHook;
use capnp_rpc::CapabilityServerSet;

use super::budget::Budget;
use super::node::Node;
use super::placing::Placing;
use crate::protocol::Context;

/// How long one call may take.
const DEADLINE_US: u64 = 10_000_000;
/// Objects a client may hold on one connection.
const OBJECTS_MAX: u32 = 64 * 1024;
/// Dropped objects are forgotten after so many new ones.
const COLLECT_INTERVAL: u32 = 1024;

/// What all objects of one connection share.
pub struct Connection {
    pub context: Context,
    pub budget: Budget,
    /// Bytes in the write buffers of open files.
    pub buffered_bytes: Cell<usize>,
    nodes: RefCell<CapabilityServerSet<Node, node::Client>>,
    nodes_made: Cell<u32>,
    objects: Cell<u32>,
    /// Names the blocks cut on this connection.
    block_client: ClientId,
    blocks: Cell<u64>,
    /// Where blocks go.
    pub placing: Placing,
}

/// One object held by the client; counted until dropped.
pub struct Held(Rc<Connection>);

#[derive(Clone)]
pub struct Authority {
    pub connection: Rc<Connection>,
    pub read_only: bool,
    /// Where paths start.
    pub root: InodeId,
    /// Nothing outside `root` can be reached, and no keys.
    pub confined: bool,
    pub until: Option<UnixMillis>,
}

impl Connection {
    pub fn new(context: Context, budget: Budget) -> Connection {
        // 0 names nobody.
        let block_client = ClientId(context.gateway.random() | 1);
        Connection {
            context,
            budget,
            buffered_bytes: Cell::new(0),
            nodes: RefCell::default(),
            nodes_made: Cell::new(0),
            objects: Cell::new(0),
            block_client,
            blocks: Cell::new(0),
            placing: Placing::new(block_client.0),
        }
    }

    pub fn gateway(&self) -> &Gateway {
        &self.context.gateway
    }

    /// A name for a block of files whose inodes live in `home`.
    pub fn next_block(&self, home: PartitionId) -> BlockId {
        self.blocks.set(self.blocks.get() + 1);
        BlockId::new(self.block_client, home, self.blocks.get())
    }

    pub fn hold(self: &Rc<Self>) -> Result<Held, Failure> {
        if self.objects.get() >= OBJECTS_MAX {
            return Err(Failure::Busy(format!(
                "{OBJECTS_MAX} objects are open on this connection: drop some"
            )));
        }
        self.objects.set(self.objects.get() + 1);
        Ok(Held(self.clone()))
    }

    pub fn new_node(&self, node: Node) -> node::Client {
        self.nodes_made.set(self.nodes_made.get().wrapping_add(1));
        let mut nodes = self.nodes.borrow_mut();
        if self.nodes_made.get().is_multiple_of(COLLECT_INTERVAL) {
            nodes.gc();
        }
        nodes.new_client(node)
    }

    /// The object behind a capability that came back from the client.
    pub async fn our_node(&self, client: node::Client) -> capnp::Result<Rc<Node>> {
        let resolved: node::Client = capnp::capability::get_resolved_cap(client).await;
        let found = self.nodes.borrow().get_local_server_of_resolved(&resolved);
        found.ok_or_else(|| {
            exception(Failure::refused(
                Refusal::InvalidArgument,
                "the node belongs to another connection",
            ))
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.objects.set(self.0.objects.get() - 1);
    }
}

impl Authority {
    pub fn full(connection: Rc<Connection>) -> Authority {
        Authority {
            connection,
            read_only: false,
            root: InodeId::ROOT,
            confined: false,
            until: None,
        }
    }

    pub fn gateway(&self) -> &Gateway {
        self.connection.gateway()
    }

    pub fn check_read(&self) -> capnp::Result<()> {
        let now_ms = self.gateway().now().unix_ms();
        match self.until {
            Some(until) if now_ms >= until => Err(denied("the session has expired")),
            _ => Ok(()),
        }
    }

    pub fn check_write(&self) -> capnp::Result<()> {
        self.check_read()?;
        if self.read_only {
            Err(denied("the session is for reading only"))
        } else {
            Ok(())
        }
    }

    /// For what is not below any directory: keys and the cluster.
    pub fn check_unconfined(&self) -> capnp::Result<()> {
        self.check_read()?;
        if self.confined {
            Err(denied("the session is confined to a directory"))
        } else {
            Ok(())
        }
    }

    pub async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        let deadline_us = self.deadline_us();
        self.gateway()
            .call(Request::Query { partition, query }, Reach::Cluster, deadline_us)
            .await
    }

    pub async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        let name = Name::begin(self.gateway(), partition);
        let request = Request::Command {
            partition,
            id: name.id,
            command,
        };
        self.gateway()
            .call(request, Reach::Cluster, self.deadline_us())
            .await
    }

    pub async fn namespace(&self, operation: Namespace) -> Result<Reply, Failure> {
        let name = Name::begin(self.gateway(), operation.primary());
        let request = Request::Namespace {
            id: name.id,
            operation,
        };
        self.gateway()
            .call(request, Reach::Cluster, self.deadline_us())
            .await
    }

    /// Asks this node, which asks others where it must.
    pub async fn ask(&self, request: NodeRequest) -> Result<Reply, Failure> {
        self.gateway()
            .call(Request::Node(request), Reach::Cluster, self.deadline_us())
            .await
    }

    fn deadline_us(&self) -> u64 {
        self.gateway().now().monotonic_us + DEADLINE_US
    }
}

/// The exactly-once name of one change.
struct Name {
    gateway: Gateway,
    partition: PartitionId,
    id: RequestId,
}

impl Name {
    fn begin(gateway: &Gateway, partition: PartitionId) -> Name {
        Name {
            gateway: gateway.clone(),
            partition,
            id: gateway.begin_request(partition),
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.gateway.finish_request(self.partition, self.id);
    }
}

/// A failure as clients see it: the errno name, a colon and a sentence.
pub fn exception(failure: Failure) -> capnp::Error {
    match failure {
        Failure::Refused(refusal, sentence) => {
            capnp::Error::failed(format!("{}: {sentence}", refusal.errno_name()))
        }
        Failure::Unknown(sentence) => capnp::Error::failed(format!("UNKNOWN: {sentence}")),
        passing @ (Failure::NotLeader { .. }
        | Failure::Busy(_)
        | Failure::Locked { .. }
        | Failure::Delegated { .. }
        | Failure::OverAllowance { .. }) => capnp::Error::overloaded(format!("EAGAIN: {passing}")),
        other @ (Failure::CrossPartition | Failure::TooLargeForInline) => {
            capnp::Error::failed(format!("EIO: {other}"))
        }
    }
}

/// The capability a call made, or one on which every call fails for the reason this one did. A client that
/// pipelines drops the promises in between, and would otherwise be told of a null capability only.
pub fn or_broken<C: FromClientHook + Clone>(made: &capnp::Result<C>) -> C {
    match made {
        Ok(client) => client.clone(),
        Err(error) => C::new(capnp_rpc::new_broken_cap(error.clone()).hook),
    }
}

pub fn denied(sentence: &str) -> capnp::Error {
    exception(Failure::refused(Refusal::PermissionDenied, sentence))
}

pub fn invalid(sentence: &str) -> capnp::Error {
    exception(Failure::refused(Refusal::InvalidArgument, sentence))
}

/// An answer of a kind the question cannot have: a defect, told as such.
pub fn unexpected(reply: &Reply) -> Failure {
    tracing::error!(?reply, "the core gave an answer of another kind");
    Failure::refused(Refusal::Internal, "the node gave an answer of another kind")
}
