//! One run: a cluster, its clients, what goes wrong, and everything that is checked while it goes on.
//!
//! Previous in the flow: `lib`, which gives the seed. Next: `cluster`, `client`, `network` for what happens;
//! `checker` and `tree` for what must hold at the end.
//!
//! A run has three phases. Work: scripts and faults. Drain: all is repaired, what is under way must end.
//! Verify: scripts read what was acknowledged, then replicas must come to rest with equal states.
//!
//! Checked all the time: one leader a term; equal states at equal indexes; no partition out of service; no
//! node that cannot start from its own disks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bark_client::session::{Session, SessionConfig, Topology};
use bark_core::partition::SnapshotConfig;
use bark_core::worker::Durability;
use bark_core::worker::event::Effect;
use bark_core::worker::gateway::Reach;
use bark_schema::codec;
use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::message::ServerMessage;
use bark_schema::operation::NodeStatus;

use crate::bytes as file_bytes;
use crate::checker;
use crate::client::{Client, Phase, Stage};
use crate::cluster::{Answer, Node, Shape, Stop};
use crate::fault::{Fault, Mix};
use crate::files::{self, SharedTree};
use crate::keys::{self, History};
use crate::network::{Lane, Network, PeerLinkId};
use crate::world::{Event, World};
use crate::{Counts, Options, Planted, Report};

const AUDIT_INTERVAL_US: u64 = 200_000;
/// After the repair, everything under way ends within this time, and so does every check.
const REST_US_MAX: u64 = 60_000_000;
/// A node that could not start tries again, with more space or other disks.
const START_AGAIN_US: u64 = 300_000;
/// Long enough for everything acknowledged meanwhile to be synced elsewhere.
const POWER_LOSS_PAUSE_US: u64 = 1_500_000;
const RECONNECT_US: (u64, u64) = (50_000, 1_000_000);

mod audit;
mod faults;
mod links;

pub struct Simulation {
    world: World,
    planted: Planted,
    shape: Shape,
    nodes: Vec<Node>,
    network: Network,
    clients: Vec<Client>,
    reaches: Vec<Reach>,
    stage: Rc<Stage>,
    history: History,
    mix: Mix,
    work_until_us: u64,
    healed_at_us: u64,
    suspends: u64,
    leaders: BTreeMap<(PartitionId, u64), u16>,
    /// State hash by partition and applied count, and who had it first.
    hashes: BTreeMap<(PartitionId, u64), (u64, u16)>,
    peer_pauses: BTreeMap<PeerLinkId, u64>,
    /// At level `memory`, powers go one by one.
    next_power_loss_us: u64,
    storm: Option<Storm>,
}

/// A leader is cut off so that another is elected in a term above its own.
struct Storm {
    partition: PartitionId,
    old_leader: u16,
    term: u64,
}

impl Simulation {
    pub fn new(seed: u64, options: &Options) -> Simulation {
        let mut world = World::new(seed, options.trace);
        let nodes = if world.random.chance(4) { 5 } else { 3 };
        let workers = 1 + world.random.below(2) as u16;
        let partitions = 3 + world.random.below(4) as u16;
        let placement = (0..partitions)
            .map(|partition| {
                (0..3)
                    .map(|copy| NodeNumber((partition + copy) % nodes + 1))
                    .collect()
            })
            .collect();
        let status = |number: u16| NodeStatus {
            number: NodeNumber(number),
            id: format!("node-{number}"),
            capnp: String::new(),
            resp: String::new(),
            http: String::new(),
            zone: String::new(),
            reachable: false,
        };
        let shape = Shape {
            nodes,
            workers,
            partitions,
            placement: Arc::new(placement),
            snapshots: snapshots(&mut world),
            durability: match world.random.chance(6) {
                true => Durability::Memory,
                false => Durability::Disk,
            },
            statuses: Arc::new((1..=nodes).map(status).collect()),
        };
        let mut mix = Mix::draw(&mut world);
        if shape.durability == Durability::Memory {
            // What is in memory only has two copies: losing both within moments is beyond the promise.
            mix.disks = false;
            mix.damage = false;
        }
        let mut network = Network::default();
        network.delay_us = (50, world.between(200, 3_000));
        if world.random.chance(8) {
            network.delay_us = (2_000, 20_000);
        }
        let sync_us = (50, world.between(100, 8_000));
        let work_until_us = world.between(6_000_000, 12_000_000);
        let stage = Rc::new(Stage {
            phase: Cell::new(Phase::Work),
            failure: RefCell::default(),
            damaged: Cell::default(),
            counts: Cell::default(),
        });
        let mut simulation = Simulation {
            planted: options.planted,
            nodes: (1..=nodes).map(|number| Node::new(number, sync_us)).collect(),
            shape,
            network,
            clients: Vec::new(),
            reaches: Vec::new(),
            stage,
            history: History::default(),
            mix,
            work_until_us,
            healed_at_us: 0,
            suspends: world.random.below(3),
            leaders: BTreeMap::new(),
            hashes: BTreeMap::new(),
            peer_pauses: BTreeMap::new(),
            next_power_loss_us: 0,
            storm: None,
            world,
        };
        simulation.add_clients();
        simulation
    }

    fn add_clients(&mut self) {
        let key_clients = 2 + self.world.random.below(3);
        let shared = Rc::new(RefCell::new(SharedTree::default()));
        let file_clients = 1 + self.world.random.below(2);
        let crowd = self.world.random.below(3);
        let key_space = keys::KeySpace::draw(&mut self.world, self.shape.partitions);
        for index in 0..key_clients + file_clients + crowd {
            let mut nodes: Vec<NodeNumber> = (1..=self.shape.nodes).map(NodeNumber).collect();
            nodes.rotate_left(self.world.random.below(u64::from(self.shape.nodes)) as usize);
            let topology = Topology {
                nodes,
                replicas: self.shape.placement.to_vec(),
            };
            let config = SessionConfig::new(ClientId(1000 + index), self.world.random.next_u64());
            let mut client = Client::new(Session::new(config, topology), self.stage.clone());
            let port = client.port.clone();
            let random = bark_core::random::Random::new(self.world.random.next_u64());
            let number = index as usize;
            if index < key_clients {
                let lanes = 1 + self.world.random.below(3);
                for lane in 0..lanes {
                    let random = bark_core::random::Random::new(self.world.random.next_u64());
                    let work = keys::work(
                        port.clone(),
                        random,
                        key_space.clone(),
                        self.history.clone(),
                        number,
                    );
                    client.run(work);
                    if lane == 0 {
                        let random = bark_core::random::Random::new(self.world.random.next_u64());
                        // Only where all clocks agree can be said when a key must be gone.
                        let exact = !self.mix.clocks;
                        client.run(keys::fleeting(
                            port.clone(),
                            random,
                            key_space.clone(),
                            self.history.clone(),
                            (number, exact),
                        ));
                        client.run(keys::pairs(
                            port.clone(),
                            key_space.clone(),
                            self.history.clone(),
                            number,
                        ));
                    }
                }
            } else if index < key_clients + file_clients {
                let bytes_random = bark_core::random::Random::new(self.world.random.next_u64());
                let nodes = self.shape.nodes;
                client.run(file_bytes::work(port.clone(), bytes_random, number, nodes));
                client.run(files::private(
                    port,
                    random,
                    number,
                    self.shape.partitions,
                    self.shape.nodes,
                ));
            } else {
                client.run(files::crowd(port, random, shared.clone()));
            }
            // Some clients let the node forward, as simple clients do.
            let reach = if self.world.random.chance(3) {
                Reach::Cluster
            } else {
                Reach::Here
            };
            self.clients.push(client);
            self.reaches.push(reach);
            self.world
                .at(10_000 * index, Event::ClientTick { client: number });
        }
    }

    pub fn run(mut self) -> Report {
        for node in 1..=self.shape.nodes {
            self.world.at(0, Event::Start { node });
        }
        self.world.at(self.work_until_us, Event::Fault(Fault::Heal));
        self.world.at(500_000, Event::Fault(Fault::Next));
        self.world.at(AUDIT_INTERVAL_US, Event::Audit);
        let mut finished = false;
        while !finished {
            if let Some(reason) = self.stage.failure.borrow().clone() {
                return self.report(Some(reason));
            }
            let Some(event) = self.world.next_event() else {
                return self.report(Some("nothing happens any more".to_string()));
            };
            finished = self.happen(event);
        }
        let reason = self
            .stage
            .failure
            .borrow()
            .clone()
            .or_else(|| checker::check(&self.history.borrow()).err());
        self.report(reason)
    }

    fn report(&self, failure: Option<String>) -> Report {
        Report {
            failure,
            trace: self.world.trace.hash,
            events: self.world.trace.events,
            virtual_us: self.world.now_us,
            operations: self.history.borrow().len() as u64,
            counts: self.counts(),
            shape: format!(
                "{} nodes, {} workers, {} partitions, durability {:?}, {:?}",
                self.shape.nodes, self.shape.workers, self.shape.partitions, self.shape.durability, self.mix
            ),
        }
    }

    fn counts(&self) -> Counts {
        let history = self.history.borrow();
        let expired = |operation: &&checker::Operation| {
            keys::is_fleeting(&operation.key)
                && matches!(operation.action, checker::Action::Get { found: None })
        };
        let nodes: Counts = self.nodes.iter().map(Node::counts).sum();
        let of_run = Counts {
            expired_reads: history.iter().filter(expired).count() as u64,
            ..self.stage.counts.get()
        };
        nodes + of_run
    }

    fn node(&mut self, number: u16) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    fn is_alive(&self, node: u16, life: u64) -> bool {
        let node = &self.nodes[usize::from(node) - 1];
        node.life == life && node.running.is_some()
    }

    /// Carries out one event; true when the run is over.
    fn happen(&mut self, event: Event) -> bool {
        if let Some(later) = self.postpone_if_paused(&event) {
            self.world.at(later, event);
            return false;
        }
        match event {
            Event::Turn { node, worker, life } => {
                if self.is_alive(node, life) {
                    if let Some(cell) = self.node(node).cell(worker) {
                        cell.turn_scheduled = false;
                    }
                    self.turn(node, worker);
                }
            }
            Event::Timer { node, worker, life } => {
                if self.is_alive(node, life) {
                    let world_now_us = self.world.now_us;
                    let due = self
                        .node(node)
                        .cell(worker)
                        .is_some_and(|cell| cell.timer_at_us <= world_now_us);
                    if due {
                        let Simulation { nodes, world, .. } = self;
                        nodes[usize::from(node) - 1].poke(world, worker);
                    }
                }
            }
            Event::LogDone { node, life } => {
                if self.is_alive(node, life) {
                    let Simulation {
                        nodes,
                        world,
                        planted,
                        ..
                    } = self;
                    let result = nodes[usize::from(node) - 1].log_done(world, *planted);
                    self.stop_if(node, result);
                }
            }
            Event::LogRetry { node, life } => {
                if self.is_alive(node, life) {
                    let Simulation {
                        nodes,
                        world,
                        planted,
                        ..
                    } = self;
                    let result = nodes[usize::from(node) - 1].log_retry(world, *planted);
                    self.stop_if(node, result);
                }
            }
            Event::StorageDone { node, life } => {
                if self.is_alive(node, life) {
                    let Simulation { nodes, world, .. } = self;
                    let result = nodes[usize::from(node) - 1].storage_done(world);
                    self.stop_if(node, result);
                }
            }
            Event::Start { node } => self.start(node),
            Event::PeerConnect { link, life } => self.peer_connect(link, life),
            Event::PeerBytes {
                connection,
                lane,
                bytes,
            } => self.peer_bytes(connection, lane, &bytes),
            Event::PeerLost { connection } => self.peer_lost(connection),
            Event::ClientConnect { link } => self.client_connect(link),
            Event::ClientBytes { connection, bytes } => self.client_bytes(connection, &bytes),
            Event::ServerBytes { connection, bytes } => self.server_bytes(connection, &bytes),
            Event::ClientLost { connection } => self.client_lost(connection),
            Event::ClientTick { client } => {
                if self.clients[client].tick_at_us <= self.world.now_us {
                    self.pump(client);
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Audit => return self.audit(),
        }
        false
    }

    fn postpone_if_paused(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Turn { node, .. }
            | Event::LogDone { node, .. }
            | Event::LogRetry { node, .. }
            | Event::StorageDone { node, .. } => *node,
            _ => return None,
        };
        let until_us = self.nodes[usize::from(node) - 1].paused_until_us;
        (until_us > self.world.now_us).then_some(until_us)
    }

    fn start(&mut self, number: u16) {
        let Simulation {
            nodes,
            world,
            shape,
            planted,
            ..
        } = self;
        let node = &mut nodes[usize::from(number) - 1];
        if node.running.is_some() {
            return;
        }
        if let Err(stop) = node.start(world, shape, *planted) {
            match stop {
                // No space even to recover: somebody must make room first.
                Stop::Disk => world.after(START_AGAIN_US, Event::Start { node: number }),
                Stop::Replaced(reason) => {
                    world.say(|| format!("node {number} is replaced: {reason}"));
                    world.after(START_AGAIN_US, Event::Start { node: number });
                }
                Stop::Defect(reason) => self.stage.fail(reason),
            }
            return;
        }
        world.say(|| format!("node {number} starts"));
        let life = node.life;
        for worker in 0..shape.workers {
            for to in (1..=shape.nodes).filter(|to| *to != number) {
                let link = PeerLinkId {
                    from: number,
                    worker,
                    to,
                };
                let delay = world.between(500, 5_000);
                self.peer_pauses.insert(link, RECONNECT_US.0);
                world.after(delay, Event::PeerConnect { link, life });
            }
        }
    }

    fn stop_if(&mut self, node: u16, result: Result<(), Stop>) {
        match result {
            Ok(()) => {}
            Err(Stop::Disk) => {
                let down_us = self.world.between(10_000, 1_500_000);
                self.stop(node, true, down_us);
            }
            Err(Stop::Defect(reason) | Stop::Replaced(reason)) => self.stage.fail(reason),
        }
    }

    /// The node ends and comes back later; its connections break.
    fn stop(&mut self, number: u16, power_lost: bool, down_us: u64) {
        let Simulation {
            nodes,
            world,
            network,
            shape,
            next_power_loss_us,
            ..
        } = self;
        let node = &mut nodes[usize::from(number) - 1];
        if node.running.is_none() {
            return;
        }
        let is_too_soon = shape.durability == Durability::Memory && world.now_us < *next_power_loss_us;
        let power_lost = power_lost && !is_too_soon;
        if power_lost {
            *next_power_loss_us = world.now_us + POWER_LOSS_PAUSE_US;
        }
        world.say(|| format!("node {number} stops, power lost: {power_lost}, back in {down_us} us"));
        node.stop(world, power_lost);
        network.peer_links.retain(|link, _| link.from != number);
        let (peers, clients) = network.connections_of(number);
        // A process that dies resets its connections at once; a machine without power is missed later.
        let notice = if power_lost {
            world.between(1_000, 500_000)
        } else {
            2_000
        };
        for id in peers {
            network.reset_peer(world, id, notice);
        }
        for id in clients {
            network.reset_client(world, id);
        }
        world.after(down_us, Event::Start { node: number });
    }

    fn turn(&mut self, number: u16, worker: u16) {
        let (mut sends, mut answers) = (Vec::new(), Vec::new());
        let Simulation {
            nodes,
            world,
            planted,
            ..
        } = self;
        let result = nodes[usize::from(number) - 1].turn(world, worker, *planted, &mut sends, &mut answers);
        if let Err(stop) = result {
            // The power went while the batch was being written: nothing of this turn left the node.
            return self.stop_if(number, Err(stop));
        }
        self.note_leaders(number, worker);
        self.send_all(number, worker, sends);
        self.answer_all(answers);
    }

    fn send_all(&mut self, from: u16, worker: u16, sends: Vec<Effect>) {
        let mut bytes: BTreeMap<(u16, bool), Vec<u8>> = BTreeMap::new();
        for effect in sends {
            if let Effect::Send { to, bulk, message } = effect {
                self.world
                    .say(|| format!("node {from}.{worker} -> {}: {message:?}", to.0));
                codec::encode_peer(&message, bytes.entry((to.0, bulk)).or_default());
            }
        }
        for ((to, bulk), bytes) in bytes {
            self.world.trace.mix_bytes(&bytes);
            let lane = if bulk { Lane::Bulk } else { Lane::Control };
            self.network
                .send_peer(&mut self.world, PeerLinkId { from, worker, to }, lane, bytes);
        }
    }

    fn answer_all(&mut self, answers: Vec<Answer>) {
        for (connection, id, result) in answers {
            let mut bytes = Vec::new();
            codec::encode_server(&ServerMessage::Reply { id, result }, &mut bytes);
            self.world.trace.mix_bytes(&bytes);
            self.network.send_down(&mut self.world, connection, bytes);
        }
    }
}

/// Mostly small intervals, so that snapshots are taken, loaded and sent all the time.
fn snapshots(world: &mut World) -> SnapshotConfig {
    let usual = SnapshotConfig::default();
    if world.random.chance(4) {
        return usual;
    }
    SnapshotConfig {
        interval_entries: world.between(5, 300),
        interval_us: world.between(500_000, 20_000_000),
        pause_us_min: world.between(10_000, 1_000_000),
        chunk_size_bytes: 1 << world.between(9, 15),
        tail_entries_max: world.random.below(3) * world.random.below(60),
        ..usual
    }
}
