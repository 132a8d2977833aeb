//! How sockets become connections: accepted from a listener, or connected because a worker asked.
//!
//! Invariants:
//! - A worker that asked for a connection hears of it exactly once: `Opened` or `ConnectFailed`.
//! - What fails in accepting one connection ends neither the listener nor the others.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bark_schema::mix::{GOLDEN, mix};

use super::{Sockets, on_readable};
use crate::network::connection::Phase;
use crate::pipeline::{CloseReason, ConnectionKind, ToWorker};
use crate::reactor::Interest;

const ACCEPTS_PER_TURN_MAX: usize = 64;
// EMFILE does not go away by itself: often enough to notice, seldom enough not to spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

impl Sockets {
    pub(super) fn connect(
        &mut self,
        worker: usize,
        address: SocketAddr,
        kind: ConnectionKind,
        token: u64,
    ) -> io::Result<()> {
        self.config.connections.enter();
        let opened = mio::net::TcpStream::connect(address).and_then(|stream| {
            let stream = TcpStream::from(OwnedFd::from(stream));
            let watched = self
                .handle
                .watch(stream.as_raw_fd(), Interest::Write, on_connected);
            watched.map_err(io::Error::other).map(|()| stream)
        });
        match opened {
            Ok(stream) => {
                let descriptor = stream.as_raw_fd();
                let slot = self.occupy(worker as u16, kind, descriptor);
                self.connections[slot as usize].phase = Phase::Connecting { stream, token };
                let id = self.id_of(slot);
                self.handle
                    .run_after(self.config.connect_timeout, move |sockets: &mut Sockets| {
                        if let Some(slot) = sockets.slot_of(id) {
                            sockets.give_up_connecting(slot);
                        }
                    });
                Ok(())
            }
            Err(error) => {
                self.config.connections.leave();
                Err(error)
            }
        }
    }

    pub(super) fn accept_all(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN_MAX {
                let worker = self.next_worker();
                let state = &mut self.listeners[index];
                if !state.is_ready || !self.port.has_room(usize::from(worker)) {
                    break;
                }
                match state.listener.socket.accept() {
                    Ok((stream, peer_address)) => {
                        let kind = state.listener.kind;
                        self.opened_count += 1;
                        self.admit(TcpStream::from(OwnedFd::from(stream)), peer_address, kind, worker);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.is_ready = false,
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections, trying again");
                        state.is_ready = false;
                        self.handle
                            .run_after(ACCEPT_RETRY_DELAY, move |sockets: &mut Sockets| {
                                sockets.listeners[index].is_ready = true;
                            });
                    }
                }
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer_address: SocketAddr, kind: ConnectionKind, worker: u16) {
        if !self.config.connections.try_enter(kind) {
            tracing::debug!(%peer_address, "refused: too many connections");
            return;
        }
        let slot = self.occupy(worker, kind, stream.as_raw_fd());
        self.begin(slot, stream, peer_address, None);
    }

    /// An accepted or connected socket becomes a connection its worker knows.
    fn begin(&mut self, slot: u32, stream: TcpStream, peer_address: SocketAddr, token: Option<u64>) {
        let descriptor = stream.as_raw_fd();
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot as usize];
        let (worker, kind) = (usize::from(connection.worker), connection.kind);
        let no_delay = stream.set_nodelay(true);
        connection.phase = Phase::Open { stream };
        self.port.push(
            worker,
            ToWorker::Opened {
                connection: id,
                kind,
                peer_address,
                token,
            },
        );
        let watched = self.handle.watch(descriptor, Interest::Read, on_readable);
        if no_delay.is_err() || watched.is_err() {
            self.close(slot, CloseReason::Failed(io::ErrorKind::Other));
        }
    }

    /// The other side said nothing for too long, as a machine that is off does.
    fn give_up_connecting(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        match std::mem::replace(&mut connection.phase, Phase::Free) {
            Phase::Connecting { stream, token } => {
                self.fail_connecting(slot, stream, token, io::ErrorKind::TimedOut);
            }
            other => connection.phase = other,
        }
    }

    fn fail_connecting(&mut self, slot: u32, stream: TcpStream, token: u64, error: io::ErrorKind) {
        self.handle.unwatch_all(stream.as_raw_fd());
        drop(stream);
        let worker = usize::from(self.connections[slot as usize].worker);
        self.port.push(worker, ToWorker::ConnectFailed { token, error });
        self.free(slot);
    }

    fn finish_connecting(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        let (stream, token) = match std::mem::replace(&mut connection.phase, Phase::Free) {
            Phase::Connecting { stream, token } => (stream, token),
            other => {
                connection.phase = other;
                return;
            }
        };
        let outcome = match stream.take_error() {
            Ok(None) => stream.peer_addr(),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                connection.phase = Phase::Connecting { stream, token };
            }
            Err(error) => self.fail_connecting(slot, stream, token, error.kind()),
            Ok(peer_address) => {
                self.handle.unwatch_all(stream.as_raw_fd());
                self.begin(slot, stream, peer_address, Some(token));
            }
        }
    }

    /// The worker of the next accepted connection: splitmix64 of a running number.
    pub(super) fn next_worker(&self) -> u16 {
        let hash = mix(self.opened_count.wrapping_add(1).wrapping_mul(GOLDEN));
        (hash % self.port.workers_count() as u64) as u16
    }
}

fn on_connected(sockets: &mut Sockets, ready: crate::reactor::Readiness) {
    if let Some(slot) = sockets.slot_of_descriptor(ready.descriptor) {
        sockets.finish_connecting(slot);
    }
}

/// Errors of accept that belong to the connection that was not accepted, not to the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}
