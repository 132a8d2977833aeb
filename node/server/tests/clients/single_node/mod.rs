//! A cluster of one in the test's own thread: a real worker, its turns driven by hand, blocks in memory,
//! and connections whose two ends are buffers.

// Each test program uses its part.
#![allow(dead_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bark_core::partition::{Partition, SnapshotConfig, Start};
use bark_core::random::Random;
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input, StorageEvent, StorageRequest};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_node::protocol::capnp_port::CapnpPort;
use bark_node::protocol::wire::{DirtyWires, WireId};
use bark_node::protocol::{Context, Protocol, Settings, Wire};
use bark_schema::cluster_file;
use bark_schema::generated::client_capnp::bark;
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::operation::{Failure, Refusal, Reply};
use bytes::Bytes;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::{AsyncRead, AsyncWrite};

const PARTITIONS: u16 = 4;
const CLUSTER: &str = r#"
[cluster]
name = "test"
replicas = 1
partitions = 4
durability = "none"

[[node]]
id = "node-1"
capnp = "127.0.0.1:7111"
resp = "127.0.0.1:7112"
http = "127.0.0.1:7113"
"#;
/// As a network thread would: above this the wire is blocked.
const UNSENT_MAX: usize = 1 << 20;
const NODE: NodeNumber = NodeNumber(1);

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    waker: Option<Waker>,
    closed: bool,
}

/// The client's end.
#[derive(Clone, Default)]
pub struct ClientEnd {
    to_node: Rc<RefCell<Pipe>>,
    from_node: Rc<RefCell<Pipe>>,
    /// The client has stopped reading.
    stalled: Rc<Cell<bool>>,
}

struct Open {
    wire: Wire,
    port: CapnpPort,
    end: ClientEnd,
    reading_paused: bool,
}

pub struct SingleNode {
    worker: Worker,
    now: Now,
    inputs: Vec<Input>,
    dirty: DirtyWires,
    blocks: HashMap<BlockId, Bytes>,
    connections: BTreeMap<WireId, Open>,
    connections_made: u64,
    pub context: Context,
}

impl SingleNode {
    pub fn start() -> SingleNode {
        let config = WorkerConfig {
            cluster: "test".to_string(),
            node: NODE,
            worker: 0,
            worker_count: 1,
            partition_count: PARTITIONS,
            replicas: 1,
            durability: Durability::None,
            nodes: Arc::new(Vec::new()),
            placement: Arc::new(vec![vec![NODE]; usize::from(PARTITIONS)]),
            ring: Arc::default(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: SnapshotConfig::default(),
        };
        let now = Now {
            monotonic_us: 1_000_000,
            unix_ns: 1_700_000_000_000_000_000,
        };
        let partitions = (0..PARTITIONS).map(|number| {
            let id = PartitionId(number);
            let start = Start::new(id, PARTITIONS, vec![NODE]);
            let random = Random::new(u64::from(number) + 1);
            Partition::open(id, NODE, start, SnapshotConfig::default(), random, now).expect("opens")
        });
        let worker = Worker::new(config, partitions.collect(), now, Random::new(7));
        let settings = Settings {
            version: "test",
            cluster: cluster_file::parse(CLUSTER).expect("a valid cluster file"),
            node: NODE,
            map_digest: 0,
            incarnation: 1,
            rejoining: Default::default(),
            log_position: Default::default(),
            members: Default::default(),
            value_size_max: 64 << 20,
            started_unix_s: 0,
        };
        let context = Context {
            gateway: worker.gateway(),
            settings: Arc::new(settings),
            frame_room: Default::default(),
            peer_inbox: Rc::default(),
            members_changed: Default::default(),
        };
        let mut node = SingleNode {
            worker,
            now,
            inputs: Vec::new(),
            dirty: DirtyWires::default(),
            blocks: HashMap::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            context,
        };
        // Leaders elect themselves.
        for _ in 0..20 {
            node.advance(100_000);
        }
        node
    }

    /// A new connection; what the client writes and reads goes through the end returned.
    pub fn connect(&mut self) -> ClientEnd {
        self.connections_made += 1;
        let id = WireId(self.connections_made);
        let wire = Wire::new(id, self.dirty.clone());
        let end = ClientEnd::default();
        let port = CapnpPort::new(&self.context, wire.clone());
        self.connections.insert(
            id,
            Open {
                wire,
                port,
                end: end.clone(),
                reading_paused: false,
            },
        );
        end
    }

    /// A capnp-rpc client on a connection of its own, run by the worker's executor.
    pub fn rpc_client(&mut self) -> (ClientEnd, bark::Client) {
        let end = self.connect();
        let network = twoparty::VatNetwork::new(
            end.clone(),
            end.clone(),
            Side::Client,
            capnp::message::ReaderOptions::new(),
        );
        let mut system = RpcSystem::new(Box::new(network), None);
        let client: bark::Client = system.bootstrap(Side::Server);
        self.context.gateway.spawn(async move {
            // How it ends is what the test looks at from the other side.
            let _ = system.await;
        });
        (end, client)
    }

    /// Runs the node until `future` is done, letting time pass when nothing else happens.
    pub fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        self.context.gateway.spawn(async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        for _ in 0..200_000 {
            if let Some(value) = slot.borrow_mut().take() {
                return value;
            }
            if !self.step() {
                self.advance(10_000);
            }
        }
        panic!("the future does not end");
    }

    /// Steps until nothing moves any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
    }

    pub fn advance(&mut self, duration_us: u64) {
        self.now.monotonic_us += duration_us;
        self.now.unix_ns += duration_us as i64 * 1000;
        self.step();
    }

    /// The client hangs up.
    pub fn disconnect(&mut self, end: &ClientEnd) {
        end.close();
        let closed = self
            .connections
            .iter()
            .find(|(_, open)| Rc::ptr_eq(&open.end.to_node, &end.to_node));
        if let Some(id) = closed.map(|(id, _)| *id) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: WireId) {
        if let Some(mut open) = self.connections.remove(&id) {
            open.wire.forget();
            open.port.closed();
        }
    }

    /// One turn with what surrounds it; true if anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = false;
        for open in self.connections.values_mut().filter(|open| !open.reading_paused) {
            let bytes: Vec<u8> = open.end.to_node.borrow_mut().bytes.drain(..).collect();
            if !bytes.is_empty() {
                moved = true;
                if open.port.receive(&bytes).is_err() {
                    open.wire.close();
                }
            }
        }
        let mut effects = Vec::new();
        self.worker.turn(self.now, &mut self.inputs, &mut effects);
        for effect in effects {
            if let Effect::Storage(request) = effect {
                moved |= self.store(request);
            }
        }
        moved |= self.dirty.take_woke();
        for open in self
            .connections
            .values_mut()
            .filter(|open| open.wire.is_blocked())
        {
            if open.end.from_node.borrow().bytes.len() < UNSENT_MAX {
                open.wire.set_blocked(false);
                moved = true;
            }
        }
        for wire in self.dirty.take() {
            let Some(open) = self.connections.get_mut(&wire.id()) else {
                continue;
            };
            let (sent, close) = open.flush();
            moved |= sent || close;
            if close {
                open.end.close();
                self.forget(wire.id());
            }
        }
        moved | self.dirty.take_woke()
    }

    fn store(&mut self, request: StorageRequest) -> bool {
        let (call, result) = match request {
            StorageRequest::BlockPut {
                call, block, data, ..
            } => {
                self.blocks.insert(block, data);
                (call, Ok(Reply::Stored { nodes: vec![NODE] }))
            }
            StorageRequest::BlockGet {
                call,
                block,
                offset,
                length,
            } => {
                let range = offset as usize..(offset + length) as usize;
                let found = self.blocks.get(&block).filter(|data| range.end <= data.len());
                let missing = Failure::refused(Refusal::NotFound, "no such block");
                (
                    call,
                    found.map(|data| Reply::Block(data.slice(range))).ok_or(missing),
                )
            }
            _ => return false,
        };
        self.inputs
            .push(Input::Storage(StorageEvent::Block { call, result }));
        true
    }
}

impl Open {
    /// Whether anything was sent, and whether the node ends the connection.
    fn flush(&mut self) -> (bool, bool) {
        let (bytes, close) = self.wire.take();
        let mut pipe = self.end.from_node.borrow_mut();
        pipe.bytes.extend(&bytes);
        pipe.wake();
        if pipe.bytes.len() > UNSENT_MAX && !self.wire.is_blocked() {
            self.wire.set_blocked(true);
        }
        if let Some(pause) = self.wire.take_pause_change() {
            self.reading_paused = pause;
        }
        (!bytes.is_empty(), close)
    }
}

impl ClientEnd {
    pub fn send(&self, bytes: &[u8]) {
        self.to_node.borrow_mut().bytes.extend(bytes);
    }

    /// From now on the client reads nothing.
    pub fn stall(&self) {
        self.stalled.set(true);
    }

    /// Everything the node sent so far.
    pub fn receive(&self) -> Vec<u8> {
        self.from_node.borrow_mut().bytes.drain(..).collect()
    }

    pub fn received_bytes(&self) -> usize {
        self.from_node.borrow().bytes.len()
    }

    pub fn unsent_bytes(&self) -> usize {
        self.to_node.borrow().bytes.len()
    }

    /// The node ended the connection.
    pub fn is_closed(&self) -> bool {
        self.from_node.borrow().closed
    }

    fn close(&self) {
        for pipe in [&self.to_node, &self.from_node] {
            let mut pipe = pipe.borrow_mut();
            pipe.closed = true;
            pipe.wake();
        }
    }
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for ClientEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.from_node.borrow_mut();
        if (pipe.bytes.is_empty() || self.stalled.get()) && !pipe.closed {
            pipe.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = out.len().min(pipe.bytes.len());
        for (place, byte) in out.iter_mut().zip(pipe.bytes.drain(..count)) {
            *place = byte;
        }
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for ClientEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
