//! A network thread: accepts, connects, reads, writes and closes sockets, and does nothing else.
//!
//! Previous: `reactor`, which says when a socket is ready. Next: `pipeline`, which carries chunks to the workers.
//!
//! Design. One turn: wait for events; obey the workers' commands; accept; read; publish once. A read fills a recycled
//! buffer of 16 KiB and travels whole; a write goes to the socket at once and only its rest is kept. A socket is paused
//! by not reading it: readiness is remembered, so nothing is lost to edge triggering and no system call is spent.
//! A worker is drawn by a hash of a running number. The price of the thread: bytes cross a core twice. With one worker
//! the two halves of the turn may run on the worker's thread instead (`worker_thread`).
//!
//! | limit | when it is reached |
//! | --- | --- |
//! | room or bytes of the ring to a worker | sockets of that worker are not read, nothing is accepted for it |
//! | `outgoing_bytes_soft_max` unsent | the worker hears `WriteBlocked`, and `WriteDrained` when all is sent |
//! | `outgoing_bytes_max` unsent | the connection is closed |
//! | `connections_max`, for all network threads together | a new connection is closed at once |
//! | open files (EMFILE) | accepting pauses for 100 ms |
//!
//! Invariants
//! - Only this thread closes a socket, always after unwatching it; a slot is reused after `AcknowledgeClosed`.
//! - An idle connection owns no buffer.

mod connection;
mod limits;
mod listen;
mod thread;

pub use limits::{ConnectionCount, raise_open_files_limit};
pub use listen::{Listener, bind};
pub use thread::{NetworkThread, Sockets};

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Shared by all network threads of the node.
    pub connections: ConnectionCount,
    pub outgoing_bytes_soft_max: usize,
    pub outgoing_bytes_max: usize,
    /// How long the other side may take to accept a connection from here.
    pub connect_timeout: Duration,
    /// How long a close may try to send what is left.
    pub flush_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listening on {address}")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("the limit of open files is {limit}, {needed} are needed")]
    OpenFiles { limit: u64, needed: u64 },
    #[error(transparent)]
    Reactor(#[from] crate::reactor::Error),
}
