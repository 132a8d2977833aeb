//! The calls a worker has under way: who asked, where the request is now, and until when it may take.
//!
//! A call that cannot be carried out now (no leader, busy, held by a transaction) is held, and with it every
//! later call to the same partition, so that requests of one connection keep their order. Held calls are
//! released together.

use std::collections::BTreeMap;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::Request;

use super::gateway::{Reach, Waiter};
use crate::partition::event::CallId;

/// First pause before a held call is tried again, doubled up to the maximum.
const HOLD_US_MIN: u64 = 5_000;
const HOLD_US_MAX: u64 = 160_000;

pub struct Call {
    pub request: Request,
    pub reach: Reach,
    pub deadline_us: u64,
    pub waiter: Waiter,
    /// Where it is being carried out now.
    pub place: Place,
    pub attempts: u32,
    /// It was handed to a leader at least once and never certainly refused since.
    pub maybe_applied: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    Held,
    Here,
    Node(NodeNumber),
    Sibling(u16),
}

#[derive(Default)]
pub struct Calls {
    table: BTreeMap<CallId, Call>,
    next: u64,
    held: BTreeMap<PartitionId, Hold>,
}

struct Hold {
    until_us: u64,
    calls: Vec<CallId>,
}

impl Calls {
    /// The worker's index lies in the upper 16 bits, so that answers find their worker. The rest begins where
    /// `drawn` says: an answer meant for an earlier life of this node must not fit a call of this one.
    pub fn new(worker: u16, drawn: u64) -> Calls {
        Calls {
            table: BTreeMap::new(),
            // One bit is left free, so that counting never reaches the worker.
            next: u64::from(worker) << 48 | drawn >> 17,
            held: BTreeMap::new(),
        }
    }

    pub fn worker_of(call: CallId) -> u16 {
        (call.0 >> 48) as u16
    }

    pub fn insert(&mut self, call: Call) -> CallId {
        self.next += 1;
        let id = CallId(self.next);
        self.table.insert(id, call);
        id
    }

    pub fn get(&self, id: CallId) -> Option<&Call> {
        self.table.get(&id)
    }

    pub fn get_mut(&mut self, id: CallId) -> Option<&mut Call> {
        self.table.get_mut(&id)
    }

    pub fn remove(&mut self, id: CallId) -> Option<Call> {
        self.table.remove(&id)
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether calls to this partition must queue behind held ones.
    pub fn is_held(&self, partition: PartitionId) -> bool {
        self.held.contains_key(&partition)
    }

    /// Puts a call aside until the partition can be tried again.
    pub fn hold(&mut self, partition: PartitionId, id: CallId, now_us: u64, jitter: u64) {
        let Some(call) = self.table.get_mut(&id) else {
            return;
        };
        call.place = Place::Held;
        let pause = (HOLD_US_MIN << call.attempts.min(5)).min(HOLD_US_MAX);
        let until_us = now_us + pause + jitter % (pause / 2 + 1);
        let hold = self.held.entry(partition).or_insert(Hold {
            until_us,
            calls: Vec::new(),
        });
        hold.calls.push(id);
    }

    /// Takes the calls whose partitions may be tried again, oldest first.
    pub fn take_due(&mut self, now_us: u64) -> Vec<CallId> {
        let due: Vec<PartitionId> = self
            .held
            .iter()
            .filter(|(_, hold)| hold.until_us <= now_us)
            .map(|(partition, _)| *partition)
            .collect();
        let mut calls: Vec<CallId> = due
            .iter()
            .filter_map(|partition| self.held.remove(partition))
            .flat_map(|hold| hold.calls)
            .collect();
        calls.sort_unstable();
        calls.retain(|id| self.table.contains_key(id));
        calls
    }

    pub fn next_due_us(&self) -> Option<u64> {
        self.held.values().map(|hold| hold.until_us).min()
    }

    pub fn expired(&self, now_us: u64) -> Vec<CallId> {
        self.table
            .iter()
            .filter(|(_, call)| call.deadline_us <= now_us)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Calls that are with a node now, oldest first.
    pub fn with_node(&self, node: NodeNumber) -> Vec<CallId> {
        self.table
            .iter()
            .filter(|(_, call)| call.place == Place::Node(node))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Calls that are with any other node, oldest first.
    pub fn with_nodes(&self) -> Vec<(CallId, NodeNumber)> {
        self.table
            .iter()
            .filter_map(|(id, call)| match call.place {
                Place::Node(node) => Some((*id, node)),
                _ => None,
            })
            .collect()
    }
}
