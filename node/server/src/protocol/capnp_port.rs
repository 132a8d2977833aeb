//! Tells apart the three who call at the Cap'n Proto port, by their first eight bytes.
//!
//! Previous in the flow: a connection accepted at the port. Next: `peer` for other nodes, `client` for our own
//! client library, `capnp` for everybody else.
//!
//! Invariants:
//! - Nothing is allocated for a connection that has not sent its first word.
//! - capnp-rpc is shown its first word too; the preambles are consumed.

use bark_schema::message::{PREAMBLE_CLIENT, PREAMBLE_PEER};

use super::capnp::RpcProtocol;
use super::client::ClientProtocol;
use super::peer::PeerReceiver;
use super::{Close, Context, Protocol, Wire};

const WORD: usize = 8;

pub struct CapnpPort(State);

enum State {
    Greeting {
        context: Context,
        wire: Wire,
        first: [u8; WORD],
        filled: usize,
    },
    Speaking(Box<dyn Protocol>),
}

impl CapnpPort {
    pub fn new(context: &Context, wire: Wire) -> CapnpPort {
        CapnpPort(State::Greeting {
            context: context.clone(),
            wire,
            first: [0; WORD],
            filled: 0,
        })
    }
}

impl Protocol for CapnpPort {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        let (context, wire, first, filled) = match &mut self.0 {
            State::Speaking(protocol) => return protocol.receive(bytes),
            State::Greeting {
                context,
                wire,
                first,
                filled,
            } => (context, wire, first, filled),
        };
        let (greeting, rest) = bytes.split_at(bytes.len().min(WORD - *filled));
        first[*filled..*filled + greeting.len()].copy_from_slice(greeting);
        *filled += greeting.len();
        if *filled < WORD {
            return Ok(());
        }
        let mut protocol: Box<dyn Protocol> = match *first {
            PREAMBLE_PEER => Box::new(PeerReceiver::new(context.clone())),
            PREAMBLE_CLIENT => Box::new(ClientProtocol::new(context.clone(), wire.clone())),
            word => {
                let mut protocol = RpcProtocol::new(context.clone(), wire.clone());
                protocol.receive(&word)?;
                Box::new(protocol)
            }
        };
        let outcome = protocol.receive(rest);
        self.0 = State::Speaking(protocol);
        outcome
    }

    fn end_of_stream(&mut self) -> bool {
        match &mut self.0 {
            State::Greeting { .. } => false,
            State::Speaking(protocol) => protocol.end_of_stream(),
        }
    }

    fn closed(&mut self) {
        if let State::Speaking(protocol) = &mut self.0 {
            protocol.closed();
        }
    }
}
