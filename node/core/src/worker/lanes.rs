//! Which of the two connections to a node an append takes.
//!
//! An append with a large entry, or with old entries for a replica that catches up, takes the bulk connection: on the control connection the heartbeats of all groups would
//! wait behind it for longer than an election takes. What follows it to the same replica goes there too until that
//! replica has answered for all of it; otherwise it would overtake, be refused for the gap, and the large entry be sent
//! again. The price: such small appends wait behind blocks for a moment.
//!
//! Invariant: appends of one partition to one replica arrive in the order they left.

use std::collections::BTreeMap;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{RaftKind, RaftMessage};

/// Larger than what a full batch of small commands makes.
const LARGE_SIZE_BYTES: usize = (1 << 20) + (1 << 18);

/// A replica that lacks more entries than this behind an append catches up; appends to it that are larger than this
/// would fill the control connection.
const CATCH_UP_ENTRIES_MIN: u64 = 128;
const CATCH_UP_SIZE_BYTES: usize = 64 << 10;

#[derive(Default)]
pub struct Lanes {
    /// By replica: the last index that went over the bulk connection and was not answered yet.
    on_bulk: BTreeMap<(PartitionId, NodeNumber), u64>,
}

impl Lanes {
    /// Whether `message`, with entries of this size, takes the bulk connection.
    pub fn takes_bulk(&mut self, message: &RaftMessage, size_bytes: usize) -> bool {
        let replica = (message.partition, message.to);
        let last = message.entries.last().map_or(message.index, |entry| entry.index);
        let catches_up = last + CATCH_UP_ENTRIES_MIN < message.commit && size_bytes > CATCH_UP_SIZE_BYTES;
        let large = size_bytes > LARGE_SIZE_BYTES || catches_up;
        if message.kind != RaftKind::Append || !(large || self.on_bulk.contains_key(&replica)) {
            return false;
        }
        let awaited = self.on_bulk.entry(replica).or_default();
        *awaited = last.max(*awaited);
        true
    }

    /// A message came in: a replica's answer for all it was sent ends its detour.
    pub fn received(&mut self, message: &RaftMessage) {
        if message.kind != RaftKind::AppendResponse {
            return;
        }
        let replica = (message.partition, message.from);
        if let Some(awaited) = self.on_bulk.get(&replica)
            && (message.reject || message.index >= *awaited)
        {
            self.on_bulk.remove(&replica);
        }
    }

    /// Whatever was on its way to the node is lost.
    pub fn disconnected(&mut self, node: NodeNumber) {
        self.on_bulk.retain(|(_, to), _| *to != node);
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::message::LogEntry;
    use bytes::Bytes;

    use super::*;

    const LEADER: NodeNumber = NodeNumber(1);
    const FOLLOWER: NodeNumber = NodeNumber(2);

    fn message(kind: RaftKind, from: NodeNumber, to: NodeNumber, index: u64) -> RaftMessage {
        RaftMessage {
            partition: PartitionId(3),
            kind,
            from,
            to,
            term: 1,
            log_term: 1,
            index,
            entries: Vec::new(),
            commit: 0,
            commit_term: 0,
            snapshot: None,
            request_snapshot: 0,
            reject: false,
            reject_hint: 0,
            context: Bytes::new(),
            priority: 0,
        }
    }

    fn append(index: u64) -> RaftMessage {
        let entry = LogEntry {
            term: 1,
            index: index + 1,
            kind: 0,
            data: Bytes::new(),
            context: Bytes::new(),
        };
        RaftMessage {
            entries: vec![entry],
            ..message(RaftKind::Append, LEADER, FOLLOWER, index)
        }
    }

    #[test]
    fn appends_behind_a_large_one_follow_it_until_it_is_answered() {
        // Goal: heartbeats do not wait, and nothing overtakes. Method: a large append, small ones, answers in between.
        let mut lanes = Lanes::default();
        assert!(!lanes.takes_bulk(&append(7), 100));
        assert!(lanes.takes_bulk(&append(8), 64 << 20));
        assert!(lanes.takes_bulk(&append(9), 100));
        let vote = message(RaftKind::RequestVote, LEADER, FOLLOWER, 9);
        assert!(!lanes.takes_bulk(&vote, 0), "only appends have an order");
        let answer = |index| message(RaftKind::AppendResponse, FOLLOWER, LEADER, index);
        lanes.received(&answer(9));
        assert!(lanes.takes_bulk(&append(10), 100), "10 is not answered");
        lanes.received(&answer(11));
        assert!(!lanes.takes_bulk(&append(11), 100));
    }

    #[test]
    fn old_entries_for_a_replica_that_catches_up_keep_off_the_control_connection() {
        // Goal: heartbeats of other partitions do not wait behind a log that is sent again. Method: far behind the commit and near it.
        let mut lanes = Lanes::default();
        let behind = |commit| RaftMessage { commit, ..append(8) };
        assert!(!lanes.takes_bulk(&behind(100), 1 << 20), "nearly caught up");
        assert!(!lanes.takes_bulk(&behind(1000), 100), "small");
        assert!(lanes.takes_bulk(&behind(1000), 1 << 20));
    }

    #[test]
    fn a_refusal_or_a_lost_connection_ends_the_detour() {
        // Goal: nobody stays on the slow connection for ever. Method: both ends.
        let mut lanes = Lanes::default();
        assert!(lanes.takes_bulk(&append(8), 64 << 20));
        lanes.received(&RaftMessage {
            reject: true,
            ..message(RaftKind::AppendResponse, FOLLOWER, LEADER, 0)
        });
        assert!(!lanes.takes_bulk(&append(8), 100));
        assert!(lanes.takes_bulk(&append(8), 64 << 20));
        lanes.disconnected(FOLLOWER);
        assert!(!lanes.takes_bulk(&append(8), 100));
    }
}
