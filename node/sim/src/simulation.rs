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
use bark_core::worker::event::{Effect, Input};
use bark_core::worker::gateway::Reach;
use bark_schema::codec;
use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::message::{ClientMessage, ServerMessage};
use bark_schema::operation::NodeStatus;
use bytes::Bytes;

use crate::bytes as file_bytes;
use crate::checker;
use crate::client::{Client, Link, Phase, Stage};
use crate::cluster::{Answer, Node, Shape, Stop};
use crate::fault::{Fault, Mix};
use crate::files::{self, SharedTree};
use crate::keys::{self, History};
use crate::ledger;
use crate::network::{ClientLinkId, ConnectionId, Lane, Network, PeerLinkId, client_place};
use crate::tree;
use crate::world::{Event, World};
use crate::{Options, Planted, Report};

const AUDIT_INTERVAL_US: u64 = 200_000;
/// After the repair, everything under way ends within this time, and so does every check.
const REST_US_MAX: u64 = 60_000_000;
const RECONNECT_US: (u64, u64) = (50_000, 1_000_000);

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
            statuses: Arc::new((1..=nodes).map(status).collect()),
        };
        let mix = Mix::draw(&mut world);
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
            shape: format!(
                "{} nodes, {} workers, {} partitions, {:?}",
                self.shape.nodes, self.shape.workers, self.shape.partitions, self.mix
            ),
        }
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
            Event::Turn { node, .. } | Event::LogDone { node, .. } | Event::StorageDone { node, .. } => *node,
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
                Stop::Disk => {}
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
            Err(Stop::Defect(reason)) => self.stage.fail(reason),
        }
    }

    /// The node ends and comes back later; its connections break.
    fn stop(&mut self, number: u16, power_lost: bool, down_us: u64) {
        let Simulation {
            nodes,
            world,
            network,
            ..
        } = self;
        let node = &mut nodes[usize::from(number) - 1];
        if node.running.is_none() {
            return;
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

    /// One leader a term: what Raft promises before everything else.
    fn note_leaders(&mut self, number: u16, worker: u16) {
        let mut won = Vec::new();
        let Simulation {
            nodes,
            leaders,
            stage,
            ..
        } = self;
        let Some(cell) = nodes[usize::from(number) - 1].cell(worker) else {
            return;
        };
        for partition in cell.worker.partitions().filter(|partition| partition.is_leader()) {
            let key = (partition.id(), partition.term());
            let leader = *leaders.entry(key).or_insert_with(|| {
                won.push(key);
                number
            });
            if leader != number {
                stage.fail(format!(
                    "{} has two leaders in term {}: nodes {leader} and {number}",
                    key.0, key.1
                ));
            }
        }
        for (partition, term) in won {
            self.election_was_won(number, partition, term);
        }
    }

    fn peer_connect(&mut self, link: PeerLinkId, life: u64) {
        if !self.is_alive(link.from, life) || self.network.peer_links.contains_key(&link) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            shape,
            ..
        } = self;
        let to = &nodes[usize::from(link.to) - 1];
        let is_there = to.running.is_some() && to.paused_until_us <= world.now_us;
        if !is_there || !network.can_connect(link.from, link.to) {
            let pause = self.peer_pauses.entry(link).or_insert(RECONNECT_US.0);
            *pause = (*pause * 2).min(RECONNECT_US.1);
            world.after(*pause, Event::PeerConnect { link, life });
            return;
        }
        self.peer_pauses.insert(link, RECONNECT_US.0);
        let to_life = to.life;
        let to_worker = world.random.below(u64::from(shape.workers)) as u16;
        network.open_peer(link, life, to_life, to_worker);
        let input = Input::PeerConnected {
            node: NodeNumber(link.to),
        };
        nodes[usize::from(link.from) - 1].input(world, link.worker, input);
    }

    fn peer_lost(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.peers.get(&id) else {
            return;
        };
        let (link, life) = (connection.link, connection.from_life);
        if self.network.peer_links.get(&link) == Some(&id) {
            self.network.peer_links.remove(&link);
        }
        if self.is_alive(link.from, life) {
            let Simulation { nodes, world, .. } = self;
            let input = Input::PeerDisconnected {
                node: NodeNumber(link.to),
            };
            nodes[usize::from(link.from) - 1].input(world, link.worker, input);
            let pause = world.between(RECONNECT_US.0, 4 * RECONNECT_US.0);
            world.after(pause, Event::PeerConnect { link, life });
        }
    }

    fn peer_bytes(&mut self, id: ConnectionId, lane: Lane, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            stage,
            ..
        } = self;
        let Some(connection) = network.peers.get_mut(&id) else {
            return;
        };
        let (link, life, worker) = (connection.link, connection.to_life, connection.to_worker);
        let node = &mut nodes[usize::from(link.to) - 1];
        if node.life != life || node.running.is_none() {
            return;
        }
        for frame in frames(&mut connection.lane(lane).decoder, bytes, stage) {
            match codec::decode_peer(&frame) {
                Ok(message) => {
                    node.input(
                        world,
                        worker,
                        Input::Peer {
                            from: NodeNumber(link.from),
                            message,
                        },
                    );
                }
                Err(error) => stage.fail(format!(
                    "node {} cannot read a frame of {}: {error}",
                    link.to, link.from
                )),
            }
        }
    }

    fn client_connect(&mut self, link: ClientLinkId) {
        let node = NodeNumber(link.node);
        let now_ms = self.world.now_us / 1000;
        let Simulation {
            nodes,
            world,
            network,
            clients,
            shape,
            ..
        } = self;
        let client = &mut clients[link.client];
        let Some(Link::Connecting(waiting, frame_ids)) = client.links.remove(&node) else {
            return;
        };
        let there = &nodes[usize::from(link.node) - 1];
        if there.running.is_none() || !network.can_connect(client_place(link.client), link.node) {
            for frame_id in frame_ids {
                client.session.on_unsent(now_ms, node, frame_id);
            }
        } else {
            let worker = world.random.below(u64::from(shape.workers)) as u16;
            let id = network.open_client(link, there.life, worker);
            client.links.insert(node, Link::Up(id));
            for bytes in waiting {
                network.send_up(world, id, bytes);
            }
        }
        self.pump(link.client);
    }

    fn client_bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            stage,
            reaches,
            ..
        } = self;
        let Some(connection) = network.clients.get_mut(&id) else {
            return;
        };
        let (link, worker) = (connection.link, connection.worker);
        let node = &mut nodes[usize::from(link.node) - 1];
        if node.life != connection.life || node.running.is_none() {
            return;
        }
        for frame in frames(&mut connection.up.decoder, bytes, stage) {
            match codec::decode_client(&frame) {
                Ok(ClientMessage::Request {
                    id: frame_id,
                    deadline_ms,
                    request,
                }) => {
                    let reach = match request.partition() {
                        Some(_) => reaches[link.client],
                        None => Reach::Here,
                    };
                    node.submit(world, worker, (id, frame_id), deadline_ms, request, reach);
                }
                Ok(ClientMessage::Login { .. }) => {}
                Err(error) => stage.fail(format!(
                    "node {} cannot read a client's frame: {error}",
                    link.node
                )),
            }
        }
    }

    fn server_bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let now_ms = self.world.now_us / 1000;
        let Simulation {
            network,
            clients,
            stage,
            ..
        } = self;
        let Some(connection) = network.clients.get_mut(&id) else {
            return;
        };
        let link = connection.link;
        let client = &mut clients[link.client];
        for frame in frames(&mut connection.down.decoder, bytes, stage) {
            match codec::decode_server(&frame) {
                Ok(ServerMessage::Reply { id, result }) => {
                    client.session.on_reply(now_ms, NodeNumber(link.node), id, result);
                }
                Ok(ServerMessage::Welcome(_)) => {}
                Err(error) => stage.fail(format!(
                    "a client cannot read a frame of node {}: {error}",
                    link.node
                )),
            }
        }
        self.pump(link.client);
    }

    fn client_lost(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.clients.remove(&id) else {
            return;
        };
        let link = connection.link;
        let node = NodeNumber(link.node);
        let client = &mut self.clients[link.client];
        if matches!(client.links.get(&node), Some(Link::Up(up)) if *up == id) {
            client.links.remove(&node);
            client.session.on_disconnect(self.world.now_us / 1000, node);
            self.pump(link.client);
        }
    }

    /// Lets a client's scripts and session go on, and sends what they want sent.
    fn pump(&mut self, number: usize) {
        let Simulation {
            world,
            network,
            clients,
            ..
        } = self;
        let client = &mut clients[number];
        loop {
            client.poll(world.now_us);
            let mut sent = false;
            while let Some(outgoing) = client.session.poll_send(world.now_us / 1000) {
                sent = true;
                let (id, node) = (outgoing.frame_id, outgoing.node);
                world.say(|| format!("client {number} -> {}: #{id} {:?}", node.0, outgoing.request));
                let (deadline_ms, request) = (outgoing.deadline_ms, outgoing.request);
                let mut bytes = Vec::new();
                codec::encode_client(
                    &ClientMessage::Request {
                        id,
                        deadline_ms,
                        request,
                    },
                    &mut bytes,
                );
                world.trace.mix_bytes(&bytes);
                match client.links.get_mut(&node) {
                    Some(Link::Up(connection)) => network.send_up(world, *connection, bytes),
                    Some(Link::Connecting(waiting, ids)) => {
                        waiting.push(bytes);
                        ids.push(id);
                    }
                    None => {
                        client.links.insert(node, Link::Connecting(vec![bytes], vec![id]));
                        let delay = 2 * network.delay(world, client_place(number), node.0);
                        let link = ClientLinkId {
                            client: number,
                            node: node.0,
                        };
                        world.after(delay, Event::ClientConnect { link });
                    }
                }
            }
            if !sent {
                break;
            }
        }
        if let Some(wake_us) = client.next_wake_us() {
            let wake_us = wake_us.max(world.now_us + 1);
            if client.tick_at_us <= world.now_us || wake_us < client.tick_at_us {
                client.tick_at_us = wake_us;
                world.at(wake_us, Event::ClientTick { client: number });
            }
        }
    }

    fn pump_all(&mut self) {
        for client in 0..self.clients.len() {
            self.pump(client);
        }
    }

    fn fault(&mut self, fault: Fault) {
        let working = self.stage.phase.get() == Phase::Work;
        if !matches!(fault, Fault::Next | Fault::Heal) {
            self.world.say(|| format!("fault: {fault:?}"));
        }
        match fault {
            Fault::Next => {
                if working {
                    self.next_fault();
                }
            }
            Fault::Heal => self.heal(),
            _ if !working && !matches!(fault, Fault::Open { .. }) => {}
            Fault::PowerOff { node, down_us } => self.stop(node, true, down_us),
            Fault::Kill { node, down_us } => self.stop(node, false, down_us),
            Fault::PowerOffAtChange {
                node,
                data_disk,
                changes,
            } => {
                if self.node(node).running.is_some() {
                    self.node(node).stop_disk_after(data_disk, changes);
                }
            }
            Fault::FailSync { node } => {
                if self.node(node).running.is_some() {
                    self.node(node).log_disk.fail_sync(1);
                }
            }
            Fault::PowerOffAll { down_us } => {
                for node in 1..=self.shape.nodes {
                    let down_us = down_us + self.world.random.below(200_000);
                    self.stop(node, true, down_us);
                }
            }
            Fault::VoteStorm { partition } => self.vote_storm(PartitionId(partition)),
            Fault::Isolate {
                node,
                one_way,
                for_us,
            } => {
                let clients = (0..self.clients.len()).map(client_place);
                let others: Vec<u16> = (1..=self.shape.nodes)
                    .filter(|other| *other != node)
                    .chain(clients)
                    .collect();
                let out = others.iter().map(|other| (node, *other));
                let into = others.iter().map(|other| (*other, node));
                let directions = match one_way {
                    Some(true) => out.collect(),
                    Some(false) => into.collect(),
                    None => out.chain(into).collect(),
                };
                self.block(directions, for_us);
            }
            Fault::Split { sides, for_us } => {
                let places = (1..=self.shape.nodes).chain((0..self.clients.len()).map(client_place));
                let places: Vec<(u16, bool)> = places
                    .enumerate()
                    .map(|(bit, place)| (place, sides >> bit & 1 == 1))
                    .collect();
                let mut directions = Vec::new();
                for (one, its_side) in &places {
                    for (other, side) in &places {
                        if its_side != side {
                            directions.push((*one, *other));
                        }
                    }
                }
                self.block(directions, for_us);
            }
            Fault::BlockPair {
                from,
                to,
                both,
                for_us,
            } => {
                let directions = if both {
                    vec![(from, to), (to, from)]
                } else {
                    vec![(from, to)]
                };
                self.block(directions, for_us);
            }
            Fault::Open { directions } => {
                for (from, to) in directions {
                    self.network.unblock(&mut self.world, from, to);
                }
            }
            Fault::ResetConnections { one_in } => {
                let peers: Vec<ConnectionId> = self.network.peer_links.values().copied().collect();
                let clients: Vec<ConnectionId> = self.network.clients.keys().copied().collect();
                for id in peers {
                    if self.world.random.chance(one_in) {
                        self.network.reset_peer(&mut self.world, id, 5_000);
                    }
                }
                for id in clients {
                    if self.world.random.chance(one_in) {
                        self.network.reset_client(&mut self.world, id);
                    }
                }
            }
            Fault::Pause { node, for_us } => self.node(node).paused_until_us = self.world.now_us + for_us,
            Fault::SuspendAll { for_us } => self.world.now_us += for_us,
            Fault::SlowDisk {
                node,
                sync_us,
                for_us,
            } => {
                self.node(node).sync_us = (sync_us / 2, sync_us);
                self.world.after(for_us, Event::Fault(Fault::FastDisk { node }));
            }
            Fault::FastDisk { node } => self.node(node).sync_us = (50, 4_000),
            Fault::SlowNetwork {
                node,
                delay_us,
                for_us,
            } => {
                self.network.slow_us.insert(node, delay_us);
                self.world
                    .after(for_us, Event::Fault(Fault::FastNetwork { node }));
            }
            Fault::FastNetwork { node } => {
                self.network.slow_us.remove(&node);
            }
            Fault::JumpClock { node, by_ms } => self.node(node).skew_ns += by_ms * 1_000_000,
        }
    }

    fn next_fault(&mut self) {
        let pause = match self.world.random.below(3) {
            0 => self.world.between(10_000, 200_000),
            _ => self.world.between(200_000, 1_500_000),
        };
        self.world.after(pause, Event::Fault(Fault::Next));
        if self.suspends > 0 && self.world.random.chance(8) {
            self.suspends -= 1;
            self.work_until_us += 61_000_000;
            return self.fault(Fault::SuspendAll { for_us: 61_000_000 });
        }
        if let Some(fault) = self
            .mix
            .fault(&mut self.world, self.shape.nodes, self.shape.partitions)
        {
            self.fault(fault);
        }
    }

    fn block(&mut self, directions: Vec<(u16, u16)>, for_us: u64) {
        for (from, to) in &directions {
            self.network.block(*from, *to);
        }
        // Some connections time out while nothing gets through.
        let resets = self.world.random.chance(2);
        let crossing =
            |from: u16, to: u16| directions.contains(&(from, to)) || directions.contains(&(to, from));
        let peers: Vec<ConnectionId> = self
            .network
            .peers
            .iter()
            .filter(|(_, it)| resets && crossing(it.link.from, it.link.to))
            .map(|(id, _)| *id)
            .collect();
        for id in peers {
            self.network.reset_peer(&mut self.world, id, for_us);
        }
        self.world.after(for_us, Event::Fault(Fault::Open { directions }));
    }

    /// Cuts the leader off. What follows when another is elected is in [`Simulation::election_was_won`].
    fn vote_storm(&mut self, partition: PartitionId) {
        let replicas = self.shape.placement[usize::from(partition.0)].clone();
        for replica in &replicas {
            let old_leader = replica.0;
            let Some(term) = self.term_led(old_leader, partition) else {
                continue;
            };
            let around = replicas.iter().filter(|other| *other != replica);
            let directions = around
                .flat_map(|other| [(old_leader, other.0), (other.0, old_leader)])
                .collect();
            self.storm = Some(Storm {
                partition,
                old_leader,
                term,
            });
            return self.block(directions, 2_500_000);
        }
    }

    /// The term in which the node leads the partition, if it does.
    fn term_led(&self, node: u16, partition: PartitionId) -> Option<u64> {
        let running = self.nodes[usize::from(node) - 1].running.as_ref()?;
        let mut partitions = running.workers.iter().flat_map(|cell| cell.worker.partitions());
        partitions
            .find(|it| it.id() == partition && it.is_leader())
            .map(|it| it.term())
    }

    /// The moment after an election, while another was cut off: the winner is cut off before its first entry
    /// gets anywhere, its voter loses power and comes back, and the one that knows of nothing asks for votes
    /// in the same term. What the voter promised must come from its disk.
    fn election_was_won(&mut self, winner: u16, partition: PartitionId, term: u64) {
        let is_ours =
            |storm: &Storm| storm.partition == partition && storm.old_leader != winner && storm.term < term;
        if !self.storm.as_ref().is_some_and(is_ours) {
            return;
        }
        let Some(storm) = self.storm.take() else { return };
        self.world
            .say(|| format!("node {winner} won the election of {partition} in term {term}"));
        let replicas = self.shape.placement[usize::from(partition.0)].clone();
        let others = replicas
            .iter()
            .map(|replica| replica.0)
            .filter(|other| *other != winner);
        for other in others.clone().filter(|other| *other != storm.old_leader) {
            self.network.unblock(&mut self.world, storm.old_leader, other);
            self.network.unblock(&mut self.world, other, storm.old_leader);
            let down_us = self.world.between(1_000, 5_000);
            self.stop(other, true, down_us);
        }
        let directions = others
            .flat_map(|other| [(winner, other), (other, winner)])
            .collect();
        self.block(directions, 2_000_000);
    }

    fn heal(&mut self) {
        if self.world.now_us < self.work_until_us {
            // Work went on for longer because everything was suspended meanwhile.
            self.world.at(self.work_until_us, Event::Fault(Fault::Heal));
            return;
        }
        self.world.say(|| "everything is repaired".to_string());
        self.healed_at_us = self.world.now_us;
        self.stage.phase.set(Phase::Drain);
        self.storm = None;
        self.network.unblock_all(&mut self.world);
        self.network.slow_us.clear();
        for number in 1..=self.shape.nodes {
            let node = self.node(number);
            node.sync_us = (50, 4_000);
            node.paused_until_us = 0;
            self.start(number);
        }
        let peers: Vec<PeerLinkId> = self.peer_pauses.keys().copied().collect();
        for link in peers {
            let life = self.node(link.from).life;
            self.world.after(1_000, Event::PeerConnect { link, life });
        }
        self.pump_all();
    }

    /// Compares replicas; after the repair, decides whether the run is over.
    fn audit(&mut self) -> bool {
        self.compare_states();
        let now_us = self.world.now_us;
        self.world.after(AUDIT_INTERVAL_US, Event::Audit);
        let phase = self.stage.phase.get();
        if phase == Phase::Work {
            return false;
        }
        let late = now_us > self.healed_at_us + REST_US_MAX;
        if phase == Phase::Drain {
            // Requests begun before the repair end by their own deadlines; then the verification begins.
            if now_us > self.healed_at_us + 12_000_000 {
                self.stage.phase.set(Phase::Verify);
                self.pump_all();
            }
            return false;
        }
        if let Some(client) = self.clients.iter().position(|client| !client.is_done()) {
            if late {
                self.stage
                    .fail(format!("client {client} did not finish after the repair"));
            }
            return false;
        }
        let clean = || ledger::check_clean(&self.states(), &self.stores());
        match self.rest().and_then(|()| clean()) {
            Ok(()) => {
                let states = self.states();
                if let Err(reason) = tree::check(&states) {
                    self.stage.fail(reason);
                }
                if let Err(reason) = ledger::check(&states, &self.stores()) {
                    self.stage.fail(reason);
                }
                true
            }
            Err(reason) => {
                if late {
                    self.stage
                        .fail(format!("the cluster does not come to rest: {reason}"));
                }
                false
            }
        }
    }

    /// Replicas that applied the same entries have the same state.
    fn compare_states(&mut self) {
        let Simulation {
            nodes, hashes, stage, ..
        } = self;
        for node in nodes.iter() {
            let Some(running) = &node.running else { continue };
            for partition in running.workers.iter().flat_map(|cell| cell.worker.partitions()) {
                let (applied, hash) = (partition.state().applied(), partition.state().hash());
                let (first, who) = *hashes
                    .entry((partition.id(), applied))
                    .or_insert((hash, node.number));
                if first != hash {
                    stage.fail(format!(
                        "{} has different states after {applied} commands: {first:016x} on node {who}, {hash:016x} on node {}",
                        partition.id(),
                        node.number
                    ));
                }
            }
        }
    }

    /// Every replica is up, has applied the same and has no transaction left.
    fn rest(&self) -> Result<(), String> {
        let mut applied: BTreeMap<PartitionId, (u64, u64)> = BTreeMap::new();
        let mut led = 0;
        for node in &self.nodes {
            let running = node
                .running
                .as_ref()
                .ok_or_else(|| format!("node {} is down", node.number))?;
            for partition in running.workers.iter().flat_map(|cell| cell.worker.partitions()) {
                let state = partition.state();
                let here = (state.applied(), state.hash());
                let first = *applied.entry(partition.id()).or_insert(here);
                if first != here {
                    return Err(format!(
                        "{} is at {here:?} on node {}, elsewhere at {first:?}",
                        partition.id(),
                        node.number
                    ));
                }
                if let Some((transaction, ..)) = state.prepared().next() {
                    return Err(format!(
                        "{transaction:?} is prepared in {} and never finished",
                        partition.id()
                    ));
                }
                if let Some((transaction, ..)) = state.undelivered_outcomes().next() {
                    return Err(format!(
                        "the outcome of {transaction:?} stays in {}",
                        partition.id()
                    ));
                }
                led += u16::from(partition.is_leader());
            }
        }
        if led != self.shape.partitions {
            return Err(format!("{led} of {} partitions are led", self.shape.partitions));
        }
        Ok(())
    }

    fn stores(&self) -> BTreeMap<NodeNumber, &bark_core::block_store::BlockStore> {
        let running = self
            .nodes
            .iter()
            .filter_map(|node| Some((node.number, node.running.as_ref()?)));
        running
            .map(|(number, running)| (NodeNumber(number), running.blocks()))
            .collect()
    }

    fn states(&self) -> BTreeMap<PartitionId, &bark_core::state::State> {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let cells = running.flat_map(|running| running.workers.iter());
        cells
            .flat_map(|cell| cell.worker.partitions())
            .map(|it| (it.id(), it.state()))
            .collect()
    }
}

fn frames(decoder: &mut bark_schema::frame::FrameDecoder, bytes: &[u8], stage: &Stage) -> Vec<Bytes> {
    decoder.push(bytes);
    let mut frames = Vec::new();
    loop {
        match decoder.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return frames,
            Err(error) => {
                stage.fail(format!("a stream cannot be cut into frames: {error}"));
                return frames;
            }
        }
    }
}
