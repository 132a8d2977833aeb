//! A worker: the partitions of one core, the calls under way and the coroutines that carry them.
//!
//! Previous in the flow: the server's threads, or the simulator, which hand in [`Input`]s.
//! Next: `partition` for what is decided here; [`Effect`]s for everything else.
//!
//! A turn has four phases:
//! 1. **collect**: inputs become calls and messages to partitions.
//! 2. **step**: coroutines run, calls are routed, each partition proposes this turn's commands as one entry
//!    and applies what was committed; repeated until nothing moves.
//! 3. **persist**: the records of all partitions leave as one batch.
//! 4. **release**: messages leave, gathered by node. What promises durability is not among them: it left the
//!    group only after its batch was synced.
//!
//! Invariants:
//! - A turn does no I/O, takes no lock and reads no clock.
//! - The same inputs at the same times give the same effects.

mod allowances;
mod assignment;
mod calls;
mod cleaning;
mod coordinators;
mod copies;
mod disk_health;
pub mod event;
pub mod gateway;
mod keys;
mod lanes;
mod leaders;
mod mending;
mod pace;
mod recalls;
mod router;
mod scrubbing;
mod space;
mod traces;
mod under_way;
mod upkeep;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

pub use bark_schema::cluster_file::Durability;
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{Heartbeat, PeerMessage, RaftMessage};
use bark_schema::placement::{NodeUse, Ring};

use crate::consensus::Outgoing;
use crate::partition::event::{CallId, Completion, Output, SnapshotRequest};
use crate::partition::{Partition, SnapshotConfig};
use crate::random::Random;
use crate::time::Now;
use allowances::Allowances;
use calls::Calls;
pub use cleaning::CleaningConfig;
use coordinators::Coordinators;
use event::{Effect, Input, SiblingMessage, StorageEvent, StorageRequest};
use gateway::{Gateway, Reach, Waiter};
use recalls::Recalls;

/// Election clock: 10 of these without a leader start an election.
pub const TICK_US: u64 = 40_000;
/// Calls under way on one worker; more are refused as busy.
pub const CALLS_MAX: usize = 1 << 17;
/// Rounds of phase 2 in one turn; what is left goes on in the next.
const STEP_ROUNDS_MAX: u32 = 64;
/// Coroutine polls in one round.
const POLLS_PER_ROUND_MAX: u32 = 4096;
/// Commands that all partitions of a worker together apply in one turn, roughly. 16384: about 50 ms, so that no
/// heartbeat is late however much a replica has to catch up with.
const COMMANDS_PER_TURN_MAX: u64 = 16_384;
/// Memory kept for the bytes of the next turn's single-key operations.
const KEY_BYTES_KEPT: usize = 1 << 20;
/// Raft messages gathered into one frame, by size.
const RAFT_FRAME_BYTES_MAX: usize = 1 << 20;

/// What a worker knows of its cluster, fixed at start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    pub cluster: String,
    pub node: NodeNumber,
    pub worker: u16,
    pub worker_count: u16,
    pub partition_count: u16,
    pub replicas: u16,
    pub durability: Durability,
    pub nodes: Arc<Vec<bark_schema::operation::NodeStatus>>,
    /// Replicas of each partition, the preferred leader first.
    pub placement: Arc<Vec<Vec<NodeNumber>>>,
    /// Where copies of blocks belong.
    pub ring: Arc<Ring>,
    pub cleaning: CleaningConfig,
    pub snapshots: SnapshotConfig,
}

impl WorkerConfig {
    pub fn replicas_of(&self, partition: PartitionId) -> &[NodeNumber] {
        self.placement
            .get(usize::from(partition.0))
            .map_or(&[], Vec::as_slice)
    }

    /// Some partition has its only replica on this node.
    pub fn has_only_copies(&self) -> bool {
        self.placement.iter().any(|replicas| replicas[..] == [self.node])
    }

    pub fn worker_of(&self, partition: PartitionId) -> u16 {
        partition.0 % self.worker_count
    }
}

pub struct Worker {
    config: WorkerConfig,
    gateway: Gateway,
    partitions: BTreeMap<PartitionId, Partition>,
    calls: Calls,
    leader_hints: BTreeMap<PartitionId, NodeNumber>,
    /// Answers of coroutines, completed in the next round.
    completed_calls: Rc<RefCell<Vec<Completion>>>,
    coordinators: Coordinators,
    allowances: Allowances,
    recalls: Recalls,
    traces: traces::Traces,
    output: Output,
    heartbeats: Vec<Heartbeat>,
    lanes: lanes::Lanes,
    effects: Vec<Effect>,
    batch: u64,
    next_tick_us: u64,
    ticks: u64,
    disk: NodeUse,
    upkeep: upkeep::Upkeep,
    leaders: leaders::Leaders,
    pace: pace::Pace,
    /// How far the node's log is durable.
    log_position: u64,
    /// Nodes that refuse this one, and told it.
    refused_by: BTreeSet<NodeNumber>,
}

impl Worker {
    /// `partitions`: those of this worker that have a replica on this node.
    pub fn new(config: WorkerConfig, partitions: Vec<Partition>, now: Now, random: Random) -> Worker {
        let gateway = Gateway::new(config.clone(), now, random);
        let copies = usize::from(config.replicas);
        Worker {
            calls: Calls::new(config.worker, gateway.random()),
            gateway,
            partitions: partitions
                .into_iter()
                .map(|mut partition| {
                    partition.watch_copies(copies);
                    (partition.id(), partition)
                })
                .collect(),
            leader_hints: BTreeMap::new(),
            completed_calls: Rc::default(),
            coordinators: Coordinators::default(),
            allowances: Allowances::default(),
            recalls: Recalls::default(),
            traces: traces::Traces::default(),
            output: Output::default(),
            heartbeats: Vec::new(),
            lanes: lanes::Lanes::default(),
            effects: Vec::new(),
            batch: 0,
            next_tick_us: now.monotonic_us + TICK_US,
            ticks: 0,
            disk: NodeUse::default(),
            upkeep: upkeep::Upkeep::default(),
            leaders: leaders::Leaders::new(&config, now),
            pace: pace::Pace::default(),
            log_position: 0,
            refused_by: BTreeSet::new(),
            config,
        }
    }

    /// How far the node's log is durable, for others to remember.
    pub fn set_log_position(&mut self, position: u64) {
        self.log_position = position;
    }

    pub fn gateway(&self) -> Gateway {
        self.gateway.clone()
    }

    /// Some partition here is not an ordinary voter yet; see `partition::rejoin`.
    pub fn is_rejoining(&self) -> bool {
        self.partitions.values().any(Partition::is_rejoining)
    }

    pub fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values()
    }

    /// When the worker wants a turn even if nothing comes in.
    pub fn next_wake_us(&self) -> u64 {
        let timer = self.gateway.next_timer_us().unwrap_or(u64::MAX);
        let held = self.calls.next_due_us().unwrap_or(u64::MAX);
        if self.partitions.values().any(Partition::has_backlog) {
            return 0;
        }
        let patient = self.partitions.values().filter_map(Partition::patient_until_us);
        let patient = patient.min().unwrap_or(u64::MAX);
        let part = self.pace.next_due_us().unwrap_or(u64::MAX);
        self.next_tick_us.min(timer).min(held).min(patient).min(part)
    }

    /// One turn; `inputs` is emptied, `effects` is added to.
    pub fn turn(&mut self, now: Now, inputs: &mut Vec<Input>, effects: &mut Vec<Effect>) {
        self.gateway.shared().now.set(now);
        let commands_max = (COMMANDS_PER_TURN_MAX / self.partitions.len().max(1) as u64).max(1);
        for partition in self.partitions.values_mut() {
            partition.begin_turn(now, commands_max);
        }
        for input in inputs.drain(..) {
            self.collect(input);
        }
        self.tick_if_due(now);
        self.gateway.wake_sleepers();
        self.release_held();
        for _ in 0..STEP_ROUNDS_MAX {
            if !self.step(now) {
                break;
            }
        }
        self.release();
        effects.append(&mut self.effects);
    }

    fn collect(&mut self, input: Input) {
        match input {
            Input::PeerConnected { node } => {
                self.gateway.shared().peers.borrow_mut().insert(node);
                self.upkeep.mending.node_came();
            }
            Input::PeerDisconnected { node } => {
                self.gateway.shared().peers.borrow_mut().remove(&node);
                self.lanes.disconnected(node);
                let now_us = self.gateway.now().monotonic_us;
                self.leaders.disconnected(node, now_us);
                for partition in self.partitions.values_mut() {
                    partition.peer_unreachable(node);
                }
                self.node_is_gone(node);
            }
            Input::PeerGreeted { node, refusal } => self.greeted(node, refusal, true),
            Input::Peer {
                from,
                message: PeerMessage::Standing(standing),
            } => self.hear_standing(from, standing, true),
            Input::Peer { from, message } => self.collect_peer(from, message),
            Input::Sibling { from, message } => self.collect_sibling(from, message),
            Input::LogPersisted { batch } => {
                let now_us = self.gateway.now().monotonic_us;
                self.leaders.disk.answered(batch, self.batch, now_us);
                for partition in self.partitions.values_mut() {
                    partition.persisted(batch, &mut self.output);
                }
            }
            Input::LogSynced { took_us } => {
                let now_us = self.gateway.now().monotonic_us;
                self.leaders.disk.synced(took_us, now_us);
            }
            Input::Storage(StorageEvent::Block { call, result }) => self.complete(call, result),
            Input::Storage(StorageEvent::Snapshot { partition, event }) => {
                self.with_partition(partition, |local| local.snapshot_event(event));
            }
            Input::Storage(StorageEvent::Space(known)) => self.disk = known,
            Input::Storage(StorageEvent::BadCopies(bad)) => self.tell_bad_copies(bad),
        }
    }

    fn collect_peer(&mut self, from: NodeNumber, message: PeerMessage) {
        match message {
            PeerMessage::Hello(_) => {}
            PeerMessage::Standing(standing) => self.hear_standing(from, standing, false),
            PeerMessage::Raft(messages) => {
                let mut elsewhere: BTreeMap<u16, Vec<RaftMessage>> = BTreeMap::new();
                for message in messages {
                    if message.from != from {
                        continue;
                    }
                    if let Some(partition) = self.partitions.get_mut(&message.partition) {
                        self.lanes.received(&message);
                        partition.step(message);
                    } else if self.is_siblings(message.partition) {
                        elsewhere
                            .entry(self.config.worker_of(message.partition))
                            .or_default()
                            .push(message);
                    }
                }
                for (worker, messages) in elsewhere {
                    self.hand_to_sibling(worker, from, PeerMessage::Raft(messages));
                }
            }
            PeerMessage::Heartbeats(heartbeats) => {
                let mut forgotten = None;
                let mut elsewhere: BTreeMap<u16, Vec<Heartbeat>> = BTreeMap::new();
                for heartbeat in heartbeats {
                    if heartbeat.from != from {
                        continue;
                    }
                    if let Some(partition) = self.partitions.get_mut(&heartbeat.partition) {
                        if partition.step_heartbeat(heartbeat) {
                            forgotten = Some(partition.id());
                        }
                    } else if self.is_siblings(heartbeat.partition) {
                        elsewhere
                            .entry(self.config.worker_of(heartbeat.partition))
                            .or_default()
                            .push(heartbeat);
                    }
                }
                for (worker, heartbeats) in elsewhere {
                    self.hand_to_sibling(worker, from, PeerMessage::Heartbeats(heartbeats));
                }
                if let Some(partition) = forgotten {
                    self.has_forgotten(partition);
                }
            }
            PeerMessage::Request {
                id,
                deadline_ms,
                request,
            } => {
                let deadline_us = self.gateway.now().monotonic_us + u64::from(deadline_ms) * 1000;
                self.begin_call(request, Reach::Here, deadline_us, Waiter::Peer { node: from, id });
            }
            PeerMessage::Reply { id, result } => {
                let call = CallId(id);
                let worker = Calls::worker_of(call);
                if worker == self.config.worker {
                    if self
                        .calls
                        .get(call)
                        .is_some_and(|known| known.place == calls::Place::Node(from))
                    {
                        self.complete(call, result);
                    }
                } else if worker < self.config.worker_count {
                    self.hand_to_sibling(worker, from, PeerMessage::Reply { id, result });
                }
            }
            PeerMessage::SnapshotChunk(chunk) => {
                let partition = chunk.partition;
                if chunk.from != from {
                    return;
                }
                if self.is_siblings(partition) {
                    let worker = self.config.worker_of(partition);
                    self.hand_to_sibling(worker, from, PeerMessage::SnapshotChunk(chunk));
                } else {
                    self.with_partition(partition, |local| local.snapshot_chunk(chunk));
                }
            }
            PeerMessage::SnapshotProgress {
                partition,
                index,
                next_offset,
                accepted,
            } => {
                let now = self.gateway.now();
                if self.is_siblings(partition) {
                    let worker = self.config.worker_of(partition);
                    let message = PeerMessage::SnapshotProgress {
                        partition,
                        index,
                        next_offset,
                        accepted,
                    };
                    self.hand_to_sibling(worker, from, message);
                } else {
                    self.with_partition(partition, |local| {
                        local.snapshot_progress(now, from, index, next_offset, accepted);
                    });
                }
            }
        }
    }

    fn collect_sibling(&mut self, from: u16, message: SiblingMessage) {
        match message {
            SiblingMessage::Request {
                call,
                deadline_us,
                request,
            } => {
                let reach = Reach::Cluster;
                self.begin_call(
                    request,
                    reach,
                    deadline_us,
                    Waiter::Sibling { worker: from, call },
                );
            }
            SiblingMessage::Reply { call, result } => self.complete(call, result),
            SiblingMessage::Peer { from, message } => self.collect_peer(from, message),
            SiblingMessage::Heartbeats(mut heartbeats) => self.heartbeats.append(&mut heartbeats),
            SiblingMessage::PeerGreeted { node, refusal } => self.greeted(node, refusal, false),
            SiblingMessage::MayHaveForgotten => self.may_have_forgotten(),
            SiblingMessage::DiskStalled => {
                let now_us = self.gateway.now().monotonic_us;
                self.leaders.told_stalled(now_us);
            }
            SiblingMessage::Drain(drain) => self.leaders.set_draining(drain),
        }
    }

    fn is_siblings(&self, partition: PartitionId) -> bool {
        partition.0 < self.config.partition_count && self.config.worker_of(partition) != self.config.worker
    }

    fn hand_to_sibling(&mut self, worker: u16, from: NodeNumber, message: PeerMessage) {
        self.effects.push(Effect::Sibling {
            to: worker,
            message: SiblingMessage::Peer { from, message },
        });
    }

    /// One round of phase 2 and phase 3; true if another may find something to do.
    fn step(&mut self, now: Now) -> bool {
        let mut moved = false;
        for _ in 0..POLLS_PER_ROUND_MAX {
            if !self.gateway.shared().executor.try_tick() {
                break;
            }
            moved = true;
        }
        let completed = std::mem::take(&mut *self.completed_calls.borrow_mut());
        moved |= !completed.is_empty();
        for Completion { call, result } in completed {
            self.complete(call, result);
        }
        moved |= self.complete_coordinated();
        moved |= self.resume_granted();
        moved |= self.release_recalled();
        moved |= self.route_submitted();
        for partition in self.partitions.values_mut() {
            if partition.has_batch() {
                partition.flush();
                moved = true;
            }
            partition.collect(now, &mut self.output);
            moved |= partition.has_batch();
        }
        let completions = std::mem::take(&mut self.output.completions);
        moved |= !completions.is_empty();
        for completion in completions {
            self.complete(completion.call, completion.result);
        }
        // Before the SETs of the same runs that go on as calls: those resume their names.
        for (partition, first) in self.output.ended_runs.drain(..) {
            self.gateway.finish_request(partition, first);
        }
        for returned in std::mem::take(&mut self.output.returned) {
            moved = true;
            self.take_back(returned);
        }
        moved |= self.persist();
        moved
    }

    /// Sends this round's records to the log. True if they count as durable at once.
    fn persist(&mut self) -> bool {
        if self.output.records.is_empty() {
            return false;
        }
        let records = std::mem::take(&mut self.output.records);
        self.batch += 1;
        for partition in self.partitions.values_mut() {
            partition.assign_batch(self.batch);
        }
        let batch = self.batch;
        if self.config.durability != Durability::None {
            self.count_space_for_records(&records);
            let now_us = self.gateway.now().monotonic_us;
            self.leaders.disk.sent(batch, now_us);
            self.effects.push(Effect::Persist { batch, records });
            return false;
        }
        for partition in self.partitions.values_mut() {
            partition.persisted(batch, &mut self.output);
        }
        true
    }

    fn release(&mut self) {
        let mut raft: BTreeMap<NodeNumber, (usize, Vec<RaftMessage>)> = BTreeMap::new();
        for message in std::mem::take(&mut self.output.messages) {
            match message {
                Outgoing::Heartbeat(heartbeat) => self.heartbeats.push(heartbeat),
                Outgoing::Raft(message) => {
                    let to = message.to;
                    let size: usize = message.entries.iter().map(|entry| entry.data.len() + 64).sum();
                    if self.lanes.takes_bulk(&message, size) {
                        self.effects.push(Effect::Send {
                            to,
                            bulk: true,
                            message: PeerMessage::Raft(vec![message]),
                        });
                        continue;
                    }
                    let (gathered, messages) = raft.entry(to).or_default();
                    if *gathered > 0 && *gathered + size > RAFT_FRAME_BYTES_MAX {
                        let full = std::mem::take(messages);
                        *gathered = 0;
                        self.effects.push(Effect::Send {
                            to,
                            bulk: false,
                            message: PeerMessage::Raft(full),
                        });
                    }
                    *gathered += size + 128;
                    messages.push(message);
                }
            }
        }
        for (to, (_, messages)) in raft {
            self.effects.push(Effect::Send {
                to,
                bulk: false,
                message: PeerMessage::Raft(messages),
            });
        }
        self.release_heartbeats();
        for (_, chunk) in &self.output.chunks {
            self.pace.sent(chunk.data.len());
        }
        let mut requests = Vec::new();
        for request in std::mem::take(&mut self.output.snapshots) {
            match request {
                SnapshotRequest::Read { .. } => self.pace.push(request),
                request => requests.push(request),
            }
        }
        let now_us = self.gateway.now().monotonic_us;
        self.pace.take_due(now_us, &mut requests);
        for request in requests {
            self.effects
                .push(Effect::Storage(StorageRequest::Snapshot(request)));
        }
        for (to, message) in std::mem::take(&mut self.output.progress) {
            self.effects.push(Effect::Send {
                to,
                bulk: false,
                message,
            });
        }
        for (to, chunk) in std::mem::take(&mut self.output.chunks) {
            self.effects.push(Effect::Send {
                to,
                bulk: true,
                message: PeerMessage::SnapshotChunk(chunk),
            });
        }
    }

    fn release_heartbeats(&mut self) {
        let heartbeats = std::mem::take(&mut self.heartbeats);
        if heartbeats.is_empty() {
            return;
        }
        if self.config.worker != 0 {
            self.effects.push(Effect::Sibling {
                to: 0,
                message: SiblingMessage::Heartbeats(heartbeats),
            });
            return;
        }
        let mut by_node: BTreeMap<NodeNumber, Vec<Heartbeat>> = BTreeMap::new();
        for heartbeat in heartbeats {
            by_node.entry(heartbeat.to).or_default().push(heartbeat);
        }
        for (to, heartbeats) in by_node {
            self.effects.push(Effect::Send {
                to,
                bulk: false,
                message: PeerMessage::Heartbeats(heartbeats),
            });
        }
    }

    fn storage(&mut self, request: StorageRequest) {
        self.effects.push(Effect::Storage(request));
    }

    fn with_partition(&mut self, id: PartitionId, action: impl FnOnce(&mut Partition)) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            action(partition);
        }
    }
}
