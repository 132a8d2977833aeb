//! The nodes: the real core of each, and stand-ins for the threads and disks around it.
//!
//! Previous in the flow: `simulation`, which brings what arrives. Next: effects, handed to the network, the
//! log and the storage of the node.
//!
//! The log executor does what the server's log thread does: everything that waits shares one append and one
//! sync, and only then are the workers told. The storage executor carries out batches in order.
//!
//! Invariants:
//! - `LogPersisted` is given only after the sync that covers the batch, unless that bug is planted; at level
//!   `memory` after the write.
//! - A node whose disk failed or stopped says nothing any more: its power goes in the same moment.

mod damage;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bark_core::block_store::{BlockStore, BlockStoreConfig};
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{self, Log, LogConfig, Record};
use bark_core::open;
use bark_core::partition::SnapshotConfig;
use bark_core::partition::event::SnapshotEvent;
use bark_core::random::Random;
use bark_core::storage::Storage;
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input, StorageEvent, StorageRequest};
use bark_core::worker::gateway::{CompletionSink, FoundKey, KeyAsker, KeySink, Reach};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::{Failure, KeyValue, NodeStatus, Query, Refusal, Reply, Request};

use crate::fault::Damage;
use crate::network::ConnectionId;
use crate::world::{Event, World};
use crate::{Counts, Planted};

/// Small, so that a run fills several.
const LOG_SEGMENT_SIZE_BYTES: u64 = 64 << 10;
const BLOCK_SEGMENT_SIZE_BYTES: u64 = 256 << 10;
/// Everything a hundred times sooner than on real nodes, so that short runs see all of it.
const CLEANING: CleaningConfig = CleaningConfig {
    garbage_horizon_us: 2_000_000,
    orphan_age_us: 8_000_000,
    patch_age_us: 1_000_000,
    patch_space_max: 32 << 10,
    store_period_us: 1_000_000,
};
/// Requests that share one sync, as in the server.
const STORAGE_GROUP_MAX: usize = 64;
/// Between two attempts to append to a full disk.
const NO_SPACE_PAUSE_US: u64 = 50_000;
/// Where the monotonic clock of a process starts; only differences mean something.
const MONOTONIC_ORIGIN_US: u64 = 5_000_000;
/// 2026-01-01.
const UNIX_ORIGIN_NS: i64 = 1_767_225_600_000_000_000;

/// What all nodes agree on.
pub struct Shape {
    pub nodes: u16,
    pub workers: u16,
    pub partitions: u16,
    pub placement: Arc<Vec<Vec<NodeNumber>>>,
    pub snapshots: SnapshotConfig,
    pub durability: Durability,
    pub statuses: Arc<Vec<NodeStatus>>,
}

pub struct Node {
    pub number: u16,
    /// Counts starts and stops.
    pub life: u64,
    pub running: Option<Running>,
    pub log_disk: SimulatedDisk,
    pub data_disk: SimulatedDisk,
    log_stop_at: Option<u64>,
    data_stop_at: Option<u64>,
    pub sync_us: (u64, u64),
    pub skew_ns: i64,
    pub paused_until_us: u64,
    /// Of earlier lives.
    counts: Counts,
    pub damage: Option<Damage>,
    is_full: bool,
    /// Some sync of the log fails in this life, be it one inside an append.
    sync_fails: bool,
    /// At level `memory`: the power went, and with it what was acknowledged and not synced yet.
    may_have_forgotten: bool,
    durability: Durability,
}

/// What lives in the process.
pub struct Running {
    started_us: u64,
    pub workers: Vec<WorkerCell>,
    /// The log may have forgotten; the mark goes when every worker's partitions have rejoined.
    rejoining: bool,
    log: Log,
    log_queue: VecDeque<(u16, u64, Vec<Record>)>,
    /// What did not fit on the disk: the newest batch of each worker, and the records.
    log_refused: Option<(BTreeMap<u16, u64>, Vec<Record>)>,
    /// The newest batch of each worker in the sync that runs.
    log_busy: Option<BTreeMap<u16, u64>>,
    storage: Storage,
    storage_queue: VecDeque<(u16, StorageRequest)>,
    storage_busy: bool,
}

impl Running {
    pub fn blocks(&self) -> &BlockStore {
        self.storage.blocks()
    }
}

pub struct WorkerCell {
    pub worker: Worker,
    pub inbox: Vec<Input>,
    pub turn_scheduled: bool,
    pub timer_at_us: u64,
    sink: Rc<Sink>,
    requests: BTreeMap<u64, (ConnectionId, u64)>,
    next_token: u64,
}

#[derive(Default)]
struct Sink {
    completed: RefCell<Vec<(u64, Result<Reply, Failure>)>>,
}

impl CompletionSink for Sink {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        self.completed.borrow_mut().push((token, result));
    }
}

impl KeySink for Sink {
    fn found(&self, token: u64, found: Option<FoundKey<'_>>) {
        let value = found.map(|found| KeyValue {
            value: found.value.clone(),
            version: found.version,
            expires: found.expires,
        });
        self.complete(token, Ok(Reply::Value(value)));
    }

    fn stored(&self, token: u64) {
        unreachable!("clients name their changes, so {token} went the long way");
    }
}

/// An answer for a client: connection, frame id, result.
pub type Answer = (ConnectionId, u64, Result<Reply, Failure>);

/// The node cannot go on.
#[derive(Debug)]
pub enum Stop {
    /// The disk failed or was stopped by a fault: the power goes.
    Disk,
    /// It said what its disk did instead of starting, and was given empty ones.
    Replaced(String),
    /// What no fault explains.
    Defect(String),
}

impl Node {
    pub fn new(number: u16, sync_us: (u64, u64)) -> Node {
        Node {
            number,
            life: 0,
            running: None,
            log_disk: SimulatedDisk::new(),
            data_disk: SimulatedDisk::new(),
            log_stop_at: None,
            data_stop_at: None,
            sync_us,
            skew_ns: 0,
            paused_until_us: 0,
            counts: Counts::default(),
            damage: None,
            is_full: false,
            sync_fails: false,
            may_have_forgotten: false,
            durability: Durability::Disk,
        }
    }

    /// Opens the disks and starts the workers.
    pub fn start(&mut self, world: &mut World, shape: &Shape, planted: Planted) -> Result<(), Stop> {
        assert!(self.running.is_none(), "a node runs once");
        self.life += 1;
        self.paused_until_us = 0;
        self.durability = shape.durability;
        if self.may_have_forgotten {
            if let Err(error) = open::mark_rejoining(&mut self.log_disk) {
                return Err(self.refused_start(error.to_string()));
            }
            self.may_have_forgotten = false;
        }
        let config = |worker| WorkerConfig {
            cluster: "sim".to_string(),
            node: NodeNumber(self.number),
            worker,
            worker_count: shape.workers,
            partition_count: shape.partitions,
            replicas: 3,
            durability: shape.durability,
            nodes: shape.statuses.clone(),
            placement: shape.placement.clone(),
            snapshots: shape.snapshots,
            cleaning: CLEANING,
        };
        let log_config = LogConfig {
            segment_size_bytes: LOG_SEGMENT_SIZE_BYTES,
            record_size_max_bytes: 8 << 20,
        };
        let block_config = BlockStoreConfig {
            segment_size_bytes: BLOCK_SEGMENT_SIZE_BYTES,
            ..BlockStoreConfig::default()
        };
        let opened = open::open(
            &mut self.log_disk,
            &mut self.data_disk,
            &config(0),
            log_config,
            block_config,
        );
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(self.refused_start(error.to_string())),
        };
        let defect = |error: open::Error| Stop::Defect(format!("node {} cannot start: {error}", self.number));
        if planted == Planted::VoteForgotten {
            for start in opened.starts.values_mut() {
                start.hard_state.1 = 0;
            }
        }
        let loaded = opened.starts.values().filter(|start| start.snapshot.0 > 0);
        self.counts.snapshots_loaded += loaded.count() as u64;
        let started_us = world.now_us;
        let now = clock(world, started_us, self.skew_ns);
        let mut workers = Vec::new();
        for index in 0..shape.workers {
            let config = config(index);
            let mut random = Random::new(world.random.next_u64());
            let partitions =
                open::partitions(&mut opened.starts, &config, now, &mut random).map_err(defect)?;
            workers.push(WorkerCell {
                worker: Worker::new(config, partitions, now, random),
                inbox: Vec::new(),
                turn_scheduled: false,
                timer_at_us: 0,
                sink: Rc::default(),
                requests: BTreeMap::new(),
                next_token: 0,
            });
        }
        self.running = Some(Running {
            started_us,
            workers,
            rejoining: opened.rejoining,
            log: opened.log,
            log_queue: VecDeque::new(),
            log_refused: None,
            log_busy: None,
            storage: opened.storage,
            storage_queue: VecDeque::new(),
            storage_busy: false,
        });
        for index in 0..shape.workers {
            self.poke(world, index);
        }
        Ok(())
    }

    /// What happened here so far.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        let workers = self.running.iter().flat_map(|running| &running.workers);
        counts.requests_joined += workers
            .clone()
            .map(|cell| cell.worker.requests_joined())
            .sum::<u64>();
        for partition in workers.flat_map(|cell| cell.worker.partitions()) {
            let snapshots = partition.snapshot_counts();
            counts.snapshots_taken += snapshots.taken;
            counts.snapshots_installed += snapshots.installed;
        }
        counts
    }

    /// Ends the process; with `power_lost` what was not synced is up to the dice.
    pub fn stop(&mut self, world: &mut World, power_lost: bool) {
        self.counts = self.counts();
        self.running = None;
        self.life += 1;
        self.sync_fails = false;
        self.log_stop_at = None;
        self.data_stop_at = None;
        if power_lost {
            self.may_have_forgotten = self.durability == Durability::Memory;
            self.log_disk.crash(&mut world.random);
            self.data_disk.crash(&mut world.random);
        } else {
            self.log_disk.restart();
            self.data_disk.restart();
        }
    }

    /// The power will go in the middle of the `changes`th change from now.
    pub fn stop_disk_after(&mut self, data_disk: bool, changes: u64) {
        let (disk, stop_at) = match data_disk {
            true => (&mut self.data_disk, &mut self.data_stop_at),
            false => (&mut self.log_disk, &mut self.log_stop_at),
        };
        disk.stop_after(changes);
        *stop_at = Some(disk.counts().changes + changes);
    }

    fn check_disks(&self) -> Result<(), Stop> {
        let stopped =
            |disk: &SimulatedDisk, at: Option<u64>| at.is_some_and(|at| disk.counts().changes >= at);
        if stopped(&self.log_disk, self.log_stop_at) || stopped(&self.data_disk, self.data_stop_at) {
            return Err(Stop::Disk);
        }
        Ok(())
    }

    pub fn clock(&self, world: &World) -> Option<Now> {
        self.running
            .as_ref()
            .map(|running| clock(world, running.started_us, self.skew_ns))
    }

    /// Sees to it that the worker gets a turn soon.
    pub fn poke(&mut self, world: &mut World, worker: u16) {
        let (node, life) = (self.number, self.life);
        let Some(cell) = self.cell(worker) else { return };
        if !cell.turn_scheduled {
            cell.turn_scheduled = true;
            let delay = world.between(5, 40);
            world.after(delay, Event::Turn { node, worker, life });
        }
    }

    pub fn cell(&mut self, worker: u16) -> Option<&mut WorkerCell> {
        self.running.as_mut()?.workers.get_mut(usize::from(worker))
    }

    pub fn input(&mut self, world: &mut World, worker: u16, input: Input) {
        if let Some(cell) = self.cell(worker) {
            cell.inbox.push(input);
            self.poke(world, worker);
        }
    }

    /// A client's request arrived.
    pub fn submit(
        &mut self,
        world: &mut World,
        worker: u16,
        from: (ConnectionId, u64),
        deadline_ms: u32,
        request: Request,
        reach: Reach,
    ) {
        let Some(now) = self.clock(world) else { return };
        let Some(cell) = self.cell(worker) else { return };
        cell.next_token += 1;
        cell.requests.insert(cell.next_token, from);
        let deadline_us = now.monotonic_us + u64::from(deadline_ms) * 1000;
        let (sink, token) = (cell.sink.clone(), cell.next_token);
        // Every other read of one key takes the way that connections without names of their own take.
        if let Request::Query {
            partition,
            query: Query::KeyGet { key },
        } = &request
            && token.is_multiple_of(2)
        {
            let asker = KeyAsker { sink, token };
            cell.worker.gateway().submit_key(*partition, key, None, asker);
            self.poke(world, worker);
            return;
        }
        cell.worker
            .gateway()
            .submit(request, reach, deadline_us, sink, token);
        self.poke(world, worker);
    }

    /// One turn of a worker: effects that leave the node and answers for clients.
    pub fn turn(
        &mut self,
        world: &mut World,
        worker: u16,
        planted: Planted,
        sends: &mut Vec<Effect>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Stop> {
        let Some(now) = self.clock(world) else {
            return Ok(());
        };
        let (node, life) = (self.number, self.life);
        let Some(cell) = self.cell(worker) else {
            return Ok(());
        };
        let mut inputs = std::mem::take(&mut cell.inbox);
        let mut effects = Vec::new();
        cell.worker.turn(now, &mut inputs, &mut effects);
        for (token, result) in cell.sink.completed.borrow_mut().drain(..) {
            if let Some((connection, frame)) = cell.requests.remove(&token) {
                answers.push((connection, frame, result));
            }
        }
        let failed = cell.worker.partitions().find_map(|partition| {
            partition
                .failed()
                .map(|reason| (partition.id(), reason.to_owned()))
        });
        if let Some((partition, reason)) = failed {
            return Err(Stop::Defect(format!(
                "{partition} failed on node {node}: {reason}"
            )));
        }
        let wake_us = cell.worker.next_wake_us();
        let started_us = self.running.as_ref().map_or(0, |running| running.started_us);
        let wake_at_us = (wake_us.saturating_sub(MONOTONIC_ORIGIN_US) + started_us).max(world.now_us + 1);
        if let Some(cell) = self.cell(worker)
            && cell.timer_at_us != wake_at_us
        {
            cell.timer_at_us = wake_at_us;
            world.at(wake_at_us, Event::Timer { node, worker, life });
        }
        for effect in effects {
            match effect {
                Effect::Send { .. } => sends.push(effect),
                Effect::Sibling { to, message } => self.input(
                    world,
                    to,
                    Input::Sibling {
                        from: worker,
                        message,
                    },
                ),
                Effect::Persist { batch, records } => {
                    world.trace.mix(batch << 16 ^ records.len() as u64);
                    if let Some(running) = &mut self.running {
                        running.log_queue.push_back((worker, batch, records));
                    }
                }
                Effect::Storage(request) => {
                    if let Some(running) = &mut self.running {
                        running.storage_queue.push_back((worker, request));
                    }
                }
            }
        }
        self.finish_rejoining()?;
        self.begin_log(world, planted)?;
        self.begin_storage(world);
        Ok(())
    }

    fn finish_rejoining(&mut self) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        if !running.rejoining || running.workers.iter().any(|cell| cell.worker.is_rejoining()) {
            return Ok(());
        }
        running.rejoining = false;
        self.counts.rejoined += u64::from(self.life > 1);
        let cleared = open::clear_rejoining(&mut self.log_disk);
        self.check_disks()?;
        cleared.map_err(|error| Stop::Defect(format!("node {}: {error}", self.number)))
    }

    /// Appends everything that waits; the sync ends later.
    fn begin_log(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let is_idle = running.log_queue.is_empty() && running.log_refused.is_none();
        if running.log_busy.is_some() || is_idle {
            return Ok(());
        }
        let (mut newest, mut records) = running.log_refused.take().unwrap_or_default();
        for (worker, batch, batch_records) in running.log_queue.drain(..) {
            newest.insert(worker, batch);
            records.extend(batch_records);
        }
        let appended = running.log.append(&mut self.log_disk, &records);
        self.check_disks()?;
        if let Err(log::Error::NoSpace) = appended
            && self.is_full
        {
            // Nothing was written and nothing promised: everything waits until there is room.
            self.counts.full_disk_waits += 1;
            if let Some(running) = &mut self.running {
                running.log_refused = Some((newest, records));
            }
            let (node, life) = (self.number, self.life);
            world.after(NO_SPACE_PAUSE_US, Event::LogRetry { node, life });
            return Ok(());
        }
        if let Err(error) = appended {
            if self.is_full {
                self.counts.full_disk_stops += 1;
                return Err(Stop::Disk);
            }
            if self.sync_fails {
                return Err(Stop::Disk);
            }
            return Err(Stop::Defect(format!(
                "the log of node {} refused a batch: {error}",
                self.number
            )));
        }
        let duration = world.between(self.sync_us.0, self.sync_us.1);
        world.after(
            duration,
            Event::LogDone {
                node: self.number,
                life: self.life,
            },
        );
        if planted == Planted::AckBeforeSync || self.durability == Durability::Memory {
            for (worker, batch) in &newest {
                self.input(world, *worker, Input::LogPersisted { batch: *batch });
            }
        }
        if let Some(running) = &mut self.running {
            running.log_busy = Some(newest);
        }
        Ok(())
    }

    pub fn log_retry(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        self.begin_log(world, planted)
    }

    pub fn log_done(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let Some(newest) = running.log_busy.take() else {
            return Ok(());
        };
        let synced = running.log.sync(&mut self.log_disk);
        let idle = running.log_queue.is_empty();
        // An error here was injected: the log is fail-stop.
        if synced.is_err() {
            return Err(Stop::Disk);
        }
        self.check_disks()?;
        if planted != Planted::AckBeforeSync && self.durability == Durability::Disk {
            for (worker, batch) in newest {
                self.input(world, worker, Input::LogPersisted { batch });
            }
        }
        if idle && let Some(running) = &mut self.running {
            let tidied = running
                .log
                .collect_garbage(&mut self.log_disk)
                .and_then(|_| running.log.prepare(&mut self.log_disk));
            match tidied {
                Ok(_) => {}
                // The append that needs the next segment will say so.
                Err(log::Error::NoSpace) if self.is_full => {}
                Err(_) => return Err(Stop::Disk),
            }
            self.check_disks()?;
        }
        self.begin_log(world, planted)
    }

    fn begin_storage(&mut self, world: &mut World) {
        let (node, life) = (self.number, self.life);
        let Some(running) = &mut self.running else { return };
        if !running.storage_busy && !running.storage_queue.is_empty() {
            running.storage_busy = true;
            let duration = world.between(self.sync_us.0, self.sync_us.1);
            world.after(duration, Event::StorageDone { node, life });
        }
    }

    pub fn storage_done(&mut self, world: &mut World) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.storage_busy = false;
        let count = running.storage_queue.len().min(STORAGE_GROUP_MAX);
        let requests: Vec<_> = running.storage_queue.drain(..count).collect();
        let mut events = Vec::new();
        running
            .storage
            .execute(&mut self.data_disk, requests, &mut events);
        self.check_disks()?;
        for (worker, event) in events {
            if self.is_full && is_refused_for_space(&event) {
                self.counts.full_disk_refusals += 1;
            }
            self.input(world, worker, Input::Storage(event));
        }
        self.begin_storage(world);
        Ok(())
    }
}

/// A block that was not stored, or a snapshot that was not written: with the disk full, for want of space.
fn is_refused_for_space(event: &StorageEvent) -> bool {
    match event {
        StorageEvent::Block { result, .. } => {
            matches!(result, Err(Failure::Refused(Refusal::NoSpace, _)))
        }
        StorageEvent::Snapshot { event, .. } => matches!(event, SnapshotEvent::Failed { .. }),
        StorageEvent::Space { .. } => false,
    }
}

fn clock(world: &World, started_us: u64, skew_ns: i64) -> Now {
    Now {
        monotonic_us: world.now_us - started_us + MONOTONIC_ORIGIN_US,
        unix_ns: UNIX_ORIGIN_NS + world.now_us as i64 * 1000 + skew_ns,
    }
}
