//! The nodes: the real core of each, and stand-ins for the threads and disks around it.
//!
//! Previous in the flow: `simulation`, which brings what arrives. Next: effects, handed to the network, the
//! log and the storage of the node.
//!
//! Here is what a node is, how it starts and how it stops. `cell` is a worker and its turn, `log_executor` and
//! `storage_executor` stand in for the threads beside the workers, `damage` is what disks do wrong.
//!
//! Invariants:
//! - A node whose disk failed or stopped says nothing any more: its power goes in the same moment.

mod cell;
mod damage;
mod log_executor;
mod storage_executor;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bark_core::block_store::{BlockStore, BlockStoreConfig};
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{Log, LogConfig, Record};
use bark_core::members::{DiskClaim, Members};
use bark_core::open;
use bark_core::partition::SnapshotConfig;
use bark_core::random::Random;
use bark_core::storage::Storage;
use bark_core::time::Now;
use bark_core::worker::event::{Input, StorageRequest};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::NodeStatus;
use bark_schema::placement::Ring;

pub use self::cell::{Answer, Asker, WorkerCell};
use crate::fault::Damage;
use crate::world::{Event, World};
use crate::{Counts, Planted};

/// Small, so that a run fills several.
const LOG_SEGMENT_SIZE_BYTES: u64 = 64 << 10;
pub const BLOCK_CONFIG: BlockStoreConfig = BlockStoreConfig {
    segment_size_bytes: 256 << 10,
    capacity_bytes: u64::MAX,
};
/// Everything a hundred times sooner than on real nodes, so that short runs see all of it.
const CLEANING: CleaningConfig = CleaningConfig {
    garbage_horizon_us: 2_000_000,
    orphan_age_us: 8_000_000,
    patch_age_us: 1_000_000,
    patch_space_max: 32 << 10,
    store_period_us: 1_000_000,
    copies_period_us: 6_000_000,
    away_us: 6_000_000,
    mend_bytes_per_second: 8 << 20,
    scrub_period_us: 7_000_000,
    scrub_bytes_per_second: 8 << 20,
};
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
    pub ring: Arc<Ring>,
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
    /// Of its disks; others know them by it.
    pub incarnation: u64,
    /// What it knows of the others' disks.
    pub members: Members,
    copy: Option<damage::Copy>,
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
    /// Workers whose partitions behave as ones that may have forgotten; all, if the node knew when it started.
    knowing: BTreeSet<u16>,
    log: Log,
    log_queue: VecDeque<(u16, u64, Vec<Record>)>,
    /// What did not fit on the disk: the newest batch of each worker, and the records.
    log_refused: Option<(BTreeMap<u16, u64>, Vec<Record>)>,
    /// The newest batch of each worker in the sync that runs.
    log_busy: Option<BTreeMap<u16, u64>>,
    log_busy_since_us: u64,
    storage: Storage,
    storage_queue: VecDeque<(u16, StorageRequest)>,
    storage_busy: bool,
}

impl Running {
    /// How far the log is durable.
    pub fn log_position(&self) -> u64 {
        self.log.durable_position()
    }

    pub fn blocks(&self) -> &BlockStore {
        self.storage.blocks()
    }
}

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
            incarnation: 1,
            members: Members::default(),
            copy: None,
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
            ring: shape.ring.clone(),
            snapshots: shape.snapshots,
            cleaning: CLEANING,
        };
        let log_config = LogConfig {
            segment_size_bytes: LOG_SEGMENT_SIZE_BYTES,
            record_size_max_bytes: 8 << 20,
        };
        let opened = open::open(
            &mut self.log_disk,
            &mut self.data_disk,
            &config(0),
            log_config,
            BLOCK_CONFIG,
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
            workers.push(WorkerCell::new(Worker::new(config, partitions, now, random)));
        }
        self.running = Some(Running {
            started_us,
            workers,
            rejoining: opened.rejoining,
            knowing: match opened.rejoining {
                true => (0..shape.workers).collect(),
                false => BTreeSet::new(),
            },
            log: opened.log,
            log_queue: VecDeque::new(),
            log_refused: None,
            log_busy: None,
            log_busy_since_us: 0,
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
        for mended in workers.clone().map(|cell| cell.worker.mend_counts()) {
            counts.copies_made += mended.made;
            counts.copies_found_bad += mended.found_bad;
        }
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

    /// What it says of its disks when it says hello.
    pub fn disk_claim(&self) -> Option<DiskClaim> {
        self.running.as_ref().map(|running| DiskClaim {
            incarnation: self.incarnation,
            log_position: running.log_position(),
            rejoining: running.knowing.len() == running.workers.len(),
        })
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
}

fn clock(world: &World, started_us: u64, skew_ns: i64) -> Now {
    Now {
        monotonic_us: world.now_us - started_us + MONOTONIC_ORIGIN_US,
        unix_ns: UNIX_ORIGIN_NS + world.now_us as i64 * 1000 + skew_ns,
    }
}
