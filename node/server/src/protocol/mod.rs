//! What connections speak: each kind is a [`Protocol`] on the worker that owns the connection.
//!
//! Previous in the flow: `worker_thread` hands in the bytes a connection received. Next: the core's
//! `Gateway`, which carries requests to wherever they are answered; answers are written to the [`Wire`].
//!
//! Invariants:
//! - A protocol never blocks and never panics on what it receives; if it does panic, its connection ends.
//! - Bytes leave once a turn: a protocol writes to its wire, the worker flushes every wire that has something.

pub mod capnp;
pub mod capnp_port;
pub mod client;
pub mod counters;
pub mod frame_room;
pub mod http;
mod login;
pub mod peer;
pub mod resp;
pub mod wire;

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bark_core::members::Members;
use bark_core::worker::event::Input;
use bark_core::worker::gateway::Gateway;
use bark_schema::operation::{Command, Failure, Namespace, NodeRequest, Refusal, Request};
use futures::FutureExt;

use crate::pipeline::ConnectionKind;
pub use wire::Wire;

/// One connection's conversation.
pub trait Protocol {
    /// Bytes arrived, in order. An error ends the connection after what was written is flushed.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close>;
    /// The other side sends no more; it may still read. True if answers are still to come and the protocol
    /// will close the wire itself after them; otherwise the connection ends once everything was sent.
    fn end_of_stream(&mut self) -> bool {
        false
    }
    /// The connection is gone; whatever was waiting for answers gets none.
    fn closed(&mut self) {}
}

/// Why a protocol ends its connection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Close(pub String);

/// The conversation of a connection that was just accepted.
pub fn open(kind: ConnectionKind, context: &Context, wire: Wire) -> Box<dyn Protocol> {
    match kind {
        ConnectionKind::Capnp => Box::new(capnp_port::CapnpPort::new(context, wire)),
        ConnectionKind::Resp => Box::new(resp::RespConnection::new(context, wire)),
        ConnectionKind::Http => Box::new(http::HttpConnection::new(context, wire)),
    }
}

/// Work of a connection as a coroutine: if it panics, the connection is closed and the worker goes on.
pub async fn ends_connection(wire: Wire, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!("a handler panicked: its connection is closed");
        wire.close();
    }
}

/// What protocols need to know of the node, beside the gateway.
#[derive(Clone)]
pub struct Context {
    pub gateway: Gateway,
    pub settings: Arc<Settings>,
    /// For large values on their way in.
    pub frame_room: frame_room::FrameRoom,
    /// What other nodes sent, for the worker's next turn.
    pub peer_inbox: Rc<RefCell<Vec<Input>>>,
    /// What is known of other nodes' disks is to be stored.
    pub members_changed: Rc<Cell<bool>>,
}

/// The same for all connections of the node.
#[derive(Debug)]
pub struct Settings {
    pub version: &'static str,
    pub cluster: bark_schema::cluster_file::ClusterFile,
    pub node: bark_schema::ids::NodeNumber,
    /// Of the parts of the cluster file that all nodes must agree on.
    pub map_digest: u64,
    /// Drawn when this node's disk was new.
    pub incarnation: u64,
    /// Every worker behaves as one that may have forgotten, since the start or since another node found it out. Release
    /// by the storage thread when all have said so and it is on the disk; pairs with the Acquire load before a hello.
    pub rejoining: AtomicBool,
    /// How far the log is durable. Release by the log thread after the sync; pairs with the Acquire loads of whoever
    /// tells others.
    pub log_position: AtomicU64,
    /// Which disks of the other nodes are known. Shared, because any worker may get any node's hello and the storage
    /// thread stores it; held for moments only.
    pub members: Arc<Mutex<Members>>,
    /// Largest value a key may have, at most the schema's limit.
    pub value_size_max: usize,
    /// When the process started, for INFO and health: seconds since the Unix epoch.
    pub started_unix_s: u64,
}

impl Settings {
    pub fn members(&self) -> MutexGuard<'_, Members> {
        // Nothing panics while it is held, and what is in it is whole after every method.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what carries a value larger than this node takes.
    pub fn check_values(&self, request: &Request) -> Result<(), Failure> {
        match request {
            Request::Command {
                command: Command::KeySet { value, .. },
                ..
            } => self.check_value(value.len()),
            Request::Namespace {
                operation: Namespace::KeySetMany { pairs, .. },
                ..
            } => pairs
                .iter()
                .try_for_each(|(_, _, value)| self.check_value(value.len())),
            Request::Node(NodeRequest::Traced { request }) => self.check_values(request),
            _ => Ok(()),
        }
    }

    pub fn check_value(&self, size_bytes: usize) -> Result<(), Failure> {
        if size_bytes <= self.value_size_max {
            return Ok(());
        }
        let sentence = format!(
            "the value has {size_bytes} bytes, at most {} are taken (value_size_max_mib in the cluster file)",
            self.value_size_max
        );
        Err(Failure::refused(Refusal::FileTooLarge, sentence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{DirtyWires, WireId};

    #[test]
    fn a_panic_in_a_handler_closes_its_connection_and_nothing_else() {
        // Goal: the caller of the coroutine sees it end like any other. Method: two connections, one handler panics.
        let dirty = DirtyWires::default();
        let wires = [1, 2].map(|id| Wire::new(WireId(id), dirty.clone()));
        let work = ends_connection(wires[0].clone(), async { panic!("planted") });
        assert_eq!(work.now_or_never(), Some(()));
        assert_eq!(
            ends_connection(wires[1].clone(), async {}).now_or_never(),
            Some(())
        );
        assert_eq!(wires.each_ref().map(Wire::is_closing), [true, false]);
    }
}
