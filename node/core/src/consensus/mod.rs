//! One Raft group: the only module that names the Raft library.
//!
//! Previous in the flow: `partition` proposes and reads. Next: `worker` carries messages to other nodes
//! and records to the log.
//!
//! The library is a plain state machine. Three things are added here: its election timeouts come from
//! our seeded generator (its own are drawn from the operating system), its messages become the schema's
//! `RaftMessage` and `Heartbeat`, and what must wait for the disk is kept apart from what may leave
//! at once.
//!
//! Invariants:
//! - Messages that promise durability leave only when the batch that carries their records was synced.
//! - Entries are readable through [`GroupStorage`] before the library is told they are appended.
//! - Every size the library leaves unlimited is limited.
//!
//! Price: the library keeps its own copy of unstable entries until the storage has them; payloads are
//! reference-counted, so that is a few words an entry.

// The library's messages are generated, with private fields: they can only be filled one by one.
#![allow(clippy::field_reassign_with_default)]

mod storage;
mod transport;

use std::collections::VecDeque;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::SnapshotMetadata;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::log::Record;
use crate::random::Random;
pub use storage::GroupStorage;
pub use transport::{Outgoing, from_heartbeat, from_raft_message, library_entry};

/// 10 ticks of 40 ms: a leader is missed after 400 ms, and the field elects a new one within 800 ms.
pub const ELECTION_TICKS: usize = 10;
/// Heartbeats every 80 ms.
pub const HEARTBEAT_TICKS: usize = 2;
/// Largest append message, unless a single entry is larger.
const APPEND_SIZE_BYTES_MAX: u64 = 1 << 20;
const APPENDS_INFLIGHT_MAX: usize = 64;
/// Proposals beyond this much uncommitted data are refused as busy.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
const COMMITTED_BYTES_PER_READY_MAX: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not the leader")]
    NotLeader,
    #[error("too much data waits for a quorum")]
    Busy,
    #[error("consensus library: {0}")]
    Library(String),
}

/// What a group wants done after it was stepped.
#[derive(Default)]
pub struct GroupOutput {
    /// May leave at once.
    pub messages: Vec<Outgoing>,
    /// To be written to the log; `persisted` is called when they are durable.
    pub records: Vec<Record>,
    /// A snapshot whose state replaces everything; comes before `committed`.
    pub snapshot: Option<SnapshotMetadata>,
    pub committed: Vec<CommittedEntry>,
    /// (read round, index): reads of that round may be served once `index` is applied.
    pub confirmed_reads: Vec<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct CommittedEntry {
    pub index: u64,
    pub term: u64,
    pub data: Bytes,
}

/// Where a log ends. Ordered as Raft orders logs: by the last entry's term, then by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEnd {
    pub term: u64,
    pub index: u64,
}

pub struct Group {
    partition: PartitionId,
    node: NodeNumber,
    raw: RawNode<GroupStorage>,
    election_seed: u64,
    /// Readies handed to the log but not durable yet, with the messages that wait for them.
    unpersisted: VecDeque<Unpersisted>,
    /// The newest ready number, and whether anything was ever asked to be durable since.
    last_ready_number: u64,
}

struct Unpersisted {
    number: u64,
    /// The log batch that carries it, once known.
    batch: Option<u64>,
    messages: Vec<Outgoing>,
}

impl Group {
    /// `applied` is the index of the state the partition was loaded with.
    pub fn new(
        partition: PartitionId,
        node: NodeNumber,
        storage: GroupStorage,
        applied: u64,
        mut random: Random,
    ) -> Result<Group, Error> {
        let config = raft::Config {
            id: u64::from(node.0),
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: APPEND_SIZE_BYTES_MAX,
            max_inflight_msgs: APPENDS_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            // Followers hear of a commit with the next append or heartbeat: nobody reads from them, and to tell them at
            // once costs as many messages as the entry itself.
            skip_bcast_commit: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(
            tracing_slog::TracingSlogDrain,
            slog::o!("partition" => partition.0),
        );
        let raw = RawNode::new(&config, storage, &logger).map_err(library)?;
        let mut group = Group {
            partition,
            node,
            raw,
            election_seed: random.next_u64(),
            unpersisted: VecDeque::new(),
            last_ready_number: 0,
        };
        group.set_election_timeout();
        Ok(group)
    }

    pub fn role(&self) -> Role {
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        }
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    pub fn leader(&self) -> Option<NodeNumber> {
        match self.raw.raft.leader_id {
            0 => None,
            id => u16::try_from(id).ok().map(NodeNumber),
        }
    }

    pub fn last_index(&self) -> u64 {
        self.raw.raft.raft_log.last_index()
    }

    pub fn log_end(&self) -> LogEnd {
        let log = &self.raw.raft.raft_log;
        LogEnd {
            term: log.last_term(),
            index: log.last_index(),
        }
    }

    /// As far as it was reported durable.
    pub fn durable_log_end(&self) -> LogEnd {
        let log = &self.raw.raft.raft_log;
        LogEnd {
            term: log.term(log.persisted).unwrap_or(0),
            index: log.persisted,
        }
    }

    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    pub fn storage(&self) -> &GroupStorage {
        self.raw.store()
    }

    pub fn storage_mut(&mut self) -> &mut GroupStorage {
        self.raw.mut_store()
    }

    /// One election clock tick.
    pub fn tick(&mut self) {
        if self.installs_snapshot() {
            return self.tick_without_campaign();
        }
        self.raw.tick();
        self.set_election_timeout();
    }

    /// A snapshot took the place of the log, and is not durable yet. The library may not be told that it is applied
    /// until then, and looks for what is not applied when it stands for election: in a log that is gone.
    fn installs_snapshot(&self) -> bool {
        self.raw.raft.raft_log.applied < self.raw.store().compacted_index()
    }

    /// A tick of one that must not stand for election. The clock runs until it would, past the time for which a
    /// follower refuses votes out of loyalty to its leader.
    pub fn tick_without_campaign(&mut self) {
        let patience_ticks = 2 * ELECTION_TICKS - 1;
        self.raw.raft.set_randomized_election_timeout(patience_ticks);
        if self.raw.raft.election_elapsed + 1 < patience_ticks {
            self.raw.tick();
        }
        self.set_election_timeout();
    }

    /// Goes to `term` without a vote in it. The caller knows that no vote given before can count there.
    pub fn enter_term(&mut self, term: u64) {
        assert!(term > self.term(), "terms only go forward");
        self.raw.raft.become_follower(term, 0);
        self.set_election_timeout();
    }

    /// Leads and follows nobody until it hears of a leader.
    pub fn step_down(&mut self) {
        let term = self.term();
        self.raw.raft.become_follower(term, 0);
        self.set_election_timeout();
    }

    /// A group of one need not wait for its own silence.
    pub fn campaign(&mut self) -> Result<(), Error> {
        self.raw.campaign().map_err(library)?;
        self.set_election_timeout();
        Ok(())
    }

    /// Appends an entry and returns its index.
    pub fn propose(&mut self, data: Bytes) -> Result<u64, Error> {
        if self.role() != Role::Leader || self.raw.raft.lead_transferee.is_some() {
            return Err(Error::NotLeader);
        }
        // What RawNode::propose does, with bytes that the caller may share.
        let mut entry = eraftpb::Entry::default();
        entry.data = data;
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.from = u64::from(self.node.0);
        message.set_entries(vec![entry].into());
        match self.raw.raft.step(message) {
            Ok(()) => Ok(self.last_index()),
            Err(raft::Error::ProposalDropped) => Err(Error::Busy),
            Err(error) => Err(library(error)),
        }
    }

    /// The only voter, with an entry of its term committed: nobody else can lead, so reads need not ask. What
    /// they must see is then everything up to the index returned.
    pub fn leads_alone(&self) -> Option<u64> {
        let raft = &self.raw.raft;
        let alone = raft.prs().conf().voters().ids().len() == 1;
        (alone && self.role() == Role::Leader && raft.commit_to_current_term()).then(|| self.commit_index())
    }

    /// Asks a quorum whether this is still the leader. `round` is never used twice.
    pub fn read_index(&mut self, round: u64) {
        self.raw.read_index(round.to_le_bytes().to_vec());
    }

    pub fn step(&mut self, message: eraftpb::Message) -> Result<(), Error> {
        if message.msg_type == eraftpb::MessageType::MsgTimeoutNow && self.installs_snapshot() {
            return Ok(()); // the leader that hands over gives up after its election timeout
        }
        let result = self.raw.step(message).map_err(library);
        self.set_election_timeout();
        result
    }

    pub fn report_unreachable(&mut self, node: NodeNumber) {
        self.raw.report_unreachable(u64::from(node.0));
    }

    pub fn report_snapshot(&mut self, node: NodeNumber, sent: bool) {
        let status = if sent {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.raw.report_snapshot(u64::from(node.0), status);
    }

    /// `node` answers, and lacks at most `lag_max` entries.
    pub fn is_nearly_caught_up(&self, node: NodeNumber, lag_max: u64) -> bool {
        let progress = self.raw.raft.prs().get(u64::from(node.0));
        progress.is_some_and(|progress| {
            progress.recent_active && progress.matched.saturating_add(lag_max) >= self.last_index()
        })
    }

    /// Hands leadership over as soon as `node` has everything; given up after an election timeout.
    pub fn transfer_leader(&mut self, node: NodeNumber) {
        self.raw.transfer_leader(u64::from(node.0));
    }

    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Tells the library how far the state machine is.
    /// A snapshot is applied before it is persisted here; the library is told when it is.
    pub fn applied(&mut self, index: u64) {
        let log = &self.raw.raft.raft_log;
        let index = index.min(log.persisted);
        if index > log.applied {
            self.raw.advance_apply_to(index);
        }
    }

    /// Collects everything the group wants done.
    pub fn take_output(&mut self, output: &mut GroupOutput) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.last_ready_number = ready.number();
            let records_before = output.records.len();
            if !ready.snapshot().is_empty() {
                let metadata = ready.snapshot().get_metadata().clone();
                self.raw.mut_store().install(&metadata);
                output.records.push(Record::Reset {
                    partition: self.partition,
                    index: metadata.index,
                    term: metadata.term,
                });
                output.snapshot = Some(transport::schema_metadata(&metadata));
            }
            let entries = ready.take_entries();
            for entry in &entries {
                output.records.push(Record::Entry {
                    partition: self.partition,
                    term: entry.term,
                    index: entry.index,
                    kind: transport::entry_kind(entry),
                    data: entry.data.clone(),
                });
            }
            self.raw.mut_store().append(entries);
            if let Some(hard_state) = ready.hs() {
                // A commit index alone is learnt again from the leader: it costs no record.
                if ready.must_sync() {
                    output.records.push(Record::HardState {
                        partition: self.partition,
                        term: hard_state.term,
                        vote: hard_state.vote,
                        commit: hard_state.commit,
                    });
                }
                let hard_state = hard_state.clone();
                self.raw.mut_store().set_hard_state(hard_state);
            }
            for state in ready.take_read_states() {
                if let Ok(bytes) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) {
                    output
                        .confirmed_reads
                        .push((u64::from_le_bytes(bytes), state.index));
                }
            }
            output.committed.extend(
                ready
                    .take_committed_entries()
                    .into_iter()
                    .map(|entry| CommittedEntry {
                        index: entry.index,
                        term: entry.term,
                        data: entry.data,
                    }),
            );
            transport::convert(self.partition, ready.take_messages(), &mut output.messages);
            let mut waiting = Vec::new();
            transport::convert(self.partition, ready.take_persisted_messages(), &mut waiting);
            let has_records = output.records.len() > records_before;
            let number = ready.number();
            self.raw.advance_append_async(ready);
            if has_records || !self.unpersisted.is_empty() {
                // Without records of its own it waits for the batch before it; there may be none after.
                let batch = if has_records {
                    None
                } else {
                    self.unpersisted.back().and_then(|it| it.batch)
                };
                self.unpersisted.push_back(Unpersisted {
                    number,
                    batch,
                    messages: waiting,
                });
            } else {
                output.messages.append(&mut waiting);
                self.raw.on_persist_ready(number);
            }
        }
        self.set_election_timeout();
    }

    /// The records given out since the last call travel in log batch `batch`.
    pub fn assign_batch(&mut self, batch: u64) {
        for unpersisted in self.unpersisted.iter_mut().rev() {
            if unpersisted.batch.is_some() {
                break;
            }
            unpersisted.batch = Some(batch);
        }
    }

    /// Every log batch up to `batch` is durable: releases what waited for it.
    pub fn persisted(&mut self, batch: u64, messages: &mut Vec<Outgoing>) {
        let mut number = None;
        while let Some(first) = self.unpersisted.front_mut() {
            if first.batch.is_none_or(|carried_by| carried_by > batch) {
                break;
            }
            messages.append(&mut first.messages);
            number = Some(first.number);
            self.unpersisted.pop_front();
        }
        if let Some(number) = number {
            self.raw.on_persist_ready(number);
            self.set_election_timeout();
        }
    }

    pub fn node(&self) -> NodeNumber {
        self.node
    }

    /// The library redraws its timeout from the operating system when it feels like it; this puts one in its
    /// place that depends on seed, term and role alone, however often and in whatever order it is called.
    fn set_election_timeout(&mut self) {
        let ticks = election_timeout_ticks(self.election_seed, self.raw.raft.term, self.raw.raft.state);
        self.raw.raft.set_randomized_election_timeout(ticks);
    }
}

fn election_timeout_ticks(seed: u64, term: u64, role: StateRole) -> usize {
    let drawn_for = Random::new(term).next_u64() ^ (role as u64);
    let spread = Random::new(seed ^ drawn_for).below(ELECTION_TICKS as u64);
    ELECTION_TICKS + spread as usize
}

fn library(error: raft::Error) -> Error {
    Error::Library(error.to_string())
}

/// Rough size of an entry in memory, for budgets.
fn entry_size_bytes(entry: &eraftpb::Entry) -> u64 {
    u64::from(entry.compute_size()) + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_disk_is_slow_with_a_snapshot_stands_for_election_after_it() {
        // Goal: neither silence nor a hand-over makes a group look for entries that the snapshot replaced.
        // Method: a snapshot at 50 arrives, its record is not durable for many election timeouts, then it is.
        let voters: Vec<NodeNumber> = (1..=3).map(NodeNumber).collect();
        let storage = GroupStorage::new(&voters, (1, 0, 0), (0, 0), Vec::new());
        let mut group =
            Group::new(PartitionId(0), NodeNumber(2), storage, 0, Random::new(1)).expect("a group");
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (1, 2, 1);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (50, 1);
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        group.step(message).expect("a snapshot");
        let mut output = GroupOutput::default();
        group.take_output(&mut output);
        assert_eq!(output.snapshot.as_ref().map(|metadata| metadata.index), Some(50));
        group.assign_batch(1);
        group.applied(50);
        for _ in 0..10 * ELECTION_TICKS {
            group.tick();
            assert_eq!(group.role(), Role::Follower);
        }
        let mut hand_over = eraftpb::Message::default();
        hand_over.set_msg_type(eraftpb::MessageType::MsgTimeoutNow);
        (hand_over.from, hand_over.to, hand_over.term) = (1, 2, 1);
        group.step(hand_over).expect("ignored");
        assert_eq!(group.role(), Role::Follower);
        group.persisted(1, &mut Vec::new());
        group.applied(50);
        for _ in 0..2 * ELECTION_TICKS {
            group.tick();
        }
        assert_eq!(group.role(), Role::Candidate);
    }

    #[test]
    fn election_timeouts_depend_on_seed_term_and_role_alone() {
        // Goal: same inputs, same ticks, within bounds; each of the three inputs matters.
        let ticks = |seed, term, role| election_timeout_ticks(seed, term, role);
        for term in 0..100 {
            let drawn = ticks(7, term, StateRole::Follower);
            assert_eq!(drawn, ticks(7, term, StateRole::Follower));
            assert!((ELECTION_TICKS..2 * ELECTION_TICKS).contains(&drawn));
        }
        let differs = |other: &dyn Fn(u64) -> usize| {
            (0..100).any(|term| ticks(7, term, StateRole::Follower) != other(term))
        };
        assert!(differs(&|term| ticks(8, term, StateRole::Follower)));
        assert!(differs(&|term| ticks(7, term + 1, StateRole::Follower)));
        assert!(differs(&|term| ticks(7, term, StateRole::PreCandidate)));
    }
}
