//! capnp-rpc's transport over the guard and the wire.
//!
//! The library's own transport writes through a queue that is unbounded and flushed after each message. This
//! one copies a message into the wire when it is sent, and the wire leaves once a turn.
//!
//! The library keeps an answer with capabilities until the client has finished with it, for calls pipelined on
//! it; of others it keeps nothing (`noFinishNeeded`).
//!
//! Invariants:
//! - Sending never waits; what bounds it is that the guard shows no frame while the wire is full.
//! - There is one connection, accepted once.

use std::future::poll_fn;
use std::rc::Rc;

use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::channel::oneshot;

use super::guard::{Frame, Guard};

/// A word count that holds most returns without a second segment.
const FIRST_SEGMENT_WORDS: u32 = 64;

pub struct Network {
    guard: Rc<Guard>,
    /// Present until accepted.
    connection: Option<Box<dyn Connection<Side>>>,
    /// Resolves when the connection was dropped.
    dropped: Option<oneshot::Receiver<()>>,
}

impl Network {
    pub fn new(guard: Rc<Guard>) -> Network {
        let (alive, dropped) = oneshot::channel();
        let link = Link {
            guard: guard.clone(),
            _alive: alive,
        };
        Network {
            guard,
            connection: Some(Box::new(link)),
            dropped: Some(dropped),
        }
    }
}

impl VatNetwork<Side> for Network {
    /// The server side never calls first.
    fn connect(&mut self, _side: Side) -> Option<Box<dyn Connection<Side>>> {
        None
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, capnp::Error> {
        match self.connection.take() {
            Some(connection) => Promise::ok(connection),
            None => Promise::from_future(futures::future::pending()),
        }
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        let Some(dropped) = self.dropped.take() else {
            return Promise::ok(());
        };
        let guard = self.guard.clone();
        Promise::from_future(async move {
            // The sender is only ever dropped: that is the signal.
            let _ = dropped.await;
            guard.end();
            Ok(())
        })
    }
}

struct Link {
    guard: Rc<Guard>,
    _alive: oneshot::Sender<()>,
}

impl Connection<Side> for Link {
    fn get_peer_vat_id(&self) -> Side {
        Side::Client
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        let words = if first_segment_words == 0 {
            FIRST_SEGMENT_WORDS
        } else {
            first_segment_words
        };
        let message = Builder::new(HeapAllocator::new().first_segment_words(words));
        Box::new(Outgoing {
            message,
            guard: self.guard.clone(),
        })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let guard = self.guard.clone();
        Promise::from_future(async move {
            let frame = poll_fn(|context| guard.poll_frame(context)).await?;
            Ok(frame.map(|frame| Box::new(Incoming(frame)) as Box<dyn IncomingMessage>))
        })
    }

    fn shutdown(&mut self, _result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        self.guard.wire().close();
        Promise::ok(())
    }
}

struct Incoming(Frame);

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.0.get_root()
    }
}

struct Outgoing {
    message: Builder<HeapAllocator>,
    guard: Rc<Guard>,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_root()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_root_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), capnp::Error>, Rc<Builder<HeapAllocator>>) {
        let Outgoing { message, guard } = *self;
        guard.wire().write_with(|out| {
            // Writing to a vector cannot fail.
            let written = capnp::serialize::write_message(out, &message);
            debug_assert!(written.is_ok(), "a message could not be copied into memory");
        });
        // A message of our own making is well-formed; if not, it only is not counted.
        if let Ok(Some((question, is_finished))) = returned_question(&message) {
            guard.returned(question, is_finished);
        }
        (Promise::ok(()), Rc::new(message))
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}

/// Which call this answers, if it answers one, and whether the client need not say that it is finished.
fn returned_question(message: &Builder<HeapAllocator>) -> capnp::Result<Option<(u32, bool)>> {
    let root: message::Reader<'_> = message.get_root_as_reader()?;
    let Ok(message::Return(answer)) = root.which() else {
        return Ok(None);
    };
    let answer = answer?;
    Ok(Some((answer.get_answer_id(), answer.get_no_finish_needed())))
}
