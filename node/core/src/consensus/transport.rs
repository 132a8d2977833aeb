//! Between the library's messages and the schema's.
//!
//! Bytes of other nodes are never given to the library's own decoder: it has a known stack overflow on
//! nested groups (RUSTSEC-2024-0437).

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{Heartbeat, LogEntry, RaftKind, RaftMessage, SnapshotMetadata};
use raft::eraftpb::{self, MessageType};

/// A message of one group on its way to another node.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    Raft(RaftMessage),
    /// Travels together with those of all other groups between the two nodes.
    Heartbeat(Heartbeat),
}

/// Converts what the library wants sent; messages to nowhere are dropped.
pub fn convert(partition: PartitionId, messages: Vec<eraftpb::Message>, out: &mut Vec<Outgoing>) {
    for message in messages {
        if let Some(converted) = outgoing(partition, message) {
            out.push(converted);
        }
    }
}

fn outgoing(partition: PartitionId, mut message: eraftpb::Message) -> Option<Outgoing> {
    let from = NodeNumber(u16::try_from(message.from).ok()?);
    let to = NodeNumber(u16::try_from(message.to).ok()?);
    let kind = match message.get_msg_type() {
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            return Some(Outgoing::Heartbeat(Heartbeat {
                partition,
                from,
                to,
                response: message.get_msg_type() == MessageType::MsgHeartbeatResponse,
                term: message.term,
                commit: message.commit,
                context: std::mem::take(&mut message.context),
                hash_index: 0,
                state_hash: 0,
            }));
        }
        MessageType::MsgPropose => RaftKind::Propose,
        MessageType::MsgAppend => RaftKind::Append,
        MessageType::MsgAppendResponse => RaftKind::AppendResponse,
        MessageType::MsgRequestVote => RaftKind::RequestVote,
        MessageType::MsgRequestVoteResponse => RaftKind::RequestVoteResponse,
        MessageType::MsgSnapshot => RaftKind::Snapshot,
        MessageType::MsgTimeoutNow => RaftKind::TimeoutNow,
        MessageType::MsgReadIndex => RaftKind::ReadIndex,
        MessageType::MsgReadIndexResp => RaftKind::ReadIndexResponse,
        MessageType::MsgRequestPreVote => RaftKind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => RaftKind::RequestPreVoteResponse,
        MessageType::MsgTransferLeader => RaftKind::TransferLeader,
        MessageType::MsgUnreachable => RaftKind::Unreachable,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => return None,
    };
    let snapshot = message
        .has_snapshot()
        .then(|| schema_metadata(message.get_snapshot().get_metadata()));
    Some(Outgoing::Raft(RaftMessage {
        partition,
        kind,
        from,
        to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(schema_entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: snapshot.filter(|_| kind == RaftKind::Snapshot),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: std::mem::take(&mut message.context),
        priority: message.priority,
    }))
}

/// A message from another node, as the library wants it. None: it is not the library's.
pub fn from_raft_message(message: RaftMessage) -> Option<eraftpb::Message> {
    let mut converted = eraftpb::Message::default();
    converted.set_msg_type(match message.kind {
        RaftKind::Propose => MessageType::MsgPropose,
        RaftKind::Append => MessageType::MsgAppend,
        RaftKind::AppendResponse => MessageType::MsgAppendResponse,
        RaftKind::RequestVote => MessageType::MsgRequestVote,
        RaftKind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        RaftKind::Snapshot => MessageType::MsgSnapshot,
        RaftKind::TimeoutNow => MessageType::MsgTimeoutNow,
        RaftKind::ReadIndex => MessageType::MsgReadIndex,
        RaftKind::ReadIndexResponse => MessageType::MsgReadIndexResp,
        RaftKind::RequestPreVote => MessageType::MsgRequestPreVote,
        RaftKind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
        RaftKind::TransferLeader => MessageType::MsgTransferLeader,
        RaftKind::Unreachable => MessageType::MsgUnreachable,
        RaftKind::RejoinQuestion | RaftKind::RejoinAnswer => return None,
    });
    converted.from = u64::from(message.from.0);
    converted.to = u64::from(message.to.0);
    converted.term = message.term;
    converted.log_term = message.log_term;
    converted.index = message.index;
    converted.set_entries(message.entries.into_iter().map(library_entry).collect());
    converted.commit = message.commit;
    converted.commit_term = message.commit_term;
    if let Some(metadata) = message.snapshot {
        converted.mut_snapshot().set_metadata(library_metadata(&metadata));
    }
    converted.request_snapshot = message.request_snapshot;
    converted.reject = message.reject;
    converted.reject_hint = message.reject_hint;
    converted.context = message.context;
    converted.priority = message.priority;
    Some(converted)
}

/// A heartbeat from another node, as the library wants it.
pub fn from_heartbeat(heartbeat: Heartbeat) -> eraftpb::Message {
    let mut converted = eraftpb::Message::default();
    converted.set_msg_type(if heartbeat.response {
        MessageType::MsgHeartbeatResponse
    } else {
        MessageType::MsgHeartbeat
    });
    converted.from = u64::from(heartbeat.from.0);
    converted.to = u64::from(heartbeat.to.0);
    converted.term = heartbeat.term;
    converted.commit = heartbeat.commit;
    converted.context = heartbeat.context;
    converted
}

pub fn schema_metadata(metadata: &eraftpb::SnapshotMetadata) -> SnapshotMetadata {
    let nodes = |ids: &[u64]| {
        ids.iter()
            .filter_map(|id| u16::try_from(*id).ok())
            .map(NodeNumber)
            .collect()
    };
    SnapshotMetadata {
        index: metadata.index,
        term: metadata.term,
        voters: nodes(&metadata.get_conf_state().voters),
        learners: nodes(&metadata.get_conf_state().learners),
    }
}

fn library_metadata(metadata: &SnapshotMetadata) -> eraftpb::SnapshotMetadata {
    let mut converted = eraftpb::SnapshotMetadata::default();
    converted.index = metadata.index;
    converted.term = metadata.term;
    converted.mut_conf_state().voters = metadata.voters.iter().map(|node| u64::from(node.0)).collect();
    converted.mut_conf_state().learners = metadata.learners.iter().map(|node| u64::from(node.0)).collect();
    converted
}

pub fn entry_kind(entry: &eraftpb::Entry) -> u8 {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => 0,
        eraftpb::EntryType::EntryConfChange => 1,
        eraftpb::EntryType::EntryConfChangeV2 => 2,
    }
}

fn schema_entry(entry: eraftpb::Entry) -> LogEntry {
    LogEntry {
        term: entry.term,
        index: entry.index,
        kind: entry_kind(&entry),
        data: entry.data,
        context: entry.context,
    }
}

/// An entry as the library wants it.
pub fn library_entry(entry: LogEntry) -> eraftpb::Entry {
    let mut converted = eraftpb::Entry::default();
    converted.set_entry_type(match entry.kind {
        1 => eraftpb::EntryType::EntryConfChange,
        2 => eraftpb::EntryType::EntryConfChangeV2,
        _ => eraftpb::EntryType::EntryNormal,
    });
    converted.term = entry.term;
    converted.index = entry.index;
    converted.data = entry.data;
    converted.context = entry.context;
    converted
}
