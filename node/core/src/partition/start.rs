//! How a partition comes to be: new, or from what its node recovered.

use std::collections::VecDeque;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::LogEntry;

use super::lease_grace::LeaseGrace;
use super::pending::Pending;
use super::{Partition, SnapshotConfig, rejoin, snapshot};
use crate::consensus::{self, Group, GroupOutput, GroupStorage};
use crate::random::Random;
use crate::state::State;
use crate::time::Now;

/// What a partition starts from: new, or recovered from snapshot and log.
pub struct Start {
    pub replicas: Vec<NodeNumber>,
    pub state: State,
    /// Index and term the state was loaded at; (0, 0) when new.
    pub snapshot: (u64, u64),
    pub hard_state: (u64, u64, u64),
    pub entries: Vec<LogEntry>,
    /// It may have forgotten votes and entries it acknowledged.
    pub rejoin: bool,
}

impl Start {
    /// Nothing is in it yet, and nothing was promised.
    pub fn new(id: PartitionId, partitions_count: u16, replicas: Vec<NodeNumber>) -> Start {
        Start {
            replicas,
            state: State::new(id, partitions_count),
            snapshot: (0, 0),
            hard_state: (0, 0, 0),
            entries: Vec::new(),
            rejoin: false,
        }
    }
}

impl Partition {
    pub fn open(
        id: PartitionId,
        node: NodeNumber,
        start: Start,
        snapshots: SnapshotConfig,
        mut random: Random,
        now: Now,
    ) -> Result<Partition, consensus::Error> {
        let entries = start.entries.into_iter().map(consensus::library_entry).collect();
        let storage = GroupStorage::new(&start.replicas, start.hard_state, start.snapshot, entries);
        let rejoin =
            (start.rejoin && start.replicas.len() > 1).then(|| rejoin::Rejoin::new(random.next_u64()));
        let hash_seed = random.clone().next_u64();
        let group = Group::new(id, node, storage, start.snapshot.0, random)?;
        let mut partition = Partition {
            id,
            replicas: start.replicas,
            group,
            group_output: GroupOutput::default(),
            time: start.state.time(),
            state: start.state,
            applied: start.snapshot,
            committed: VecDeque::new(),
            commands_left: u64::MAX,
            pending: Pending::default(),
            lock_waits: super::lock_waits::LockWaits::default(),
            was_leader: false,
            hash_points: VecDeque::new(),
            snapshots: snapshot::Snapshots::new(snapshots, now),
            rejoin,
            failed: None,
            completions: Vec::new(),
            returned: Vec::new(),
            ended_runs: Vec::new(),
            unfinished: Vec::new(),
            ticks_as_leader: 0,
            hand_over: None,
            hash_seed,
            turn_us: now.monotonic_us,
            watched: Vec::new(),
            lease_grace: LeaseGrace::default(),
            copies: 0,
        };
        partition.state.set_hash_seed(hash_seed);
        if partition.replicas.len() == 1 {
            partition.group.campaign()?;
        }
        Ok(partition)
    }
}
