//! The part of a group's log that followers may still need, in memory.
//!
//! The write-ahead log on disk is read once, at start; from then on this is where the consensus library
//! reads. It is cut when a snapshot is durable, but keeps a tail so that a follower that is a little
//! behind is served entries and not a snapshot.
//!
//! Invariants:
//! - Entries are contiguous: `entries[i].index == compacted_index + 1 + i`.
//! - compacted_index <= snapshot index <= applied.

use std::collections::VecDeque;

use bark_schema::ids::NodeNumber;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

pub struct GroupStorage {
    hard_state: HardState,
    conf_state: ConfState,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Index and term of the entry before the first one kept.
    compacted: (u64, u64),
    /// Index and term of the newest durable snapshot; what followers that are far behind are sent.
    snapshot: (u64, u64),
}

impl GroupStorage {
    /// `voters`: all replicas. `snapshot`: index and term the state was loaded at (0, 0 when new).
    pub fn new(
        voters: &[NodeNumber],
        hard_state: (u64, u64, u64),
        snapshot: (u64, u64),
        entries: Vec<Entry>,
    ) -> GroupStorage {
        let (term, vote, commit) = hard_state;
        let mut hard = HardState::default();
        hard.term = term.max(snapshot.1);
        hard.vote = vote;
        let mut conf_state = ConfState::default();
        conf_state.voters = voters.iter().map(|node| u64::from(node.0)).collect();
        let mut storage = GroupStorage {
            hard_state: HardState::default(),
            conf_state,
            entries: VecDeque::new(),
            bytes: 0,
            compacted: snapshot,
            snapshot,
        };
        storage.append(entries);
        hard.commit = commit.clamp(snapshot.0, storage.last());
        storage.hard_state = hard;
        storage
    }

    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.compacted.0,
            "entries before the compacted index are final"
        );
        assert!(first.index <= self.last() + 1, "entries must be contiguous");
        while self.last() >= first.index {
            if let Some(dropped) = self.entries.pop_back() {
                self.bytes -= super::entry_size_bytes(&dropped);
            }
        }
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1, "entries must be contiguous");
            self.bytes += super::entry_size_bytes(&entry);
            self.entries.push_back(entry);
        }
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// A snapshot from the leader replaces the whole log.
    pub fn install(&mut self, metadata: &SnapshotMetadata) {
        self.entries.clear();
        self.bytes = 0;
        self.compacted = (metadata.index, metadata.term);
        self.snapshot = self.compacted;
        self.conf_state = metadata.get_conf_state().clone();
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        self.hard_state.term = self.hard_state.term.max(metadata.term);
    }

    /// The state at `index` is durable in a snapshot: the log may shrink to a tail of that many entries
    /// behind it, as long as all entries together have at most `tail_bytes_max`.
    pub fn snapshot_is_durable(&mut self, index: u64, tail_entries_max: u64, tail_bytes_max: u64) {
        assert!(index >= self.snapshot.0, "snapshots only move forward");
        let Ok(term) = self.term(index) else { return };
        self.snapshot = (index, term);
        let tail_from = index.saturating_sub(tail_entries_max);
        while let Some(first) = self.entries.front() {
            let kept_for_followers = first.index > tail_from && self.bytes <= tail_bytes_max;
            if first.index > index || kept_for_followers {
                break;
            }
            self.compacted = (first.index, first.term);
            self.bytes -= super::entry_size_bytes(first);
            self.entries.pop_front();
        }
    }

    /// Of the entry before the first one kept.
    pub fn compacted_index(&self) -> u64 {
        self.compacted.0
    }

    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.0
    }

    pub fn snapshot_metadata(&self) -> SnapshotMetadata {
        let mut metadata = SnapshotMetadata::default();
        metadata.index = self.snapshot.0;
        metadata.term = self.snapshot.1;
        metadata.set_conf_state(self.conf_state.clone());
        metadata
    }

    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of entries since the last durable snapshot, roughly.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let from = (low - self.compacted.0 - 1) as usize;
        let to = (high - self.compacted.0 - 1) as usize;
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(from..to) {
            size += super::entry_size_bytes(entry);
            if size > limit && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.entries.get((index - self.compacted.0 - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Only the description: the bytes travel on the bulk connection, from the snapshot file.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.0 < request_index || self.snapshot.0 < self.compacted.0 || self.snapshot.0 == 0 {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.snapshot_metadata());
        Ok(snapshot)
    }
}
