//! The framed protocol of our own client library: one message a frame, replies in any order.
//!
//! Previous in the flow: `capnp_port`, which has consumed the preamble. Next: the core's `Gateway`.
//!
//! A request for a partition is carried out here or answered `NotLeader`: the client keeps the map of
//! leaders and goes to the right node itself, so no request takes two hops twice. Answers are encoded
//! straight into the wire. While the client does not take what it asked for, answers wait as they came from
//! the core (values are shared with the state, not copied) and no further request is admitted.
//!
//! Invariants:
//! - Nothing but a login is accepted before a login.
//! - What a client must not say (the steps of transactions, the copies of one node) is refused here.
//! - Requests under way are bounded in number and bytes; beyond, the answer is Busy.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use bark_core::worker::gateway::{CompletionSink, Reach};
use bark_schema::codec;
use bark_schema::data::{DataCommand, DataQuery};
use bark_schema::file_lock::LockCommand;
use bark_schema::frame::FrameDecoder;
use bark_schema::limits::{self, MIB};
use bark_schema::message::{ClientMessage, ServerMessage};
use bark_schema::operation::{Command, Failure, NodeRequest, Query, Refusal, Reply, Request};

use super::frame_room::{self, Intake, Room};
use super::{Close, Context, Protocol, Wire, ends_connection, login};

/// Requests under way on one connection.
const CALLS_MAX: usize = 4096;
/// Bytes of requests under way, and of what they are known to answer. One larger request passes alone.
const CALL_BYTES_MAX: usize = 64 * MIB;
/// Answers encoded and not yet handed to the network; further ones wait unencoded.
const ENCODED_BYTES_MAX: usize = 16 * MIB;
const DEADLINE_MS_MAX: u32 = 60_000;
/// "The client names no deadline."
const DEADLINE_MS_DEFAULT: u32 = 10_000;

pub struct ClientProtocol {
    context: Context,
    frames: FrameDecoder,
    intake: Intake,
    conversation: Rc<Conversation>,
    logged_in: bool,
}

/// The half that outlives a turn: who waits for which answer.
struct Conversation {
    itself: Weak<Conversation>,
    wire: Wire,
    context: Context,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    next_token: u64,
    calls: BTreeMap<u64, Asked>,
    call_bytes: usize,
    /// Answers that wait for room on the wire.
    answers: VecDeque<Answer>,
    draining: bool,
    gone: bool,
}

/// A request under way.
struct Asked {
    id: u64,
    size_bytes: usize,
    /// Of its frame, if that is large.
    _room: Option<Room>,
}

struct Answer {
    asked: Asked,
    result: Result<Reply, Failure>,
}

impl ClientProtocol {
    pub fn new(context: Context, wire: Wire) -> ClientProtocol {
        let conversation = Rc::new_cyclic(|itself| Conversation {
            itself: itself.clone(),
            wire,
            context: context.clone(),
            state: RefCell::default(),
        });
        ClientProtocol {
            frames: FrameDecoder::new(limits::FRAME_SIZE_GREETING_MAX),
            intake: Intake::new(
                context.frame_room.clone(),
                context.gateway.clone(),
                conversation.wire.clone(),
            ),
            conversation,
            context,
            logged_in: false,
        }
    }

    fn message(
        &mut self,
        message: ClientMessage,
        size_bytes: usize,
        room: Option<Room>,
    ) -> Result<(), Close> {
        match message {
            ClientMessage::Login { version, .. } => {
                let welcome = login::welcome(&self.context.settings, version);
                let refused = welcome.as_ref().err().map(ToString::to_string);
                self.conversation.send(&ServerMessage::Welcome(welcome));
                if let Some(reason) = refused {
                    return Err(Close(reason));
                }
                self.logged_in = true;
                let value_size_max = self.context.settings.value_size_max;
                self.frames.set_limit(frame_room::frame_size_max(value_size_max));
                Ok(())
            }
            ClientMessage::Request { id, .. } if !self.logged_in => {
                let failure = Failure::refused(Refusal::PermissionDenied, "log in first");
                self.conversation.send(&ServerMessage::Reply {
                    id,
                    result: Err(failure),
                });
                Err(Close("a client asked before its login".to_string()))
            }
            ClientMessage::Request {
                id,
                deadline_ms,
                request,
            } => {
                let asked = Asked {
                    id,
                    size_bytes: size_bytes + answer_size_bytes(&request),
                    _room: room,
                };
                self.request(asked, deadline_ms, request);
                Ok(())
            }
        }
    }

    fn request(&mut self, asked: Asked, deadline_ms: u32, request: Request) {
        let id = asked.id;
        let refused = match refusal(&request) {
            Some(sentence) => Some(Failure::refused(Refusal::PermissionDenied, sentence)),
            None => self.context.settings.check_values(&request).err(),
        };
        if let Some(failure) = refused {
            let result = Err(failure);
            self.conversation.send(&ServerMessage::Reply { id, result });
            return;
        }
        let token = match self.conversation.admit(asked) {
            Ok(token) => token,
            Err(failure) => {
                self.conversation.send(&ServerMessage::Reply {
                    id,
                    result: Err(failure),
                });
                return;
            }
        };
        let deadline_ms = match deadline_ms {
            0 => DEADLINE_MS_DEFAULT,
            some => some.min(DEADLINE_MS_MAX),
        };
        let gateway = &self.context.gateway;
        let deadline_us = gateway.now().monotonic_us + u64::from(deadline_ms) * 1000;
        gateway.submit(
            request,
            Reach::Here,
            deadline_us,
            self.conversation.clone(),
            token,
        );
    }
}

impl Protocol for ClientProtocol {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.frames.push(bytes);
        while let Some(frame) = self.frames.next().map_err(|error| Close(error.to_string()))? {
            let message = codec::decode_client(&frame).map_err(|error| Close(error.to_string()))?;
            let room = self.intake.arrived();
            self.message(message, frame.len(), room)?;
        }
        let wire = self.conversation.wire.clone();
        let resume = move || wire.set_reading_paused(false);
        let waits = self.intake.waits_for_room(&self.frames, resume);
        self.conversation.wire.set_reading_paused(waits);
        Ok(())
    }

    fn closed(&mut self) {
        let mut state = self.conversation.state.borrow_mut();
        state.gone = true;
        state.answers.clear();
        self.intake.end();
    }
}

impl Conversation {
    fn admit(&self, asked: Asked) -> Result<u64, Failure> {
        let mut state = self.state.borrow_mut();
        if state.calls.len() + state.answers.len() >= CALLS_MAX {
            return Err(Failure::Busy(format!(
                "{CALLS_MAX} requests are under way on this connection"
            )));
        }
        if state.call_bytes > 0 && state.call_bytes + asked.size_bytes > CALL_BYTES_MAX {
            return Err(Failure::Busy(format!(
                "{CALL_BYTES_MAX} bytes are under way on this connection"
            )));
        }
        state.next_token += 1;
        state.call_bytes += asked.size_bytes;
        let token = state.next_token;
        state.calls.insert(token, asked);
        Ok(token)
    }

    fn has_room(&self) -> bool {
        !self.wire.is_blocked() && self.wire.buffered_bytes() < ENCODED_BYTES_MAX
    }

    fn send(&self, message: &ServerMessage) {
        self.wire.write_with(|out| codec::encode_server(message, out));
    }

    fn send_answer(&self, answer: Answer) {
        self.state.borrow_mut().call_bytes -= answer.asked.size_bytes;
        self.send(&ServerMessage::Reply {
            id: answer.asked.id,
            result: answer.result,
        });
    }

    /// Sends what waits, as the client takes it.
    async fn drain(self: Rc<Self>) {
        loop {
            self.wire.room(ENCODED_BYTES_MAX).await;
            let Some(answer) = self.state.borrow_mut().answers.pop_front() else {
                break;
            };
            self.send_answer(answer);
        }
        self.state.borrow_mut().draining = false;
    }
}

impl CompletionSink for Conversation {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        let mut state = self.state.borrow_mut();
        let Some(asked) = state.calls.remove(&token) else {
            return;
        };
        if state.gone {
            return;
        }
        let answer = Answer { asked, result };
        if state.answers.is_empty() && self.has_room() {
            drop(state);
            self.send_answer(answer);
            return;
        }
        state.answers.push_back(answer);
        if !state.draining
            && let Some(itself) = self.itself.upgrade()
        {
            state.draining = true;
            let drained = ends_connection(self.wire.clone(), itself.drain());
            self.context.gateway.spawn(drained);
        }
    }
}

/// What the answer is known to take in memory: blocks are read into it, everything else is shared.
fn answer_size_bytes(request: &Request) -> usize {
    match request {
        Request::Node(NodeRequest::BlockGet { length, .. }) => *length as usize,
        Request::Node(NodeRequest::Walk { first_bytes, .. }) => *first_bytes as usize,
        Request::Node(NodeRequest::Traced { request }) => answer_size_bytes(request),
        _ => 0,
    }
}

/// Why a client must not ask this, if so: it belongs between nodes.
fn refusal(request: &Request) -> Option<&'static str> {
    match request {
        Request::Command { command, .. } => match command {
            Command::Prepare { .. }
            | Command::Decide { .. }
            | Command::Finish { .. }
            | Command::Forget { .. } => Some("the steps of transactions are for nodes only"),
            Command::KeyExpireDue { .. } => Some("only the leader drops expired keys"),
            Command::Data(
                DataCommand::Repack { .. }
                | DataCommand::CondemnBlocks { .. }
                | DataCommand::RecordCopies { .. }
                | DataCommand::ForgetBlocks { .. },
            ) => Some("only nodes pack and drop blocks"),
            Command::Quota(_) => Some("only nodes keep quotas"),
            Command::Usage(_) => Some("only nodes report what directories take"),
            Command::ReapOrphans { .. } => Some("only the leader drops inodes without a name"),
            Command::Lock(LockCommand::EndLeases { .. }) => Some("only the leader ends leases"),
            _ => None,
        },
        Request::Query {
            query: Query::TransactionOutcome { .. },
            ..
        } => Some("the outcomes of transactions are for nodes only"),
        Request::Query {
            query: Query::Data(DataQuery::UnknownBlocks { .. }),
            ..
        } => Some("the ledger of blocks is for nodes only"),
        Request::Node(NodeRequest::Traced { request }) => refusal(request),
        Request::Node(NodeRequest::BlockPut { local_only: true, .. }) => {
            Some("a block is stored on all its replicas, not on one node")
        }
        Request::Node(
            NodeRequest::BlockDelete { .. }
            | NodeRequest::BlockList { .. }
            | NodeRequest::BlockVerify { .. }
            | NodeRequest::BlocksMissing { .. }
            | NodeRequest::BlockFetch { .. }
            | NodeRequest::BlockCompact,
        ) => Some("the nodes keep and drop copies of blocks among themselves"),
        Request::Query { .. } | Request::Namespace { .. } | Request::Node(_) => None,
    }
}
