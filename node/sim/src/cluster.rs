//! The nodes: the real core of each, and stand-ins for the threads and disks around it.
//!
//! Previous in the flow: `simulation`, which brings what arrives. Next: effects, handed to the network, the
//! log and the storage of the node.
//!
//! The log executor does what the server's log thread does: everything that waits shares one append and one
//! sync, and only then are the workers told. The storage executor carries out batches in order.
//!
//! Invariants:
//! - `LogPersisted` is given only after the sync that covers the batch, unless that bug is planted.
//! - A node whose disk failed or stopped says nothing any more: its power goes in the same moment.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bark_core::block_store::{BlockStore, BlockStoreConfig};
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{Log, LogConfig, Record};
use bark_core::open;
use bark_core::random::Random;
use bark_core::storage::Storage;
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input, StorageRequest};
use bark_core::worker::gateway::{CompletionSink, Reach};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::{Failure, NodeStatus, Reply, Request};

use crate::Planted;
use crate::network::ConnectionId;
use crate::world::{Event, World};

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
}

/// What lives in the process.
pub struct Running {
    started_us: u64,
    pub workers: Vec<WorkerCell>,
    log: Log,
    log_queue: VecDeque<(u16, u64, Vec<Record>)>,
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

/// An answer for a client: connection, frame id, result.
pub type Answer = (ConnectionId, u64, Result<Reply, Failure>);

/// The node cannot go on.
#[derive(Debug)]
pub enum Stop {
    /// The disk failed or was stopped by a fault: the power goes.
    Disk,
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
        }
    }

    /// Opens the disks and starts the workers.
    pub fn start(&mut self, world: &mut World, shape: &Shape, planted: Planted) -> Result<(), Stop> {
        assert!(self.running.is_none(), "a node runs once");
        self.life += 1;
        self.paused_until_us = 0;
        let config = |worker| WorkerConfig {
            cluster: "sim".to_string(),
            node: NodeNumber(self.number),
            worker,
            worker_count: shape.workers,
            partition_count: shape.partitions,
            replicas: 3,
            durability: Durability::Disk,
            nodes: shape.statuses.clone(),
            placement: shape.placement.clone(),
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
        let defect = |error: open::Error| Stop::Defect(format!("node {} cannot start: {error}", self.number));
        let mut opened = open::open(
            &mut self.log_disk,
            &mut self.data_disk,
            &config(0),
            log_config,
            block_config,
        )
        .map_err(defect)?;
        if planted == Planted::VoteForgotten {
            for start in opened.starts.values_mut() {
                start.hard_state.1 = 0;
            }
        }
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
            log: opened.log,
            log_queue: VecDeque::new(),
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

    /// Ends the process; with `power_lost` what was not synced is up to the dice.
    pub fn stop(&mut self, world: &mut World, power_lost: bool) {
        self.running = None;
        self.life += 1;
        self.log_stop_at = None;
        self.data_stop_at = None;
        if power_lost {
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
        self.begin_log(world, planted)?;
        self.begin_storage(world);
        Ok(())
    }

    /// Appends everything that waits; the sync ends later.
    fn begin_log(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        if running.log_busy.is_some() || running.log_queue.is_empty() {
            return Ok(());
        }
        let mut newest = BTreeMap::new();
        let mut records = Vec::new();
        for (worker, batch, batch_records) in running.log_queue.drain(..) {
            newest.insert(worker, batch);
            records.extend(batch_records);
        }
        let appended = running.log.append(&mut self.log_disk, &records);
        self.check_disks()?;
        if let Err(error) = appended {
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
        if planted == Planted::AckBeforeSync {
            for (worker, batch) in &newest {
                self.input(world, *worker, Input::LogPersisted { batch: *batch });
            }
        }
        if let Some(running) = &mut self.running {
            running.log_busy = Some(newest);
        }
        Ok(())
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
        if planted != Planted::AckBeforeSync {
            for (worker, batch) in newest {
                self.input(world, worker, Input::LogPersisted { batch });
            }
        }
        if idle && let Some(running) = &mut self.running {
            let tidied = running
                .log
                .collect_garbage(&mut self.log_disk)
                .and_then(|_| running.log.prepare(&mut self.log_disk));
            if tidied.is_err() {
                return Err(Stop::Disk);
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
            self.input(world, worker, Input::Storage(event));
        }
        self.begin_storage(world);
        Ok(())
    }
}

fn clock(world: &World, started_us: u64, skew_ns: i64) -> Now {
    Now {
        monotonic_us: world.now_us - started_us + MONOTONIC_ORIGIN_US,
        unix_ns: UNIX_ORIGIN_NS + world.now_us as i64 * 1000 + skew_ns,
    }
}
