//! One partition on this node: a Raft group and the state it replicates.
//!
//! Previous in the flow: `worker` hands in requests and messages. Next: `consensus` orders, `state` applies.
//!
//! A turn: `submit_*` collects, [`Partition::flush`] proposes this turn's commands as one entry,
//! [`Partition::collect`] takes what the group wants done, applies what was committed and answers.
//!
//! An entry's data is a sequence of (u32 little-endian length, encoded `Proposal`), where a run of plain SETs may
//! stand for a proposal ([`key_run`]); empty data is a leader's first entry. The state numbers commands by its own
//! count, so versions are unique within an entry.
//!
//! Invariants:
//! - snapshot index <= applied <= committed <= last index.
//! - A reply to a command comes from applying it, never from proposing it.
//! - A partition that failed answers nothing and votes for nothing until the node is restarted.

mod apply;
pub mod event;
mod hand_over;
mod key_run;
mod keys;
mod lease_grace;
mod lock_waits;
mod pending;
mod rejoin;
mod snapshot;
mod snapshot_config;
mod start;
mod submit;
mod watch;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{Heartbeat, RaftKind, RaftMessage};
use bark_schema::operation::{
    Command, Failure, PartitionStatus, Query, Refusal, Reply, RequestId, UnixNanos,
};
use bytes::Bytes;

use crate::consensus::{self, CommittedEntry, Group, GroupOutput, Outgoing, Role};
use crate::state::State;
use crate::time::Now;
use event::{CallId, Completion, Output, Returned};
pub(crate) use key_run::plain_set;
use lease_grace::LeaseGrace;
use pending::{Batch, Pending, WaitingEntry};
pub use snapshot_config::{SnapshotConfig, SnapshotCounts};
pub use start::Start;
pub use watch::Watched;

/// A batch that reached this size is proposed before the turn ends.
const BATCH_SIZE_BYTES_MAX: usize = 1 << 20;
/// Commands in one entry: bounds the time one entry takes to apply.
const BATCH_COMMANDS_MAX: usize = 4096;
/// Replicas compare their state hashes at indexes that are multiples of this.
const HASH_INTERVAL_ENTRIES: u64 = 256;
/// Hash points remembered, so that a follower that is a little ahead or behind can compare.
const HASH_POINTS_MAX: usize = 8;
/// Keys dropped by one expiry entry.
const EXPIRE_LIMIT: u32 = 1024;
/// Inodes dropped with one entry.
const REAP_LIMIT: u32 = 1024;
/// A read round that got no answer for this many ticks is asked again, under a new id.
const READ_ROUND_RETRY_TICKS: u32 = 3;

pub struct Partition {
    id: PartitionId,
    replicas: Vec<NodeNumber>,
    group: Group,
    group_output: GroupOutput,
    state: State,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
    /// Committed, and not applied yet for want of time.
    committed: VecDeque<CommittedEntry>,
    /// How many commands may still be applied in this turn.
    commands_left: u64,
    pending: Pending,
    lock_waits: lock_waits::LockWaits,
    was_leader: bool,
    time: UnixNanos,
    hash_points: VecDeque<(u64, u64)>,
    snapshots: snapshot::Snapshots,
    rejoin: Option<rejoin::Rejoin>,
    failed: Option<String>,
    completions: Vec<Completion>,
    returned: Vec<Returned>,
    ended_runs: Vec<RequestId>,
    /// Commands of our callers that were applied in part.
    unfinished: Vec<(CallId, Option<RequestId>, Command)>,
    ticks_as_leader: u64,
    hand_over: Option<hand_over::HandOver>,
    /// For the state's hash map; not replicated.
    hash_seed: u64,
    turn_us: u64,
    /// Calls whose asker wants to know where the time goes; none as a rule.
    watched: Vec<Watched>,
    lease_grace: LeaseGrace,
    /// Of blocks without a policy of their own; 0: not told.
    copies: usize,
}

impl Partition {
    pub fn id(&self) -> PartitionId {
        self.id
    }

    pub fn is_leader(&self) -> bool {
        self.failed.is_none() && self.group.role() == Role::Leader
    }

    pub fn leader(&self) -> Option<NodeNumber> {
        if self.failed.is_some() {
            None
        } else {
            self.group.leader()
        }
    }

    pub fn replicas(&self) -> &[NodeNumber] {
        &self.replicas
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Blocks with too few copies are known from now on; `copies`: of what has no policy of its own.
    pub fn watch_copies(&mut self, copies: usize) {
        self.copies = copies;
        self.state.watch_copies(copies);
    }

    pub fn term(&self) -> u64 {
        self.group.term()
    }

    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub fn status(&self) -> PartitionStatus {
        let mut status = match self.state.query(0, &Query::PartitionStatus) {
            Ok(Reply::Partition(status)) => status,
            _ => PartitionStatus {
                partition: self.id,
                leader: None,
                term: 0,
                applied: 0,
                state_hash: 0,
                keys: 0,
                inodes: 0,
                file_bytes: 0,
                allocated_bytes: 0,
                orphans: 0,
                log_entries: 0,
                snapshot_index: 0,
                block_bytes: 0,
                garbage_bytes: 0,
                patch_bytes: 0,
            },
        };
        status.leader = self.leader();
        status.term = self.group.term();
        status.applied = self.applied.0;
        status.state_hash = self.state.hash();
        status.log_entries = self.group.storage().entry_count() as u64;
        status.snapshot_index = self.group.storage().snapshot_index();
        status
    }

    /// Proposes what this turn collected.
    pub fn flush(&mut self) {
        self.guard(|partition| {
            partition.propose_batch();
            if partition.pending.reads_unasked && partition.is_leader() {
                partition.ask_read_round();
            }
        });
    }

    pub fn tick(&mut self, now: Now) {
        self.guard(|partition| {
            partition.tick_group();
            partition.go_on_with_hand_over();
            partition.pending.ticks_since_round += 1;
            partition.return_expired(now);
            let unanswered = partition.pending.confirmed.0 < partition.pending.round;
            if partition.is_leader()
                && unanswered
                && !partition.pending.reads.is_empty()
                && partition.pending.ticks_since_round >= READ_ROUND_RETRY_TICKS
            {
                partition.ask_read_round();
            }
            partition.tick_lock_waits();
            if partition.is_leader() {
                partition.ticks_as_leader += 1;
                if partition.state.has_due_keys(now.unix_ms()) {
                    partition.submit_command(now, None, None, Command::KeyExpireDue { limit: EXPIRE_LIMIT });
                }
                let may_end_leases = partition.lease_grace.is_over(now);
                if may_end_leases {
                    partition.end_due_lock_leases(now);
                }
                if may_end_leases && partition.state.has_due_orphans(now.unix_ns) {
                    partition.submit_command(now, None, None, Command::ReapOrphans { limit: REAP_LIMIT });
                }
            } else {
                partition.ticks_as_leader = 0;
                partition.lease_grace.begin();
            }
        });
    }

    /// How long this node has led, in ticks.
    pub fn ticks_as_leader(&self) -> u64 {
        self.ticks_as_leader
    }

    pub fn step(&mut self, message: RaftMessage) {
        if message.to != self.group.node() || !self.replicas.contains(&message.from) {
            return;
        }
        if message.kind == RaftKind::Snapshot {
            // The bytes come on the bulk connection, and bring the description with them.
            return;
        }
        self.guard(|partition| {
            if partition.step_rejoin(&message) {
                return;
            }
            if !partition.watched.is_empty() {
                partition.note_acknowledged(&message);
            }
            let Some(message) = consensus::from_raft_message(message) else {
                return;
            };
            if let Err(error) = partition.group.step(message) {
                tracing::debug!(partition = partition.id.0, %error, "a consensus message was not taken");
            }
        });
    }

    /// True if the leader counts on entries that this replica acknowledged and does not have.
    #[must_use]
    pub fn step_heartbeat(&mut self, heartbeat: Heartbeat) -> bool {
        if heartbeat.to != self.group.node() || !self.replicas.contains(&heartbeat.from) || self.is_asking() {
            return false;
        }
        // A leader tells each replica of commits only as far as that replica acknowledged its log.
        let is_order = !heartbeat.response && heartbeat.term >= self.group.term();
        if is_order && heartbeat.commit > self.group.last_index() && self.failed.is_none() {
            return true;
        }
        self.compare_hash(&heartbeat);
        self.guard(|partition| {
            if let Err(error) = partition.group.step(consensus::from_heartbeat(heartbeat)) {
                tracing::debug!(partition = partition.id.0, %error, "a heartbeat was not taken");
            }
        });
        false
    }

    pub fn peer_unreachable(&mut self, node: NodeNumber) {
        if self.replicas.contains(&node) {
            self.guard(|partition| {
                if partition.group.role() == Role::Leader {
                    partition.group.report_unreachable(node);
                }
            });
            self.snapshots.peer_gone(node);
        }
    }

    /// The records given out since the last call travel in this log batch.
    pub fn assign_batch(&mut self, batch: u64) {
        self.group.assign_batch(batch);
    }

    /// Log batches up to `batch` are durable.
    pub fn persisted(&mut self, batch: u64, output: &mut Output) {
        self.guard(|partition| {
            partition.group.persisted(batch, &mut output.messages);
            if !partition.watched.is_empty() {
                partition.note_synced();
            }
        });
    }

    /// Until the next turn about so many commands are applied: whole entries, at least one. A replica that catches
    /// up has more committed entries at once than the others of its worker can wait for.
    pub fn begin_turn(&mut self, now: Now, commands_max: u64) {
        self.commands_left = commands_max;
        self.turn_us = now.monotonic_us;
    }

    /// When a batch that waits for company is proposed.
    pub fn patient_until_us(&self) -> Option<u64> {
        self.pending.batch.patient_until_us
    }

    /// Committed entries wait for the next turn.
    pub fn has_backlog(&self) -> bool {
        self.failed.is_none() && !self.committed.is_empty()
    }

    /// Applies what was committed and moves everything to be done into `output`.
    pub fn collect(&mut self, now: Now, output: &mut Output) {
        self.guard(|partition| {
            let mut group_output = std::mem::take(&mut partition.group_output);
            partition.group.take_output(&mut group_output);
            partition.notice_role();
            if let Some(metadata) = group_output.snapshot.take() {
                // It has all of them.
                partition.committed.clear();
                partition.install_snapshot(&metadata);
            }
            for confirmed in group_output.confirmed_reads.drain(..) {
                partition.pending.confirmed = partition.pending.confirmed.max(confirmed);
            }
            let mut again = Vec::new();
            partition.committed.extend(group_output.committed.drain(..));
            while partition.commands_left > 0
                && let Some(entry) = partition.committed.pop_front()
            {
                let before = partition.state.applied();
                partition.apply(now, entry, &mut again);
                let commands = partition.state.applied().saturating_sub(before);
                partition.commands_left = partition.commands_left.saturating_sub(commands);
            }
            partition.group.applied(partition.applied.0);
            partition.finish_rejoin();
            partition.serve_confirmed_reads(now, &mut again);
            partition.serve_lock_waits(now);
            partition.go_on_with_unfinished(now);
            if !again.is_empty() {
                partition.submit_command(now, None, None, Command::KeyExpireDue { limit: EXPIRE_LIMIT });
                for read in again {
                    partition.push_read(read);
                }
                partition.flush();
            }
            partition.attach_hashes(&mut group_output.messages);
            partition.snapshots_step(now, &mut group_output.messages, output);
            output.messages.append(&mut group_output.messages);
            output.records.append(&mut group_output.records);
            partition.group_output = group_output;
        });
        output.completions.append(&mut self.completions);
        output.returned.append(&mut self.returned);
        let ended = self.ended_runs.drain(..).map(|first| (self.id, first));
        output.ended_runs.extend(ended);
    }

    /// Whether [`Partition::flush`] or [`Partition::collect`] have something to do at once.
    pub fn has_batch(&self) -> bool {
        let batch = &self.pending.batch;
        let is_due = batch
            .patient_until_us
            .is_none_or(|until_us| until_us <= self.turn_us);
        (is_due && !batch.calls.is_empty()) || self.pending.reads_unasked
    }

    fn propose_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.pending.batch);
        if batch.calls.is_empty() {
            return;
        }
        batch.seal_run();
        let Batch {
            data,
            calls,
            deadline_us,
            ..
        } = batch;
        let data = Bytes::from(data);
        let index_expected = self.group.last_index() + 1;
        let entry = WaitingEntry {
            index: index_expected,
            term: self.group.term(),
            calls,
            data: data.clone(),
            deadline_us,
        };
        match self.group.propose(data) {
            Ok(index) => {
                assert_eq!(index, index_expected, "an entry takes the next index");
                if !self.watched.is_empty() {
                    self.note_proposed(index, &entry.calls);
                }
                self.pending.waiting.push_back(entry);
            }
            Err(error) => {
                let failure = match error {
                    consensus::Error::NotLeader => Failure::NotLeader {
                        leader: self.leader().filter(|leader| *leader != self.group.node()),
                    },
                    other => Failure::Busy(other.to_string()),
                };
                self.give_up(entry, &failure);
                // Reads placed inside the refused entry move to just before it: no command lies between.
                for read in self.pending.reads.iter_mut().rev() {
                    if read.position.entry < index_expected {
                        break;
                    }
                    read.position.command = 0;
                }
            }
        }
    }

    fn ask_read_round(&mut self) {
        self.pending.round += 1;
        self.pending.reads_unasked = false;
        self.pending.ticks_since_round = 0;
        let round = self.pending.round;
        match self.group.leads_alone() {
            Some(index) => self.pending.confirmed = (round, index),
            None => self.group.read_index(round),
        }
    }

    fn notice_role(&mut self) {
        let leads = self.group.role() == Role::Leader;
        if self.was_leader && !leads {
            let leader = self.leader();
            self.give_up_all(
                &Failure::Unknown("the partition's leader changed".to_string()),
                &Failure::NotLeader { leader },
            );
            self.snapshots.stop_sending();
            self.hand_over = None;
        }
        self.was_leader = leads;
    }

    fn attach_hashes(&self, messages: &mut [Outgoing]) {
        let Some(&(index, hash)) = self.hash_points.back() else {
            return;
        };
        for message in messages {
            if let Outgoing::Heartbeat(heartbeat) = message
                && !heartbeat.response
            {
                heartbeat.hash_index = index;
                heartbeat.state_hash = hash;
            }
        }
    }

    fn compare_hash(&mut self, heartbeat: &Heartbeat) {
        let ours = self
            .hash_points
            .iter()
            .find(|(index, _)| *index == heartbeat.hash_index);
        if let Some(&(index, hash)) = ours
            && heartbeat.hash_index != 0
            && hash != heartbeat.state_hash
        {
            self.fail(format!(
                "state differs from the leader's at index {index}: {hash:016x} here, {:016x} at {}",
                heartbeat.state_hash, heartbeat.from
            ));
        }
    }

    fn refuse_not_leader(&mut self, call: Option<CallId>) {
        let leader = self.leader().filter(|leader| *leader != self.group.node());
        self.answer(call, Err(Failure::NotLeader { leader }));
    }

    fn answer(&mut self, call: Option<CallId>, result: Result<Reply, Failure>) {
        if let Some(call) = call {
            self.completions.push(Completion { call, result });
        }
    }

    /// Takes this partition out of service; the others of the node go on.
    fn fail(&mut self, reason: String) {
        tracing::error!(
            partition = self.id.0,
            reason,
            "the partition is out of service on this node; replace its copy"
        );
        let failure = Failure::refused(Refusal::Internal, format!("{} failed: {reason}", self.id));
        self.give_up_all(&failure, &failure);
        self.failed = Some(reason);
    }

    /// Runs `action` unless the partition has failed; a panic inside fails this partition alone.
    fn guard(&mut self, action: impl FnOnce(&mut Partition)) {
        if self.failed.is_some() {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| action(self))) {
            let reason = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
                .unwrap_or_else(|| "panic".to_string());
            self.fail(reason);
        }
    }
}
