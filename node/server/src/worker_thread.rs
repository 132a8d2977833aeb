//! The thread of one worker: the shell around the core's deterministic machine.
//!
//! Previous in the flow: `network` through `pipeline`, other threads through `mailbox`. Next: the core's
//! `Worker::turn`, whose effects this thread hands on: bytes to the network thread, records to the log
//! thread, blocks to the disk thread, messages to sibling workers.
//!
//! A turn: take everything that came, let protocols and the machine work on it, hand everything on, once.
//! With nothing to do the thread sleeps until woken or until the machine's next timer.
//!
//! Where it is the only worker it may serve the sockets too: it then does the network's turn between its own, and
//! sleeps in the network's loop. What comes in and what goes out then costs no wake-up of another thread, which
//! is most of what a request costs on a machine with few cores.
//!
//! Invariants:
//! - The thread never blocks on another: full queues keep their rest on this side.
//! - One wake a turn and receiver at most.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bark_core::time::Now;
use bark_core::worker::Worker;
use bark_core::worker::event::{Effect, Input, SiblingMessage};

use crate::handover::Handover;
use crate::log_thread::LogBatch;
use crate::mailbox::{Mail, MailSender, Mailbox};
use crate::network::NetworkThread;
use crate::peer_links::PeerLinks;
use crate::pipeline::{ConnectionId, FromWorker, ToWorker, WorkerPort};
use crate::protocol::wire::{DirtyWires, Wire, WireId};
use crate::protocol::{self, Context, Protocol};
use crate::storage_thread::StorageJob;

/// Longest sleep: a backstop, the machine's own timers are shorter.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Rest while the log or the disk is behind; answers of theirs end it earlier.
const BACKLOG_REST: Duration = Duration::from_millis(1);

/// What a worker thread is given at start.
pub struct WorkerParts {
    pub index: u16,
    pub port: WorkerPort,
    /// The sockets, if this thread serves them.
    pub network: Option<NetworkThread>,
    pub mailbox: Mailbox,
    /// By worker; this worker's own entry is unused.
    pub siblings: Vec<MailSender>,
    pub log: Handover<LogBatch>,
    pub storage: Handover<StorageJob>,
    pub peers: PeerLinks,
    /// Say when the partitions here have rejoined.
    pub rejoining: bool,
}

struct Connection {
    wire: Wire,
    protocol: Box<dyn Protocol>,
    ended: bool,
}

struct WorkerThread {
    parts: WorkerParts,
    worker: Worker,
    context: Context,
    connections: HashMap<ConnectionId, Connection>,
    by_wire: HashMap<WireId, ConnectionId>,
    dirty: DirtyWires,
    next_wire: u64,
    /// Wires with something to send while the network thread has enough.
    postponed: Vec<Wire>,
    inputs: Vec<Input>,
    effects: Vec<Effect>,
    /// A coroutine waits for a turn although nothing came in.
    again: bool,
    started: Instant,
}

/// Runs until told to stop. `make` builds the machine here, because it is not `Send`.
pub fn run(parts: WorkerParts, make: impl FnOnce(Now) -> (Worker, Context)) {
    let started = Instant::now();
    let (worker, context) = make(clock(started));
    let mut thread = WorkerThread {
        parts,
        worker,
        context,
        connections: HashMap::new(),
        by_wire: HashMap::new(),
        dirty: DirtyWires::default(),
        next_wire: 0,
        postponed: Vec::new(),
        inputs: Vec::new(),
        effects: Vec::new(),
        again: false,
        started,
    };
    let mut messages = Vec::new();
    while thread.turn(&mut messages) {}
}

fn clock(started: Instant) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now {
        monotonic_us: started.elapsed().as_micros() as u64,
        unix_ns: i64::try_from(unix.as_nanos()).unwrap_or(i64::MAX),
    }
}

impl WorkerThread {
    /// False when the worker was told to stop.
    fn turn(&mut self, messages: &mut Vec<ToWorker>) -> bool {
        let instant = Instant::now();
        self.parts.log.flush();
        self.parts.storage.flush();
        if !self.is_backlogged() {
            self.parts.port.poll(messages);
        }
        let mut worked = !messages.is_empty() || std::mem::take(&mut self.again);
        for message in messages.drain(..) {
            self.take_from_network(instant, message);
        }
        while let Some(mail) = self.parts.mailbox.try_take() {
            worked = true;
            match mail {
                Mail::Input(input) => self.inputs.push(input),
                Mail::Siblings { from, messages } => {
                    self.inputs.extend(
                        messages
                            .into_iter()
                            .map(|message| Input::Sibling { from, message }),
                    );
                }
                Mail::Stop => {
                    self.parts.port.flush();
                    if let Some(network) = &mut self.parts.network {
                        network.work();
                    }
                    self.parts.log.finish();
                    self.parts.storage.finish();
                    return false;
                }
            }
        }
        self.parts.peers.connect_due(instant, &mut self.parts.port);
        self.inputs.append(&mut self.context.peer_inbox.borrow_mut());
        if self.context.members_changed.take() {
            self.parts.storage.send(StorageJob::StoreMembers);
        }
        let log_position = self.context.settings.log_position.load(Ordering::Acquire);
        self.worker.set_log_position(log_position);
        let now = clock(self.started);
        if worked || !self.inputs.is_empty() || self.worker.next_wake_us() <= now.monotonic_us {
            self.worker.turn(now, &mut self.inputs, &mut self.effects);
            self.hand_on_effects();
            self.notice_rejoined();
        }
        self.flush_wires();
        self.again = self.dirty.take_woke();
        self.parts.peers.flush(&mut self.parts.port);
        for sibling in &mut self.parts.siblings {
            sibling.flush_rest();
        }
        self.parts.port.flush();
        self.rest(!worked && !self.again);
        true
    }

    /// The log or the disk has no room for more: nothing is taken from the sockets until it has.
    fn is_backlogged(&self) -> bool {
        self.parts.log.is_backlogged() || self.parts.storage.is_backlogged()
    }

    fn notice_rejoined(&mut self) {
        if self.parts.rejoining && !self.worker.is_rejoining() {
            self.parts.rejoining = false;
            self.parts.storage.send(StorageJob::Rejoined {
                worker: self.parts.index,
            });
        }
    }

    /// Between two turns: sleeps if there is nothing to do, and serves the sockets if that is done here.
    fn rest(&mut self, is_idle: bool) {
        let wait_max = if is_idle { self.prepare_sleep() } else { None };
        let Some(network) = &mut self.parts.network else {
            if let Some(wait_max) = wait_max {
                self.parts.port.park(wait_max);
            }
            return;
        };
        if let Err(error) = network.wait(Some(wait_max.unwrap_or_default())) {
            tracing::error!(%error, "the sockets cannot be served any more");
            std::process::exit(1);
        }
        self.parts.port.cancel_sleep();
        network.work();
    }

    /// Announces a sleep and says how long it may last. None: something came meanwhile.
    fn prepare_sleep(&mut self) -> Option<Duration> {
        if self.is_backlogged() {
            self.parts.port.prepare_rest();
        } else if !self.parts.port.prepare_sleep() {
            return None;
        }
        if !self.parts.mailbox.is_empty() {
            self.parts.port.cancel_sleep();
            return None;
        }
        if self.is_backlogged() || !self.postponed.is_empty() {
            return Some(BACKLOG_REST);
        }
        let now_us = self.started.elapsed().as_micros() as u64;
        let machine = Duration::from_micros(self.worker.next_wake_us().saturating_sub(now_us));
        let links = self
            .parts
            .peers
            .next_due()
            .map(|due| due.saturating_duration_since(Instant::now()));
        Some(machine.min(links.unwrap_or(SLEEP_MAX)).min(SLEEP_MAX))
    }

    fn take_from_network(&mut self, instant: Instant, message: ToWorker) {
        match message {
            ToWorker::Opened {
                connection,
                token: Some(token),
                ..
            } => {
                self.parts
                    .peers
                    .opened(connection, token, &self.context.settings, &mut self.inputs);
            }
            ToWorker::Opened {
                connection,
                kind,
                token: None,
                ..
            } => {
                self.next_wire += 1;
                let id = WireId(self.next_wire);
                let wire = Wire::new(id, self.dirty.clone());
                let protocol = protocol::open(kind, &self.context, wire.clone());
                self.by_wire.insert(id, connection);
                self.connections.insert(
                    connection,
                    Connection {
                        wire,
                        protocol,
                        ended: false,
                    },
                );
            }
            ToWorker::Chunk { connection, bytes } => {
                if let Some(open) = self.connections.get_mut(&connection) {
                    receive(open, &bytes);
                }
                if let Some(bytes) = self.dirty.keep_buffer(bytes) {
                    self.parts.port.send(FromWorker::Recycle {
                        network_thread: connection.network_thread,
                        bytes,
                    });
                }
            }
            ToWorker::EndOfStream { connection } => {
                if self.parts.peers.is_ours(connection) {
                    self.parts.port.send(FromWorker::Close {
                        connection,
                        flush: false,
                    });
                } else if let Some(open) = self.connections.get_mut(&connection)
                    && !contain(|| open.protocol.end_of_stream()).unwrap_or(false)
                {
                    open.wire.close();
                }
            }
            ToWorker::Closed { connection, reason } => {
                tracing::trace!(?connection, ?reason, "a connection closed");
                self.parts.port.send(FromWorker::AcknowledgeClosed { connection });
                if self
                    .parts
                    .peers
                    .closed(connection, instant, &mut self.parts.port, &mut self.inputs)
                {
                    return;
                }
                if let Some(mut open) = self.connections.remove(&connection) {
                    open.wire.forget();
                    self.by_wire.remove(&open.wire.id());
                    contain(|| open.protocol.closed());
                }
            }
            ToWorker::WriteBlocked { connection } => self.set_blocked(connection, true),
            ToWorker::WriteDrained { connection } => self.set_blocked(connection, false),
            ToWorker::ConnectFailed { token, error } => {
                tracing::debug!(token, ?error, "a peer could not be reached");
                self.parts.peers.connect_failed(token, instant);
            }
        }
    }

    /// The client does not take what it asked for, or does again.
    fn set_blocked(&mut self, connection: ConnectionId, blocked: bool) {
        if let Some(open) = self.connections.get(&connection) {
            open.wire.set_blocked(blocked);
        }
    }

    fn hand_on_effects(&mut self) {
        let mut siblings: HashMap<u16, Vec<SiblingMessage>> = HashMap::new();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Send { to, bulk, message } => self.parts.peers.send(to, bulk, &message),
                Effect::Sibling { to, message } => siblings.entry(to).or_default().push(message),
                Effect::Persist { batch, records } => {
                    self.parts.log.send(LogBatch {
                        worker: self.parts.index,
                        batch,
                        records,
                    });
                }
                Effect::Admit { call, node } => self.parts.storage.send(StorageJob::Admit {
                    worker: self.parts.index,
                    call,
                    node,
                }),
                Effect::MarkRejoining => {
                    self.parts.rejoining = true;
                    self.parts.storage.send(StorageJob::MarkRejoining {
                        worker: self.parts.index,
                    });
                }
                Effect::Storage(request) => self.parts.storage.send(StorageJob::Request {
                    worker: self.parts.index,
                    request,
                }),
            }
        }
        for (to, messages) in siblings {
            if let Some(sibling) = self.parts.siblings.get_mut(usize::from(to)) {
                sibling.send(Mail::Siblings {
                    from: self.parts.index,
                    messages,
                });
            }
        }
    }

    fn flush_wires(&mut self) {
        let mut wires = std::mem::take(&mut self.postponed);
        wires.append(&mut self.dirty.take());
        for wire in wires {
            let Some(connection) = self.by_wire.get(&wire.id()).copied() else {
                continue;
            };
            match wire.take_pause_change() {
                Some(true) => self.parts.port.send(FromWorker::PauseReading { connection }),
                Some(false) => self.parts.port.send(FromWorker::ResumeReading { connection }),
                None => {}
            }
            if !self.parts.port.has_room_for_writes(connection.network_thread) {
                // Its protocol sees the bytes still there, and makes no more.
                self.postponed.push(wire);
                continue;
            }
            let (bytes, close) = wire.take();
            if !bytes.is_empty() {
                self.parts.port.send(FromWorker::Write { connection, bytes });
            }
            if close {
                self.parts.port.send(FromWorker::Close {
                    connection,
                    flush: true,
                });
            }
        }
    }
}

/// Runs protocol code; a panic in it is that of one connection.
fn contain<T>(action: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(action));
    if result.is_err() {
        tracing::error!("a handler panicked: its connection is closed");
    }
    result.ok()
}

/// Gives a connection's protocol what arrived. Its errors and panics end this connection alone.
fn receive(open: &mut Connection, bytes: &[u8]) {
    if open.ended {
        return;
    }
    let reason = match contain(|| open.protocol.receive(bytes)) {
        Some(Ok(())) => return,
        Some(Err(close)) => close.0,
        None => "its protocol code panicked".to_string(),
    };
    tracing::debug!(reason, "ending a connection");
    open.ended = true;
    open.wire.close();
}
