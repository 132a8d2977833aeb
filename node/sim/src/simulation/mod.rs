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

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bark_core::worker::Durability;
use bark_core::worker::event::Effect;
use bark_core::worker::gateway::Reach;
use bark_schema::codec;
use bark_schema::ids::PartitionId;
use bark_schema::message::ServerMessage;

use crate::checker;
use crate::client::{Client, Stage};
use crate::cluster::{Answer, Asker, Node, Shape, Stop};
use crate::fault::{Fault, Mix};
use crate::keys::{self, History};
use crate::network::{Lane, Network, PeerLinkId};
use crate::world::{Event, World};
use crate::{Counts, Planted, Report};

const AUDIT_INTERVAL_US: u64 = 200_000;
/// After the repair, everything under way ends within this time, and so does every check.
const REST_US_MAX: u64 = 60_000_000;
/// A node that could not start tries again, with more space or other disks.
const START_AGAIN_US: u64 = 300_000;
/// Long enough for everything acknowledged meanwhile to be synced elsewhere.
const POWER_LOSS_PAUSE_US: u64 = 1_500_000;
const RECONNECT_US: (u64, u64) = (50_000, 1_000_000);
/// An operator needs so long to notice that a node is refused, and to let it in.
const ADMIT_US: (u64, u64) = (100_000, 2_000_000);

mod audit;
mod faults;
mod links;
mod plain;
mod setup;

pub struct Simulation {
    world: World,
    planted: Planted,
    shape: Shape,
    nodes: Vec<Node>,
    network: Network,
    clients: Vec<Client>,
    reaches: Vec<Reach>,
    plain: Vec<plain::Connection>,
    stage: Rc<Stage>,
    history: History,
    mix: Mix,
    work_until_us: u64,
    healed_at_us: u64,
    suspends: u64,
    /// The clock that was ever furthest ahead.
    skew_ns_max: i64,
    leaders: BTreeMap<(PartitionId, u64), u16>,
    /// State hash by partition and applied count, and who had it first.
    hashes: BTreeMap<(PartitionId, u64), (u64, u16)>,
    peer_pauses: BTreeMap<PeerLinkId, u64>,
    /// At level `memory`, powers go one by one.
    next_power_loss_us: u64,
    storm: Option<Storm>,
    /// Nodes an operator is about to let in.
    admitting: BTreeSet<u16>,
}

/// A leader is cut off so that another is elected in a term above its own.
struct Storm {
    partition: PartitionId,
    old_leader: u16,
    term: u64,
}

impl Simulation {
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
            Event::LateCopy { client, bytes } => self.late_copy(client, bytes),
            Event::Plain { connection } => self.plain_due(connection),
            Event::Admit { node } => self.admit(node),
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
        self.plain_lost(number);
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
        for Answer { to, result } in answers {
            match to {
                Asker::Client(connection, id) => {
                    let mut bytes = Vec::new();
                    codec::encode_server(&ServerMessage::Reply { id, result }, &mut bytes);
                    self.world.trace.mix_bytes(&bytes);
                    self.network.send_down(&mut self.world, connection, bytes);
                }
                Asker::Plain(connection, request) => self.plain_answer(connection, request, result),
                Asker::Operator => {}
            }
        }
    }
}
