//! What travels between network threads and workers, and the queue ends both hold.
//!
//! Previous: `network` reads chunks of bytes. Next: a worker's turn: poll → step → send → flush → sleep.
//!
//! Design. One SPSC ring for each (network thread, worker) and direction. Items are chunks, never commands; both sides
//! publish once per turn and wake a sleeper at most once per turn. A full ring never blocks: control messages wait in
//! an overflow list of the sender, and the network thread stops reading sockets of that worker; a worker with a backlog
//! ([`WorkerPort::is_backlogged`]) stops producing.
//!
//! The life of a connection, as its worker sees it: `Opened`, then `Chunk`s, perhaps `EndOfStream` (the peer sends no
//! more, it may still read), then exactly one `Closed`, which the worker answers with `AcknowledgeClosed`. Only after
//! that may the slot carry another connection, under the next generation.
//!
//! Invariants
//! - Messages about one connection arrive in the order they were sent.
//! - Every `Opened` is followed by exactly one `Closed`, every `Closed` by exactly one `AcknowledgeClosed`.

mod network_port;
mod worker_port;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bark_queue::{SleepFlag, notify, spsc};

use crate::reactor::LoopWaker;

pub use network_port::NetworkPort;
pub use worker_port::WorkerPort;

/// A read takes at most this much; the capacity of every buffer that circulates.
pub const CHUNK_SIZE_BYTES_MAX: usize = 16 * 1024;

/// A connection of one network thread; a generation is never used twice for a slot within 2^32 connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub network_thread: u16,
    pub slot: u32,
    pub generation: u32,
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    Capnp,
    Resp,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The worker asked for it.
    Requested,
    /// The socket failed, typically reset by the peer.
    Failed(io::ErrorKind),
    /// The peer did not read what it asked for, up to the hard limit of unsent bytes.
    OutgoingBudget,
    /// A close after flushing took too long.
    FlushTimeout,
}

/// From a network thread to the worker that owns the connection.
#[derive(Debug)]
pub enum ToWorker {
    /// `token` is that of the `Connect` this connection answers; None for an accepted one.
    Opened {
        connection: ConnectionId,
        kind: ConnectionKind,
        peer_address: SocketAddr,
        token: Option<u64>,
    },
    Chunk {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    EndOfStream {
        connection: ConnectionId,
    },
    Closed {
        connection: ConnectionId,
        reason: CloseReason,
    },
    /// Much is unsent: produce no more for this connection before `WriteDrained`.
    WriteBlocked {
        connection: ConnectionId,
    },
    WriteDrained {
        connection: ConnectionId,
    },
    ConnectFailed {
        token: u64,
        error: io::ErrorKind,
    },
}

/// From a worker to the network thread that owns the connection.
#[derive(Debug)]
pub enum FromWorker {
    Write {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    Close {
        connection: ConnectionId,
        flush: bool,
    },
    PauseReading {
        connection: ConnectionId,
    },
    ResumeReading {
        connection: ConnectionId,
    },
    Connect {
        network_thread: u16,
        address: SocketAddr,
        kind: ConnectionKind,
        token: u64,
    },
    Recycle {
        network_thread: u16,
        bytes: Vec<u8>,
    },
    AcknowledgeClosed {
        connection: ConnectionId,
    },
}

impl FromWorker {
    /// The network thread this is for.
    pub fn network_thread(&self) -> u16 {
        match self {
            Self::Write { connection, .. }
            | Self::Close { connection, .. }
            | Self::PauseReading { connection }
            | Self::ResumeReading { connection }
            | Self::AcknowledgeClosed { connection } => connection.network_thread,
            Self::Connect { network_thread, .. } | Self::Recycle { network_thread, .. } => *network_thread,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct PipelineConfig {
    pub workers_count: usize,
    /// Items a ring holds, in each direction.
    pub ring_items_max: usize,
    /// Memory of the chunks one ring to a worker may hold.
    pub ring_bytes_max: u64,
}

/// Joins every network thread, named by its waker, with every worker.
///
/// Panics: with more than 64 workers or 65,536 network threads: a configuration is checked before it comes here.
pub fn build(network_wakers: &[LoopWaker], config: PipelineConfig) -> (Vec<NetworkPort>, Vec<WorkerPort>) {
    let mut workers: Vec<_> = (0..config.workers_count).map(|_| WorkerPort::new()).collect();
    let mut networks = Vec::with_capacity(network_wakers.len());
    for (index, network_waker) in (0_u16..=u16::MAX).zip(network_wakers) {
        let network_flag = SleepFlag::new();
        let (senders, inbox) = notify::mesh(config.workers_count, config.ring_items_max, &network_flag);
        let mut network = NetworkPort::new(index, inbox, network_flag, config.ring_bytes_max);
        for (worker, sender) in workers.iter_mut().zip(senders) {
            let (ring, ring_consumer) = spsc::channel(config.ring_items_max);
            let shared = Arc::new(Link::default());
            network.add_link(ring, Arc::clone(&shared), worker.waker());
            worker.add_link(ring_consumer, sender, shared, network_waker.clone());
        }
        networks.push(network);
    }
    assert_eq!(networks.len(), network_wakers.len());
    (networks, workers)
}

/// What both ends of one (network thread, worker) pair see beside the rings.
#[derive(Debug, Default)]
struct Link {
    /// Capacity of all chunks the worker has taken from its ring so far.
    bytes_taken: AtomicU64,
    /// Bytes to be written that the network thread has taken so far.
    writes_taken: AtomicU64,
    /// "Sleeps" while the network thread waits for room in the ring to the worker.
    network_waits: SleepFlag,
    /// "Sleeps" while the worker waits for room in the ring to the network thread.
    worker_waits: SleepFlag,
}
