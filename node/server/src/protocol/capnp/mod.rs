//! The face for everybody: capnp-rpc on the Cap'n Proto port, after `schema/capnp/client.capnp`.
//!
//! Previous in the flow: `capnp_port`, which saw that the first word is no preamble. Next: the core's `Gateway`.
//!
//! The library keeps the object tables and the pipelines; everything that could grow without bound is taken
//! from it. `guard` cuts the stream into whole frames and admits calls while there is room, `network` is the
//! library's transport over it, `budget` makes large answers wait for the client to take the earlier ones.
//! Each interface has a file: `bark` (bootstrap and login), `session`, `file_system`, `node`, `file`,
//! `key_value`, `admin`. What a session may do is its `authority`.
//!
//! The library's own figures: about 5 µs and 50 allocations a call. Hot paths use `client` instead.
//!
//! Invariants:
//! - A connection is one task on the worker's executor; a panic in it ends the connection and nothing else.
//! - When the connection is gone the task ends, and with it every object it exported.
//! - Cancelling a call drops its answer, never the change it asked for.

mod admin;
mod authority;
mod bark;
mod budget;
mod file;
mod file_system;
mod guard;
mod key_value;
mod network;
mod node;
mod placing;
mod read;
mod session;
mod turns;
mod walk;
mod write;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use bark_schema::generated::client_capnp;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side};
use futures::FutureExt;

use self::authority::Connection;
use self::bark::Bark;
use self::budget::Budget;
use self::guard::Guard;
use self::network::Network;
use super::frame_room::{Intake, frame_size_max};
use super::{Close, Context, Protocol, Wire};

/// One capnp-rpc connection.
pub struct RpcProtocol {
    guard: Rc<Guard>,
}

impl RpcProtocol {
    pub fn new(context: Context, wire: Wire) -> RpcProtocol {
        let gateway = context.gateway.clone();
        let intake = Intake::new(context.frame_room.clone(), gateway.clone(), wire.clone());
        let size_max = frame_size_max(context.settings.value_size_max);
        let guard = Guard::new(wire.clone(), intake, size_max);
        let connection = Rc::new(Connection::new(context, Budget::new(wire.clone())));
        let bootstrap: client_capnp::bark::Client = capnp_rpc::new_client(Bark::new(connection));
        let network: Box<dyn capnp_rpc::VatNetwork<Side>> = Box::new(Network::new(guard.clone()));
        let system = RpcSystem::new(network, Some(bootstrap.client));
        gateway.spawn(converse(system, wire));
        RpcProtocol { guard }
    }
}

/// Runs a connection to its end, whatever that is.
async fn converse(system: impl Future<Output = capnp::Result<()>>, wire: Wire) {
    match AssertUnwindSafe(system).catch_unwind().await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a capnp-rpc connection ended"),
        Err(_) => tracing::error!("a handler panicked: its connection is closed"),
    }
    wire.close();
}

impl Protocol for RpcProtocol {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.guard.push(bytes);
        Ok(())
    }

    fn closed(&mut self) {
        self.guard.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::{DirtyWires, WireId};

    #[test]
    fn a_panic_in_a_handler_ends_its_connection_only() {
        // Goal: the worker survives. Method: a conversation that panics when polled.
        let wire = Wire::new(WireId(1), DirtyWires::default());
        let system = async { std::panic::panic_any("a handler's defect") };
        assert!(converse(system, wire.clone()).now_or_never().is_some());
        assert!(wire.is_closing());
    }
}
