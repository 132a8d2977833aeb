//! One RESP connection: commands in, answers out in order.
//!
//! Previous in the flow: `worker_thread` with bytes, the core with completions. Next: the wire.
//!
//! Every complete command of a chunk is submitted at once; the core keeps the order of one worker's requests
//! to one partition, so a connection's commands on one key happen in the order it sent them. A command that
//! runs as a coroutine, or changes several partitions, submits later than it is read. Such a command runs
//! alone: it waits until everything before it is answered, and everything behind it waits for it. The price
//! is that a pipeline of such commands runs one at a time.
//!
//! Invariants:
//! - Beyond IN_FLIGHT_COMMANDS_MAX, IN_FLIGHT_BYTES_MAX or what `Ring::len_max` allows for the size of its answers
//!   nothing more is submitted; what came stays bytes and the connection is not read.
//! - Answers are encoded while the client reads them; until then they are shared with the state.
//! - After a protocol error, or QUIT, what was asked before is still answered, then the connection ends.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use bark_core::worker::gateway::{
    CompletionSink, DEADLINE_DEFAULT_US, FoundKey, Gateway, KeyAsker, KeySink, Reach,
};
use bark_schema::operation::{Failure, Reply, Request};
use bark_schema::placement;

use super::command::{self, Action, Cluster, Render, Session};
use super::parse::Parser;
use super::reply::{Answer, Version};
use super::ring::Ring;
use crate::protocol::{Close, Context, Protocol, Wire, counters, ends_connection};

pub const IN_FLIGHT_COMMANDS_MAX: usize = 16 * 1024;
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Bytes that may wait behind a full ring or a command that runs alone before reading is paused.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// Encoded answers that wait for the end of the turn, or for the client.
const ENCODED_BYTES_MAX: usize = 256 << 10;

/// The protocol object of one connection.
pub struct RespConnection {
    shared: Rc<Shared>,
}

struct Shared {
    /// Itself, for those who answer later.
    this: Weak<Shared>,
    gateway: Gateway,
    wire: Wire,
    state: RefCell<State>,
}

struct State {
    parser: Parser,
    session: Session,
    version: Version,
    ring: Ring,
    /// A command that must run alone and waits for those before it, with its size.
    deferred: Option<(Action, usize)>,
    /// The command in the ring runs alone.
    alone: bool,
    /// Commands wait in the parser's buffer.
    stalled: bool,
    /// A coroutine waits until the client has read more.
    draining: bool,
    /// No command is taken any more; the connection ends after the last answer.
    closing: bool,
    ended: bool,
}

impl RespConnection {
    pub fn new(context: &Context, wire: Wire) -> RespConnection {
        counters::resp_connection_opened();
        let config = context.gateway.config();
        let connection_id = wire.id().0 * u64::from(config.worker_count) + u64::from(config.worker);
        let cluster = Cluster::new(context.gateway.clone(), context.settings.clone());
        let state = State {
            parser: Parser::new(
                context
                    .settings
                    .value_size_max
                    .max(bark_schema::limits::KEY_SIZE_MAX),
            ),
            session: Session::new(cluster, connection_id),
            version: Version::Two,
            ring: Ring::default(),
            deferred: None,
            alone: false,
            stalled: false,
            draining: false,
            closing: false,
            ended: false,
        };
        let shared = Rc::new_cyclic(|this| Shared {
            this: this.clone(),
            gateway: context.gateway.clone(),
            wire,
            state: RefCell::new(state),
        });
        RespConnection { shared }
    }
}

impl Protocol for RespConnection {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        let state = &mut *self.shared.state.borrow_mut();
        if !state.closing {
            state.parser.push(bytes);
            self.shared.advance(state);
        }
        Ok(())
    }

    fn end_of_stream(&mut self) -> bool {
        let state = &mut *self.shared.state.borrow_mut();
        state.ended = true;
        self.shared.advance(state);
        true
    }

    fn closed(&mut self) {
        let state = &mut *self.shared.state.borrow_mut();
        state.closing = true;
        state.deferred = None;
        state.parser.clear();
    }
}

impl Drop for RespConnection {
    fn drop(&mut self) {
        counters::resp_connection_closed();
    }
}

impl CompletionSink for Shared {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        let state = &mut *self.state.borrow_mut();
        if let Some((partition, id)) = state.ring.complete(token, result, self.gateway.now().unix_ms()) {
            self.gateway.finish_request(partition, id);
        }
        self.answered(state);
    }
}

impl KeySink for Shared {
    fn found(&self, token: u64, found: Option<FoundKey<'_>>) {
        let state = &mut *self.state.borrow_mut();
        state
            .ring
            .found(token, found.map(|found| found.value), state.version);
        if state.ring.is_front(token) {
            self.answered(state);
        }
    }

    fn stored(&self, token: u64) {
        let state = &mut *self.state.borrow_mut();
        state.ring.stored(token);
        if state.ring.is_front(token) {
            self.answered(state);
        }
    }
}

impl Shared {
    fn answered(&self, state: &mut State) {
        self.write_ready(state);
        // Half: so that a full ring is filled in large steps.
        let room = state.ring.len() <= state.ring.len_max(IN_FLIGHT_COMMANDS_MAX) / 2
            && state.ring.awaited_bytes() <= IN_FLIGHT_BYTES_MAX / 2;
        if (state.stalled && room) || state.ended || state.closing {
            self.advance(state);
        }
    }

    /// Takes commands as long as it may, writes what is ready, and says whether to go on reading.
    fn advance(&self, state: &mut State) {
        let mut count = 0;
        state.stalled = false;
        while !state.closing {
            let full = state.ring.len() >= state.ring.len_max(IN_FLIGHT_COMMANDS_MAX)
                || state.ring.awaited_bytes() >= IN_FLIGHT_BYTES_MAX;
            if full || (state.alone && !state.ring.is_empty()) {
                self.write_ready(state);
                if !state.ring.is_empty() {
                    state.stalled = true;
                    break;
                }
            }
            state.alone = false;
            if state.deferred.is_none() && self.start_key_command(state) {
                count += 1;
                continue;
            }
            let (action, size) = match state.deferred.take() {
                Some(deferred) => deferred,
                None => match state.parser.next() {
                    Ok(Some(command)) => {
                        count += 1;
                        let size = super::ring::request_size(&command);
                        (command::plan(&mut state.session, &command), size)
                    }
                    Ok(None) => break,
                    Err(error) => {
                        state
                            .ring
                            .push_ready(Answer::error(format!("Protocol error: {error}")));
                        state.closing = true;
                        break;
                    }
                },
            };
            if action.runs_alone() {
                self.write_ready(state);
                if !state.ring.is_empty() {
                    state.deferred = Some((action, size));
                    state.stalled = true;
                    break;
                }
                state.alone = true;
            }
            self.start(state, action, size);
        }
        if count > 0 {
            counters::add_resp_commands(count);
        }
        if state.closing {
            state.parser.clear();
        }
        self.write_ready(state);
        if state.ring.is_empty() && !state.stalled && (state.closing || state.ended) {
            self.wire.close();
        }
        let waits = state.stalled && state.parser.buffered_size() > WAITING_BYTES_MAX;
        self.wire.set_reading_paused(waits);
    }

    /// Takes the next command the short way, if it is a plain GET or SET: no arguments of their own, no request,
    /// no reply. What `command` would refuse is left to it.
    fn start_key_command(&self, state: &mut State) -> bool {
        let Some(command) = state.parser.key_command() else {
            return false;
        };
        let value_size = command.value.map_or(0, <[u8]>::len);
        let Some(sink) = self.this.upgrade() else {
            return false;
        };
        if value_size > state.session.cluster.settings.value_size_max {
            return false;
        }
        let partition = placement::partition_of_key(command.key, self.gateway.config().partition_count);
        let render = match command.value {
            None => Render::Value,
            Some(_) => Render::SetStatus,
        };
        let token = state.ring.push_one(render, None, command.key.len() + value_size);
        let asker = KeyAsker { sink, token };
        self.gateway
            .submit_key(partition, command.key, command.value, asker);
        let size = command.size;
        state.parser.consume(size);
        true
    }

    fn start(&self, state: &mut State, action: Action, size: usize) {
        match action {
            Action::Answer(answer) => state.ring.push_ready(answer),
            Action::Switch(version, answer) => {
                state.version = version;
                state.ring.push_ready(answer);
            }
            Action::Quit => {
                state.ring.push_ready(super::reply::OK);
                state.closing = true;
            }
            Action::Query {
                partition,
                query,
                render,
            } => {
                let token = state.ring.push_one(render, None, size);
                self.submit(Request::Query { partition, query }, token);
            }
            Action::Change {
                partition,
                command,
                render,
            } => {
                let id = self.gateway.begin_request(partition);
                let token = state.ring.push_one(render, Some((partition, id)), size);
                self.submit(
                    Request::Command {
                        partition,
                        id,
                        command,
                    },
                    token,
                );
            }
            Action::Namespace { operation, render } => {
                let partition = operation.primary();
                let id = self.gateway.begin_request(partition);
                let token = state.ring.push_one(render, Some((partition, id)), size);
                self.submit(Request::Namespace { id, operation }, token);
            }
            Action::Parts { queries, merge } => {
                let token = state.ring.push_parts(merge, queries.len(), size);
                for (part, (partition, query)) in (0..).zip(queries) {
                    self.submit(Request::Query { partition, query }, token + part);
                }
            }
            Action::Task(task) => {
                let token = state.ring.push_task();
                let Some(this) = self.this.upgrade() else { return };
                self.gateway.spawn(ends_connection(self.wire.clone(), async move {
                    let answer = task.await;
                    let state = &mut *this.state.borrow_mut();
                    state.ring.fill(token, answer);
                    this.answered(state);
                }));
            }
        }
    }

    fn submit(&self, request: Request, token: u64) {
        let Some(sink) = self.this.upgrade() else { return };
        let deadline_us = self.gateway.now().monotonic_us + DEADLINE_DEFAULT_US;
        self.gateway
            .submit(request, Reach::Cluster, deadline_us, sink, token);
    }

    fn write_ready(&self, state: &mut State) {
        if !state.ring.front_is_ready() {
            return;
        }
        if !self.wire.is_blocked() {
            let (ring, version) = (&mut state.ring, state.version);
            self.wire
                .write_with(|out| ring.write_ready(version, ENCODED_BYTES_MAX, out));
        }
        if state.ring.front_is_ready()
            && !state.draining
            && let Some(this) = self.this.upgrade()
        {
            state.draining = true;
            let drained = ends_connection(self.wire.clone(), this.drain());
            self.gateway.spawn(drained);
        }
    }

    /// Goes on writing when the client has read what it was sent.
    async fn drain(self: Rc<Shared>) {
        while !self.wire.is_closing() {
            self.wire.room(ENCODED_BYTES_MAX).await;
            let state = &mut *self.state.borrow_mut();
            self.answered(state);
            if !state.ring.front_is_ready() {
                state.draining = false;
                return;
            }
        }
    }
}
