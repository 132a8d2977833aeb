//! One multiplexed connection to one node, made when there is something to send.
//!
//! Previous in the flow: `client`, whose session says what goes to which node. Next: the node.
//! A small request leaves on the thread that makes it, as long as nothing waits to be written: waking the
//! connection's task would cost more than the request. What finds no room, and what is large, the task
//! writes, several requests to one write; replies come back in any order.
//!
//! Invariants:
//! - Every request handed over is answered, reported unsent, or covered by a reported disconnect.
//! - A node that cannot be reached is tried again with growing pauses; what comes meanwhile is unsent at once.
//! - Only whole frames are decoded, none above FRAME_SIZE_PEER_MAX. What is in flight is bounded in bytes by the
//!   caller's budget, not here.
//! - A request the node would end the connection on, because of its size, is refused here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bark_schema::cluster_file::VNODES_MAX;
use bark_schema::codec;
use bark_schema::frame::FrameDecoder;
use bark_schema::ids::NodeNumber;
use bark_schema::limits::{
    FRAME_ENVELOPE_MAX, FRAME_SIZE_MAX, FRAME_SIZE_PEER_MAX, KIB, MIB, WRITE_SIZE_MAX,
};
use bark_schema::message::{ClientMessage, PREAMBLE_CLIENT, PROTOCOL_VERSION, ServerMessage, Welcome};
use bark_schema::operation::{Failure, Refusal};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::Shared;
use crate::session::Outgoing;

/// For TCP and the login together; a node that is up answers in a millisecond.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Requests are gathered into one write up to this size.
const WRITE_SIZE: usize = 256 * KIB;
const READ_SIZE: usize = 256 * KIB;
/// Requests with more of the user's bytes than this are left to the connection's task: those that carry blocks.
const DIRECT_BULK_MAX: usize = WRITE_SIZE_MAX;
/// While so much of a reply is here, or more, the node is known to be at it.
const PROGRESS_SIZE_MIN: usize = MIB;
/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Why a connection could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no answer within {} ms", OPEN_TIMEOUT.as_millis())]
    Silent,
    #[error("closed by the node")]
    Closed,
    #[error("not a BarkFS node, or of another version: {0}")]
    Malformed(String),
    #[error("login refused: {0}")]
    Refused(Failure),
    #[error("a node of the cluster {found:?}, not of {expected:?}")]
    OtherCluster { found: String, expected: String },
}

/// What is said and expected at a login.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) token: Bytes,
    /// The cluster's name, as soon as it is known: a node of another one would answer as if it had our data.
    pub(crate) cluster: Option<String>,
}

/// A logged-in stream, with what was received beyond the welcome.
pub(crate) struct Established {
    stream: TcpStream,
    decoder: FrameDecoder,
    /// Largest request the node takes.
    request_size_max: usize,
}

/// Connects and logs in.
pub(crate) async fn open(address: &str, login: &Login) -> Result<(Established, Welcome), ConnectionError> {
    match timeout(OPEN_TIMEOUT, log_in(address, login)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectionError::Silent),
    }
}

async fn log_in(address: &str, login: &Login) -> Result<(Established, Welcome), ConnectionError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut greeting = PREAMBLE_CLIENT.to_vec();
    let message = ClientMessage::Login {
        version: PROTOCOL_VERSION,
        token: login.token.clone(),
    };
    codec::encode_client(&message, &mut greeting);
    stream.write_all(&greeting).await?;
    let mut decoder = FrameDecoder::new(FRAME_SIZE_MAX);
    let mut chunk = vec![0; READ_SIZE];
    loop {
        if let Some(message) = next_message(&mut decoder)? {
            return match message {
                ServerMessage::Welcome(Ok(welcome)) => {
                    check(&welcome, login)?;
                    decoder.set_limit(FRAME_SIZE_PEER_MAX);
                    let established = Established {
                        stream,
                        decoder,
                        request_size_max: request_size_max(&welcome),
                    };
                    Ok((established, welcome))
                }
                ServerMessage::Welcome(Err(failure)) => Err(ConnectionError::Refused(failure)),
                ServerMessage::Reply { .. } => {
                    Err(ConnectionError::Malformed("a reply before the welcome".into()))
                }
            };
        }
        let size = stream.read(&mut chunk).await?;
        if size == 0 {
            return Err(ConnectionError::Closed);
        }
        decoder.push(&chunk[..size]);
    }
}

/// A welcome comes from outside: what placement is computed from must be within bounds.
fn check(welcome: &Welcome, login: &Login) -> Result<(), ConnectionError> {
    if let Some(expected) = login.cluster.as_ref().filter(|name| **name != welcome.cluster) {
        return Err(ConnectionError::OtherCluster {
            found: welcome.cluster.clone(),
            expected: expected.clone(),
        });
    }
    let sound = welcome.version == PROTOCOL_VERSION
        && welcome.partition_count > 0
        && welcome.replicas > 0
        && (1..=VNODES_MAX).contains(&welcome.vnodes)
        && welcome.nodes.iter().any(|node| node.number == welcome.node);
    match sound {
        true => Ok(()),
        false => Err(ConnectionError::Malformed(format!(
            "protocol {}, {} partitions, {} replicas, {} vnodes",
            welcome.version, welcome.partition_count, welcome.replicas, welcome.vnodes
        ))),
    }
}

/// One value of the largest size and its envelope, or one block and its.
fn request_size_max(welcome: &Welcome) -> usize {
    match welcome.value_size_max {
        0 => FRAME_SIZE_PEER_MAX,
        said => (said as usize + FRAME_ENVELOPE_MAX).clamp(FRAME_SIZE_MAX, FRAME_SIZE_PEER_MAX),
    }
}

fn next_message(decoder: &mut FrameDecoder) -> Result<Option<ServerMessage>, ConnectionError> {
    let malformed = |reason: String| ConnectionError::Malformed(reason);
    match decoder.next() {
        Err(error) => Err(malformed(error.to_string())),
        Ok(None) => Ok(None),
        Ok(Some(frame)) => codec::decode_server(&frame)
            .map(Some)
            .map_err(|error| malformed(error.to_string())),
    }
}

/// Where requests for one node are handed over.
#[derive(Debug)]
pub(crate) struct Connection {
    outbox: mpsc::UnboundedSender<Handed>,
    direct: Arc<Direct>,
}

/// What the connection's task has to write, in order.
#[derive(Debug)]
enum Handed {
    Request(Outgoing),
    /// The end of a request whose begin may have left already. There is none for another connection.
    Rest(Vec<u8>),
    /// Nothing to write: the request is to be answered so.
    Refused(u64, Failure),
}

/// The way to the socket past the task.
#[derive(Debug, Default)]
struct Direct {
    open: Mutex<Option<OpenWay>>,
}

/// There is a connection, and the task has nothing to write.
#[derive(Debug)]
struct OpenWay {
    stream: Arc<TcpStream>,
    request_size_max: usize,
    buffer: Vec<u8>,
}

impl Direct {
    /// Opens the way, if nothing came for the task meanwhile.
    fn open_if(&self, is_idle: impl FnOnce() -> bool, stream: &Arc<TcpStream>, request_size_max: usize) {
        let mut open = self.lock();
        if is_idle() {
            *open = Some(OpenWay {
                stream: stream.clone(),
                request_size_max,
                buffer: Vec::new(),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenWay>> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenWay {
    /// Sends a small request at once. What the task must do instead, if anything.
    fn send(&mut self, outgoing: Outgoing) -> Option<Handed> {
        if outgoing.bulk_bytes() > DIRECT_BULK_MAX {
            return Some(Handed::Request(outgoing));
        }
        self.buffer.clear();
        let frame_id = outgoing.frame_id;
        if let Err(failure) = encode(outgoing, &mut self.buffer, self.request_size_max) {
            return Some(Handed::Refused(frame_id, failure));
        }
        // An error is met again by the task, which knows what to do then.
        let written = self.stream.try_write(&self.buffer).unwrap_or(0);
        (written < self.buffer.len()).then(|| Handed::Rest(self.buffer.split_off(written)))
    }
}

impl Connection {
    /// Starts the connection's task. It ends when the client is dropped.
    pub(crate) fn start(
        node: NodeNumber,
        address: String,
        login: Login,
        shared: Weak<Shared>,
        established: Option<Established>,
    ) -> Connection {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let direct = Arc::new(Direct::default());
        let task = ConnectionTask {
            node,
            address,
            login,
            shared,
            inbox,
            direct: direct.clone(),
        };
        tokio::spawn(task.run(established));
        Connection { outbox, direct }
    }

    /// Hands a request over.
    pub(crate) fn send(&self, outgoing: Outgoing) -> Handover {
        let mut direct = self.direct.lock();
        let handed = match direct.as_mut() {
            None => Handed::Request(outgoing),
            Some(open) => match open.send(outgoing) {
                None => return Handover::Written,
                Some(handed) => handed,
            },
        };
        // What comes next goes behind it, until the task has written everything.
        *direct = None;
        match self.outbox.send(handed) {
            Ok(()) => Handover::Queued,
            Err(_) => Handover::Refused,
        }
    }
}

/// What became of a request that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    /// The kernel has it, and sends it whatever becomes of this process.
    Written,
    Queued,
    /// The connection's task has ended.
    Refused,
}

struct ConnectionTask {
    node: NodeNumber,
    address: String,
    login: Login,
    shared: Weak<Shared>,
    inbox: mpsc::UnboundedReceiver<Handed>,
    direct: Arc<Direct>,
}

impl ConnectionTask {
    async fn run(mut self, mut established: Option<Established>) {
        let mut pause = PAUSE_MIN;
        loop {
            let mut first = None;
            if established.is_none() {
                let Some(handed) = self.inbox.recv().await else {
                    return;
                };
                match open(&self.address, &self.login).await {
                    Ok((opened, _)) => {
                        first = Some(handed);
                        established = Some(opened);
                    }
                    Err(error) => {
                        tracing::debug!(node = self.node.0, address = self.address, %error, "cannot connect");
                        self.unsent(&handed);
                        if !self.refuse_during(pause).await {
                            return;
                        }
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                }
            }
            let Some(established) = established.take() else {
                continue;
            };
            pause = PAUSE_MIN;
            let served = self.serve(established, first).await;
            *self.direct.lock() = None;
            match served {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(node = self.node.0, address = self.address, %error, "connection ended");
                    while let Ok(handed) = self.inbox.try_recv() {
                        self.unsent(&handed);
                    }
                    let Some(shared) = self.shared.upgrade() else {
                        return;
                    };
                    shared.on_disconnect(self.node);
                }
            }
        }
    }

    /// Both directions until one breaks; `Ok` when the client is gone.
    async fn serve(
        &mut self,
        established: Established,
        first: Option<Handed>,
    ) -> Result<(), ConnectionError> {
        let Established {
            stream,
            mut decoder,
            request_size_max,
        } = established;
        let stream = Arc::new(stream);
        let (node, shared) = (self.node, self.shared.clone());
        let (inbox, direct) = (&mut self.inbox, &self.direct);
        let append = |handed, bytes: &mut Vec<u8>| {
            let (frame_id, failure) = match handed {
                Handed::Rest(rest) => return bytes.extend_from_slice(&rest),
                Handed::Refused(frame_id, failure) => (frame_id, failure),
                Handed::Request(outgoing) => {
                    let frame_id = outgoing.frame_id;
                    match encode(outgoing, bytes, request_size_max) {
                        Ok(()) => return,
                        Err(failure) => (frame_id, failure),
                    }
                }
            };
            if let Some(shared) = self.shared.upgrade() {
                shared.on_reply(node, frame_id, Err(failure));
            }
        };
        let write = async {
            let mut bytes = Vec::new();
            let mut next = first;
            loop {
                let handed = match next.take() {
                    Some(handed) => Some(handed),
                    None => {
                        direct.open_if(|| inbox.is_empty(), &stream, request_size_max);
                        inbox.recv().await
                    }
                };
                let Some(handed) = handed else {
                    return Ok(());
                };
                bytes.clear();
                append(handed, &mut bytes);
                while bytes.len() < WRITE_SIZE
                    && let Ok(handed) = inbox.try_recv()
                {
                    append(handed, &mut bytes);
                }
                write_all(&stream, &bytes).await?;
                bytes.shrink_to(WRITE_SIZE);
            }
        };
        let read = async {
            let mut chunk = vec![0; READ_SIZE];
            let mut told = Instant::now();
            loop {
                while let Some(message) = next_message(&mut decoder)? {
                    let ServerMessage::Reply { id, result } = message else {
                        return Err(ConnectionError::Malformed("a second welcome".into()));
                    };
                    match shared.upgrade() {
                        Some(shared) => shared.on_reply(node, id, result),
                        None => return Ok(()),
                    }
                }
                stream.readable().await?;
                let size = match stream.try_read(&mut chunk) {
                    Ok(0) => return Err(ConnectionError::Closed),
                    Ok(size) => size,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error.into()),
                };
                decoder.push(&chunk[..size]);
                if decoder.buffered_bytes() >= PROGRESS_SIZE_MIN && told.elapsed() >= PROGRESS_INTERVAL {
                    told = Instant::now();
                    if let Some(shared) = shared.upgrade() {
                        shared.on_progress(node);
                    }
                }
            }
        };
        tokio::select! {
            result = write => result,
            result = read => result,
        }
    }

    /// Lets a pause go by, refusing what is handed over meanwhile; false when the client is gone.
    async fn refuse_during(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return true,
                handed = self.inbox.recv() => match handed {
                    Some(handed) => self.unsent(&handed),
                    None => return false,
                },
            }
        }
    }

    fn unsent(&self, handed: &Handed) {
        let frame_id = match handed {
            Handed::Request(outgoing) => outgoing.frame_id,
            Handed::Refused(frame_id, _) => *frame_id,
            // What has begun to leave ends with its connection, which is reported.
            Handed::Rest(_) => return,
        };
        if let Some(shared) = self.shared.upgrade() {
            shared.on_unsent(self.node, frame_id);
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(size) => bytes = &bytes[size..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Appends the request, or refuses it for its size.
fn encode(outgoing: Outgoing, bytes: &mut Vec<u8>, size_max: usize) -> Result<(), Failure> {
    let start = bytes.len();
    let message = ClientMessage::Request {
        id: outgoing.frame_id,
        deadline_ms: outgoing.deadline_ms,
        request: outgoing.request,
    };
    codec::encode_client(&message, bytes);
    let size = bytes.len() - start;
    if size <= size_max {
        return Ok(());
    }
    bytes.truncate(start);
    let sentence = format!("a request of {size} bytes, this node takes at most {size_max}");
    Err(Failure::refused(Refusal::FileTooLarge, sentence))
}
