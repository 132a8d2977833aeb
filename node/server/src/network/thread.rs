//! The turn of a network thread.
//!
//! Invariants: see `network`; besides, the work of one turn is bounded by the constants below, so that no connection,
//! listener or worker starves the others.

mod opening;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;

use super::connection::{Backlog, Connection, Phase, write_some};
use super::listen::Listener;
use super::{Error, NetworkConfig};
use crate::pipeline::{
    CHUNK_SIZE_BYTES_MAX, CloseReason, ConnectionId, ConnectionKind, FromWorker, NetworkPort, ToWorker,
};
use crate::reactor::{EventWatcher, Interest, WatcherHandle};

// 4 chunks = 64 KiB of one connection before the next one is read.
const CHUNKS_PER_READ_MAX: usize = 4;
const COMMANDS_PER_TURN_MAX: usize = 8192;
// 256 buffers = 4 MiB kept for reuse; more go back to the allocator.
const POOLED_BUFFERS_MAX: usize = 256;

/// A loop and its sockets; `run` it on a thread of its own.
pub struct NetworkThread {
    watcher: EventWatcher<Sockets>,
    sockets: Sockets,
}

struct ListenerState {
    listener: Listener,
    is_ready: bool,
}

/// The state that callbacks of the loop work on.
pub struct Sockets {
    port: NetworkPort,
    config: NetworkConfig,
    handle: WatcherHandle<Sockets>,
    listeners: Vec<ListenerState>,
    connections: Vec<Connection>,
    free_slots: Vec<u32>,
    /// Slot of each descriptor, so that callbacks need no captures and therefore no memory.
    slot_of_descriptor: Vec<u32>,
    /// Slots to read in this turn.
    ready: VecDeque<u32>,
    /// Slots that are readable while their worker's ring has no room.
    waiting: VecDeque<u32>,
    buffers: Vec<Vec<u8>>,
    commands: Vec<(usize, FromWorker)>,
    opened_count: u64,
}

impl NetworkThread {
    /// `port` must have been built with the waker of this `watcher`.
    pub fn open(
        watcher: EventWatcher<Sockets>,
        port: NetworkPort,
        listeners: Vec<Listener>,
        config: NetworkConfig,
    ) -> Result<Self, Error> {
        let handle = watcher.handle();
        for (index, listener) in listeners.iter().enumerate() {
            handle.watch(
                listener.socket.as_raw_fd(),
                Interest::Read,
                move |sockets: &mut Sockets, _| {
                    sockets.listeners[index].is_ready = true;
                },
            )?;
        }
        let listeners = listeners.into_iter().map(|listener| ListenerState {
            listener,
            is_ready: true,
        });
        let sockets = Sockets {
            port,
            config,
            handle,
            listeners: listeners.collect(),
            connections: Vec::new(),
            free_slots: Vec::new(),
            slot_of_descriptor: Vec::new(),
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            buffers: Vec::new(),
            commands: Vec::new(),
            opened_count: 0,
        };
        Ok(Self { watcher, sockets })
    }

    pub fn handle(&self) -> WatcherHandle<Sockets> {
        self.watcher.handle()
    }

    /// Serves until the handle's `stop`.
    pub fn run(mut self) -> Result<(), Error> {
        while !self.watcher.is_stopping() {
            self.wait(None)?;
            self.work();
        }
        Ok(())
    }

    /// First half of a turn, for a thread that has other work too: waits for events, at most `wait_max`.
    pub fn wait(&mut self, wait_max: Option<Duration>) -> Result<(), Error> {
        let may_sleep = !self.sockets.has_work() && self.sockets.port.prepare_sleep();
        let wait_max = if may_sleep { wait_max } else { Some(Duration::ZERO) };
        self.watcher.turn(&mut self.sockets, wait_max)?;
        self.sockets.port.cancel_sleep();
        Ok(())
    }

    /// Second half: does what events and workers ask for.
    pub fn work(&mut self) {
        self.sockets.turn();
    }
}

impl Sockets {
    fn turn(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.port.take(COMMANDS_PER_TURN_MAX, &mut commands);
        for (worker, command) in commands.drain(..) {
            self.obey(worker, command);
        }
        self.commands = commands;
        self.accept_all();
        self.ready.append(&mut self.waiting);
        for _ in 0..self.ready.len() {
            if let Some(slot) = self.ready.pop_front() {
                self.read(slot);
            }
        }
        self.port.publish();
    }

    fn has_work(&mut self) -> bool {
        let next_worker = self.next_worker();
        let may_accept = self.listeners.iter().any(|state| state.is_ready);
        !self.ready.is_empty() || (may_accept && self.port.has_room(usize::from(next_worker)))
    }

    // ---- commands -------------------------------------------------------------------------------------------------

    fn obey(&mut self, worker: usize, command: FromWorker) {
        match command {
            FromWorker::Write { connection, bytes } => self.write(connection, bytes),
            FromWorker::Close { connection, flush } => self.close_on_request(connection, flush),
            FromWorker::PauseReading { connection } => {
                if let Some(slot) = self.slot_of(connection) {
                    self.connections[slot as usize].is_paused = true;
                }
            }
            FromWorker::ResumeReading { connection } => {
                if let Some(slot) = self.slot_of(connection) {
                    self.connections[slot as usize].is_paused = false;
                    self.queue_read(slot);
                }
            }
            FromWorker::Connect {
                address, kind, token, ..
            } => {
                if let Err(error) = self.connect(worker, address, kind, token) {
                    self.port.push(
                        worker,
                        ToWorker::ConnectFailed {
                            token,
                            error: error.kind(),
                        },
                    );
                }
            }
            FromWorker::Recycle { bytes, .. } => recycle(&mut self.buffers, bytes),
            FromWorker::AcknowledgeClosed { connection } => {
                if let Some(slot) = self.slot_of(connection)
                    && matches!(self.connections[slot as usize].phase, Phase::AwaitsAcknowledge)
                {
                    self.free(slot);
                }
            }
        }
    }

    fn write(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        let Some(slot) = self.slot_of(id) else {
            return recycle(&mut self.buffers, bytes);
        };
        let connection = &mut self.connections[slot as usize];
        let Phase::Open { stream } = &connection.phase else {
            return recycle(&mut self.buffers, bytes);
        };
        if connection.is_closing {
            return recycle(&mut self.buffers, bytes);
        }
        if let Some(backlog) = &mut connection.backlog {
            backlog.push(bytes, 0);
            return self.check_outgoing(slot);
        }
        let descriptor = stream.as_raw_fd();
        let sent = match write_some(stream, &bytes) {
            Ok(sent) => sent,
            Err(error) => return self.close(slot, CloseReason::Failed(error.kind())),
        };
        if sent == bytes.len() {
            return recycle(&mut self.buffers, bytes);
        }
        connection
            .backlog
            .insert(Box::<Backlog>::default())
            .push(bytes, sent);
        if self
            .handle
            .watch(descriptor, Interest::Write, on_writable)
            .is_err()
        {
            return self.close(slot, CloseReason::Failed(io::ErrorKind::Other));
        }
        self.check_outgoing(slot);
    }

    fn check_outgoing(&mut self, slot: u32) {
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot as usize];
        let unsent_bytes = connection
            .backlog
            .as_ref()
            .map_or(0, |backlog| backlog.unsent_bytes);
        if unsent_bytes > self.config.outgoing_bytes_max {
            self.close(slot, CloseReason::OutgoingBudget);
        } else if unsent_bytes > self.config.outgoing_bytes_soft_max && !connection.is_write_blocked {
            connection.is_write_blocked = true;
            let worker = usize::from(connection.worker);
            self.port.push(worker, ToWorker::WriteBlocked { connection: id });
        }
    }

    fn close_on_request(&mut self, id: ConnectionId, flush: bool) {
        let Some(slot) = self.slot_of(id) else {
            return;
        };
        let connection = &mut self.connections[slot as usize];
        if !flush || connection.backlog.is_none() {
            return self.close(slot, CloseReason::Requested);
        }
        if !connection.is_closing {
            connection.is_closing = true;
            self.handle
                .run_after(self.config.flush_timeout, move |sockets: &mut Sockets| {
                    if let Some(slot) = sockets.slot_of(id) {
                        sockets.close(slot, CloseReason::FlushTimeout);
                    }
                });
        }
    }

    // ---- reading and writing --------------------------------------------------------------------------------------------------

    fn queue_read(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if connection.may_read() && !connection.is_queued {
            connection.is_queued = true;
            self.ready.push_back(slot);
        }
    }

    fn read(&mut self, slot: u32) {
        self.connections[slot as usize].is_queued = false;
        for _ in 0..CHUNKS_PER_READ_MAX {
            let id = self.id_of(slot);
            let connection = &mut self.connections[slot as usize];
            let Phase::Open { stream } = &connection.phase else {
                return;
            };
            if !connection.may_read() {
                return;
            }
            let worker = usize::from(connection.worker);
            if !self.port.has_room(worker) {
                connection.is_queued = true;
                self.waiting.push_back(slot);
                return;
            }
            let mut bytes = self
                .buffers
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(CHUNK_SIZE_BYTES_MAX));
            match rustix::io::read(stream, spare_capacity(&mut bytes)) {
                Ok(0) => {
                    connection.is_ended = true;
                    recycle(&mut self.buffers, bytes);
                    return self.port.push(worker, ToWorker::EndOfStream { connection: id });
                }
                // A short read of a stream means empty; what comes after it is a new edge. Not so the end of the
                // stream that was reported together with the last bytes: it must be read for.
                Ok(_) => {
                    connection.is_readable = bytes.len() == bytes.capacity() || connection.is_hung_up;
                    self.port.push(
                        worker,
                        ToWorker::Chunk {
                            connection: id,
                            bytes,
                        },
                    );
                }
                Err(rustix::io::Errno::INTR) => recycle(&mut self.buffers, bytes),
                Err(rustix::io::Errno::AGAIN) => {
                    connection.is_readable = false;
                    return recycle(&mut self.buffers, bytes);
                }
                Err(error) => {
                    recycle(&mut self.buffers, bytes);
                    return self.close(slot, CloseReason::Failed(error.kind()));
                }
            }
        }
        self.queue_read(slot);
    }

    fn flush(&mut self, slot: u32) {
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot as usize];
        let (Phase::Open { stream }, Some(backlog)) = (&connection.phase, &mut connection.backlog) else {
            return;
        };
        let descriptor = stream.as_raw_fd();
        if let Err(error) = backlog.write_to(stream, |bytes| recycle(&mut self.buffers, bytes)) {
            return self.close(slot, CloseReason::Failed(error.kind()));
        }
        if backlog.unsent_bytes > 0 {
            return;
        }
        connection.backlog = None;
        if connection.is_closing {
            return self.close(slot, CloseReason::Requested);
        }
        if std::mem::take(&mut connection.is_write_blocked) {
            let worker = usize::from(connection.worker);
            self.port.push(worker, ToWorker::WriteDrained { connection: id });
        }
        if self.handle.unwatch(descriptor, Interest::Write).is_err() {
            self.close(slot, CloseReason::Failed(io::ErrorKind::Other));
        }
    }

    /// Closes the socket; the slot stays taken until the worker has acknowledged.
    fn close(&mut self, slot: u32, reason: CloseReason) {
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot as usize];
        let worker = usize::from(connection.worker);
        let stream = match std::mem::replace(&mut connection.phase, Phase::AwaitsAcknowledge) {
            Phase::Open { stream } => stream,
            other => {
                connection.phase = other;
                return;
            }
        };
        connection.backlog = None;
        self.handle.unwatch_all(stream.as_raw_fd());
        drop(stream);
        self.port.push(
            worker,
            ToWorker::Closed {
                connection: id,
                reason,
            },
        );
    }

    // ---- slots ----------------------------------------------------------------------------------------------------

    fn occupy(&mut self, worker: u16, kind: ConnectionKind, descriptor: RawFd) -> u32 {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.connections.push(Connection::new(0));
            (self.connections.len() - 1) as u32
        });
        let generation = self.connections[slot as usize].generation;
        self.connections[slot as usize] = Connection {
            worker,
            kind,
            ..Connection::new(generation)
        };
        let index = descriptor as usize;
        if self.slot_of_descriptor.len() <= index {
            self.slot_of_descriptor.resize(index + 1, u32::MAX);
        }
        self.slot_of_descriptor[index] = slot;
        slot
    }

    fn free(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        // A slot that still waits for its read is skipped there: it is not open, or it may not read yet.
        *connection = Connection::new(connection.generation.wrapping_add(1));
        self.free_slots.push(slot);
        self.config.connections.leave();
    }

    fn id_of(&self, slot: u32) -> ConnectionId {
        let generation = self.connections[slot as usize].generation;
        ConnectionId {
            network_thread: self.port.index(),
            slot,
            generation,
        }
    }

    /// None for a connection that is gone: its slot has another generation.
    fn slot_of(&self, id: ConnectionId) -> Option<u32> {
        let connection = self.connections.get(id.slot as usize)?;
        (connection.generation == id.generation).then_some(id.slot)
    }

    fn slot_of_descriptor(&self, descriptor: RawFd) -> Option<u32> {
        let slot = *self.slot_of_descriptor.get(usize::try_from(descriptor).ok()?)?;
        (slot != u32::MAX).then_some(slot)
    }
}

fn on_readable(sockets: &mut Sockets, ready: crate::reactor::Readiness) {
    if let Some(slot) = sockets.slot_of_descriptor(ready.descriptor) {
        let connection = &mut sockets.connections[slot as usize];
        connection.is_readable = true;
        connection.is_hung_up |= ready.is_closed;
        sockets.queue_read(slot);
    }
}

fn on_writable(sockets: &mut Sockets, ready: crate::reactor::Readiness) {
    if let Some(slot) = sockets.slot_of_descriptor(ready.descriptor) {
        sockets.flush(slot);
    }
}

/// Keeps a buffer of the circulating size; others, as a large reply, go back to the allocator.
fn recycle(buffers: &mut Vec<Vec<u8>>, mut bytes: Vec<u8>) {
    if bytes.capacity() == CHUNK_SIZE_BYTES_MAX && buffers.len() < POOLED_BUFFERS_MAX {
        bytes.clear();
        buffers.push(bytes);
    }
}
