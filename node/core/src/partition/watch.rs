//! When the calls whose asker wants to know came how far: proposed, synced here, acknowledged, confirmed.
//!
//! Nobody is watched as a rule; then each place where something is noted looks at an empty list and goes on.

use bark_schema::ids::NodeNumber;
use bark_schema::message::{RaftKind, RaftMessage};

use super::Partition;
use super::event::{Asker, CallId};

/// How far one call came, in the worker's time.
pub struct Watched {
    call: CallId,
    pub is_read: bool,
    /// In the entry with this index.
    pub proposed: Option<(u64, u64)>,
    pub synced_us: Option<u64>,
    pub acknowledged: Vec<(NodeNumber, u64)>,
}

impl Partition {
    /// A call that is about to be submitted is to be watched.
    pub fn watch(&mut self, call: CallId) {
        self.watched.push(Watched {
            call,
            is_read: false,
            proposed: None,
            synced_us: None,
            acknowledged: Vec::new(),
        });
    }

    pub fn unwatch(&mut self, call: CallId) -> Option<Watched> {
        let at = self.watched.iter().position(|watched| watched.call == call)?;
        Some(self.watched.swap_remove(at))
    }

    pub(super) fn note_read(&mut self, call: CallId) {
        for watched in &mut self.watched {
            watched.is_read |= watched.call == call;
        }
    }

    /// The calls of an entry that was proposed.
    pub(super) fn note_proposed(&mut self, index: u64, calls: &[Asker]) {
        for watched in &mut self.watched {
            let is_in = |asker: &Asker| matches!(asker, Asker::Call(call) if *call == watched.call);
            if calls.iter().any(is_in) {
                watched.proposed = Some((index, self.turn_us));
            }
        }
    }

    pub(super) fn note_synced(&mut self) {
        let durable = self.group.durable_log_end().index;
        for watched in &mut self.watched {
            if watched.synced_us.is_none() && watched.proposed.is_some_and(|(index, _)| index <= durable) {
                watched.synced_us = Some(self.turn_us);
            }
        }
    }

    pub(super) fn note_acknowledged(&mut self, message: &RaftMessage) {
        if message.kind != RaftKind::AppendResponse || message.reject {
            return;
        }
        for watched in &mut self.watched {
            let has_it = watched.proposed.is_some_and(|(index, _)| index <= message.index);
            let is_known = watched.acknowledged.iter().any(|(node, _)| *node == message.from);
            if has_it && !is_known {
                watched.acknowledged.push((message.from, self.turn_us));
            }
        }
    }
}
