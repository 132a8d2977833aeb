//! Snapshots of one partition: taken while commands go on, sent to replicas that are far behind, received.
//!
//! Taking: the state is asked for one chunk at a time and keeps aside what changes meanwhile; the disk
//! thread writes; the next chunk is asked for when the last one was written. When the file is durable the
//! log may shrink.
//!
//! Sending: the library's snapshot message is held back and its bytes are streamed from the file on the
//! bulk connection, one part in flight, each acknowledged.
//!
//! Receiving: parts go to a file and into a loader; when the file is durable and the loader content, the
//! library is given the message as if it had just arrived, and the loaded state takes the old one's place.
//!
//! Invariants:
//! - At most one file of a partition is being written; events of an abandoned one are ignored.
//! - The library hears of a snapshot only when its bytes are durable here.

use std::collections::BTreeMap;

use bark_schema::ids::NodeNumber;
use bark_schema::message::{PeerMessage, RaftKind, RaftMessage, SnapshotChunk, SnapshotMetadata};
use bytes::Bytes;

use super::Partition;
use super::event::{Output, SnapshotEvent, SnapshotRequest};
use super::snapshot_config::{SnapshotConfig, SnapshotCounts};
use crate::consensus::{self, Outgoing};
use crate::log::Record;
use crate::state::{State, StateLoader};
use crate::time::Now;

/// A replica that acknowledges no part for this long is given up until it asks again.
const SEND_TIMEOUT_US: u64 = 10_000_000;
/// The log may grow to a quarter of the state before its size makes a snapshot due: so a large state is
/// written at most four times as often as its changes are.
const STATE_SHARE: u64 = 4;

pub struct Snapshots {
    config: SnapshotConfig,
    counts: SnapshotCounts,
    taking: Option<Taking>,
    receiving: Option<Receiving>,
    sending: BTreeMap<NodeNumber, Sending>,
    /// A received state that waits for the library to accept it.
    loaded: Option<(u64, State)>,
    writer: u64,
    last_taken_us: u64,
    /// Size of the newest own snapshot.
    last_size_bytes: u64,
    requests: Vec<SnapshotRequest>,
    progress: Vec<(NodeNumber, u64, u64, bool)>,
    chunks: Vec<(NodeNumber, SnapshotChunk)>,
    durable: Option<(u64, u64)>,
}

struct Taking {
    writer: u64,
    index: u64,
    term: u64,
    size_bytes: u64,
    disk_busy: bool,
    finishing: bool,
}

struct Receiving {
    writer: u64,
    from: NodeNumber,
    leader_term: u64,
    metadata: SnapshotMetadata,
    loader: StateLoader,
    next_offset: u64,
    finishing: bool,
}

struct Sending {
    metadata: SnapshotMetadata,
    leader_term: u64,
    last_progress_us: u64,
    end: Option<u64>,
}

impl Snapshots {
    pub fn new(config: SnapshotConfig, now: Now) -> Snapshots {
        Snapshots {
            config,
            counts: SnapshotCounts::default(),
            taking: None,
            receiving: None,
            sending: BTreeMap::new(),
            loaded: None,
            writer: 0,
            last_taken_us: now.monotonic_us,
            last_size_bytes: 0,
            requests: Vec::new(),
            progress: Vec::new(),
            chunks: Vec::new(),
            durable: None,
        }
    }

    pub fn stop_sending(&mut self) {
        self.sending.clear();
    }

    pub fn peer_gone(&mut self, node: NodeNumber) {
        // The leader's library learns of it by the time-out, so that it does not try again at once.
        if self
            .receiving
            .as_ref()
            .is_some_and(|receiving| receiving.from == node)
        {
            self.abandon_receiving();
        }
    }

    fn next_writer(&mut self) -> u64 {
        self.writer += 1;
        self.writer
    }

    fn abandon_receiving(&mut self) -> Option<Receiving> {
        self.receiving.take()
    }
}

impl Partition {
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        self.snapshots.counts
    }

    /// A part of a snapshot came from the leader.
    pub fn snapshot_chunk(&mut self, chunk: SnapshotChunk) {
        self.guard(|partition| {
            if !partition.is_asking() {
                partition.receive_chunk(chunk);
            }
        });
    }

    /// A replica acknowledged, or refused, a part.
    pub fn snapshot_progress(
        &mut self,
        now: Now,
        from: NodeNumber,
        index: u64,
        next_offset: u64,
        accepted: bool,
    ) {
        self.guard(|partition| {
            let Some(sending) = partition.snapshots.sending.get_mut(&from) else {
                return;
            };
            if sending.metadata.index != index {
                return;
            }
            sending.last_progress_us = now.monotonic_us;
            if accepted && sending.end != Some(next_offset) {
                let (index, term) = (sending.metadata.index, sending.metadata.term);
                let partition_id = partition.id;
                partition.snapshots.requests.push(SnapshotRequest::Read {
                    partition: partition_id,
                    index,
                    term,
                    offset: next_offset,
                    to: from,
                });
                return;
            }
            partition.snapshots.sending.remove(&from);
            partition.group.report_snapshot(from, accepted);
        });
    }

    /// The disk thread did something.
    pub fn snapshot_event(&mut self, event: SnapshotEvent) {
        self.guard(|partition| match event {
            SnapshotEvent::Created { writer } | SnapshotEvent::Written { writer } => {
                partition.disk_is_free(writer)
            }
            SnapshotEvent::Finished { writer } => partition.file_is_durable(writer),
            SnapshotEvent::Failed { writer } => partition.file_failed(writer),
            SnapshotEvent::Part {
                to,
                index,
                offset,
                data,
                last,
            } => partition.send_part(to, index, offset, data, last),
            SnapshotEvent::Unreadable { to, index } => {
                if partition
                    .snapshots
                    .sending
                    .get(&to)
                    .is_some_and(|sending| sending.metadata.index == index)
                {
                    partition.snapshots.sending.remove(&to);
                    partition.group.report_snapshot(to, false);
                }
            }
        });
    }

    /// Part of [`Partition::collect`]: begins and continues snapshots, and keeps the library's snapshot
    /// messages back.
    pub(super) fn snapshots_step(&mut self, now: Now, messages: &mut Vec<Outgoing>, output: &mut Output) {
        messages.retain(|message| match message {
            Outgoing::Raft(message) if message.kind == RaftKind::Snapshot => {
                self.begin_sending(now, message);
                false
            }
            _ => true,
        });
        self.begin_taking_if_due(now);
        self.continue_taking();
        self.give_up_silent(now);
        if let Some((index, term)) = self.snapshots.durable.take() {
            self.snapshots.last_taken_us = now.monotonic_us;
            let config = self.snapshots.config;
            self.group.storage_mut().snapshot_is_durable(
                index,
                config.tail_entries_max,
                config.tail_bytes_max,
            );
            output.records.push(Record::Snapshot {
                partition: self.id,
                index,
                term,
            });
        }
        output.snapshots.append(&mut self.snapshots.requests);
        output.chunks.append(&mut self.snapshots.chunks);
        let partition = self.id;
        for (to, index, next_offset, accepted) in self.snapshots.progress.drain(..) {
            let message = PeerMessage::SnapshotProgress {
                partition,
                index,
                next_offset,
                accepted,
            };
            output.progress.push((to, message));
        }
    }

    /// Puts a received state in place of the old one; the library has just taken its description.
    pub(super) fn install_snapshot(&mut self, metadata: &SnapshotMetadata) {
        match self.snapshots.loaded.take() {
            Some((index, state)) if index == metadata.index => {
                self.state = state;
                self.state.set_hash_seed(self.hash_seed);
                self.state.watch_copies(self.copies);
                self.applied = (metadata.index, metadata.term);
                self.time = self.time.max(self.state.time());
                self.hash_points.clear();
                self.snapshots.counts.installed += 1;
                tracing::info!(partition = self.id.0, index, "took the leader's snapshot");
            }
            _ => self.fail(format!(
                "a snapshot at index {} was accepted without its state",
                metadata.index
            )),
        }
    }

    fn begin_taking_if_due(&mut self, now: Now) {
        let snapshots = &mut self.snapshots;
        if snapshots.taking.is_some() || snapshots.receiving.is_some() || !snapshots.sending.is_empty() {
            return;
        }
        let storage = self.group.storage();
        let entries = self.applied.0.saturating_sub(storage.snapshot_index());
        let waited = now.monotonic_us.saturating_sub(snapshots.last_taken_us);
        let config = snapshots.config;
        let due = entries >= config.interval_entries
            || storage.bytes() >= config.interval_bytes.max(snapshots.last_size_bytes / STATE_SHARE)
            || waited >= config.interval_us;
        if entries == 0 || !due || waited < config.pause_us_min {
            return;
        }
        let writer = snapshots.next_writer();
        let (index, term) = self.applied;
        self.state.begin_snapshot();
        snapshots.last_taken_us = now.monotonic_us;
        snapshots.requests.push(SnapshotRequest::Create {
            partition: self.id,
            writer,
            index,
            term,
        });
        snapshots.taking = Some(Taking {
            writer,
            index,
            term,
            size_bytes: 0,
            disk_busy: true,
            finishing: false,
        });
    }

    fn continue_taking(&mut self) {
        let Some(taking) = &mut self.snapshots.taking else {
            return;
        };
        if taking.disk_busy {
            return;
        }
        taking.disk_busy = true;
        let chunk_size_bytes = self.snapshots.config.chunk_size_bytes;
        let (partition, writer) = (self.id, taking.writer);
        match self.state.snapshot_chunk(chunk_size_bytes) {
            Some(chunk) => {
                let chunk = Bytes::from(chunk);
                taking.size_bytes += chunk.len() as u64;
                self.snapshots.requests.push(SnapshotRequest::Write {
                    partition,
                    writer,
                    chunk,
                });
            }
            None => {
                taking.finishing = true;
                self.snapshots
                    .requests
                    .push(SnapshotRequest::Finish { partition, writer });
            }
        }
    }

    fn abandon_taking(&mut self) {
        if let Some(taking) = self.snapshots.taking.take() {
            self.state.abandon_snapshot();
            self.snapshots.requests.push(SnapshotRequest::Abandon {
                partition: self.id,
                writer: taking.writer,
            });
        }
    }

    fn disk_is_free(&mut self, writer: u64) {
        if let Some(taking) = &mut self.snapshots.taking
            && taking.writer == writer
        {
            taking.disk_busy = false;
        }
        if let Some(receiving) = &self.snapshots.receiving
            && receiving.writer == writer
            && receiving.next_offset > 0
            && !receiving.finishing
        {
            let progress = (
                receiving.from,
                receiving.metadata.index,
                receiving.next_offset,
                true,
            );
            if self.snapshots.progress.last() != Some(&progress) {
                self.snapshots.progress.push(progress);
            }
        }
    }

    fn file_is_durable(&mut self, writer: u64) {
        if self
            .snapshots
            .taking
            .as_ref()
            .is_some_and(|taking| taking.writer == writer)
            && let Some(taking) = self.snapshots.taking.take()
        {
            self.snapshots.durable = Some((taking.index, taking.term));
            self.snapshots.last_size_bytes = taking.size_bytes;
            self.snapshots.counts.taken += 1;
            return;
        }
        if self
            .snapshots
            .receiving
            .as_ref()
            .is_none_or(|receiving| receiving.writer != writer)
        {
            return;
        }
        let Some(receiving) = self.snapshots.receiving.take() else {
            return;
        };
        let index = receiving.metadata.index;
        let accepted = match receiving.loader.finish() {
            Ok(state) => {
                self.snapshots.loaded = Some((index, state));
                let message = RaftMessage {
                    partition: self.id,
                    kind: RaftKind::Snapshot,
                    from: receiving.from,
                    to: self.group.node(),
                    term: receiving.leader_term,
                    log_term: 0,
                    index: 0,
                    entries: Vec::new(),
                    commit: 0,
                    commit_term: 0,
                    snapshot: Some(receiving.metadata),
                    request_snapshot: 0,
                    reject: false,
                    reject_hint: 0,
                    context: Bytes::new(),
                    priority: 0,
                };
                consensus::from_raft_message(message).is_some_and(|message| self.group.step(message).is_ok())
            }
            Err(error) => {
                tracing::warn!(partition = self.id.0, %error, from = receiving.from.0, "a received snapshot is not whole");
                false
            }
        };
        self.snapshots
            .progress
            .push((receiving.from, index, receiving.next_offset, accepted));
    }

    fn file_failed(&mut self, writer: u64) {
        if self
            .snapshots
            .taking
            .as_ref()
            .is_some_and(|taking| taking.writer == writer)
        {
            self.snapshots.taking = None;
            self.state.abandon_snapshot();
        }
        if self
            .snapshots
            .receiving
            .as_ref()
            .is_some_and(|receiving| receiving.writer == writer)
            && let Some(receiving) = self.snapshots.abandon_receiving()
        {
            self.snapshots
                .progress
                .push((receiving.from, receiving.metadata.index, 0, false));
        }
    }

    fn begin_sending(&mut self, now: Now, message: &RaftMessage) {
        let Some(metadata) = message.snapshot.clone() else {
            return;
        };
        let (index, term) = (metadata.index, metadata.term);
        let already = self
            .snapshots
            .sending
            .get(&message.to)
            .is_some_and(|sending| sending.metadata.index == index);
        if already {
            return;
        }
        tracing::info!(
            partition = self.id.0,
            to = message.to.0,
            index,
            "sending a snapshot"
        );
        let sending = Sending {
            metadata,
            leader_term: message.term,
            last_progress_us: now.monotonic_us,
            end: None,
        };
        self.snapshots.sending.insert(message.to, sending);
        self.snapshots.requests.push(SnapshotRequest::Read {
            partition: self.id,
            index,
            term,
            offset: 0,
            to: message.to,
        });
    }

    fn send_part(&mut self, to: NodeNumber, index: u64, offset: u64, data: Bytes, last: bool) {
        let Some(sending) = self.snapshots.sending.get_mut(&to) else {
            return;
        };
        if sending.metadata.index != index {
            return;
        }
        if last {
            sending.end = Some(offset + data.len() as u64);
        }
        let chunk = SnapshotChunk {
            partition: self.id,
            from: self.group.node(),
            term: sending.leader_term,
            metadata: sending.metadata.clone(),
            offset,
            data,
            last,
        };
        self.snapshots.chunks.push((to, chunk));
    }

    fn give_up_silent(&mut self, now: Now) {
        let silent: Vec<NodeNumber> = self
            .snapshots
            .sending
            .iter()
            .filter(|(_, sending)| {
                now.monotonic_us.saturating_sub(sending.last_progress_us) > SEND_TIMEOUT_US
            })
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            self.snapshots.sending.remove(&node);
            self.group.report_snapshot(node, false);
        }
    }

    fn receive_chunk(&mut self, chunk: SnapshotChunk) {
        let index = chunk.metadata.index;
        let expected = !chunk.metadata.voters.is_empty()
            && self.replicas.contains(&chunk.from)
            && chunk.term >= self.group.term()
            && index > self.applied.0;
        if !expected {
            self.snapshots.progress.push((chunk.from, index, 0, false));
            return;
        }
        if chunk.offset == 0 {
            self.abandon_taking();
            self.snapshots.abandon_receiving();
            let writer = self.snapshots.next_writer();
            let term = chunk.metadata.term;
            self.snapshots.requests.push(SnapshotRequest::Create {
                partition: self.id,
                writer,
                index,
                term,
            });
            self.snapshots.receiving = Some(Receiving {
                writer,
                from: chunk.from,
                leader_term: chunk.term,
                metadata: chunk.metadata.clone(),
                loader: StateLoader::new(),
                next_offset: 0,
                finishing: false,
            });
        }
        let Some(receiving) = &mut self.snapshots.receiving else {
            self.snapshots.progress.push((chunk.from, index, 0, false));
            return;
        };
        let next = receiving.from == chunk.from
            && receiving.metadata.index == index
            && receiving.next_offset == chunk.offset
            && !receiving.finishing;
        if !next {
            return;
        }
        if let Err(error) = receiving.loader.feed(&chunk.data) {
            tracing::warn!(partition = self.id.0, %error, from = chunk.from.0, "a snapshot part is not valid");
            let writer = receiving.writer;
            self.snapshots.requests.push(SnapshotRequest::Abandon {
                partition: self.id,
                writer,
            });
            self.snapshots.abandon_receiving();
            self.snapshots.progress.push((chunk.from, index, 0, false));
            return;
        }
        receiving.next_offset += chunk.data.len() as u64;
        receiving.finishing = chunk.last;
        let (partition, writer) = (self.id, receiving.writer);
        self.snapshots.requests.push(SnapshotRequest::Write {
            partition,
            writer,
            chunk: chunk.data,
        });
        if chunk.last {
            self.snapshots
                .requests
                .push(SnapshotRequest::Finish { partition, writer });
        }
    }
}
