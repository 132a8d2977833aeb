//! Giving the leadership of a partition to another replica, without a request that fails.
//!
//! Previous in the flow: `worker/leaders`, which decides who shall lead. Next: `consensus`.
//!
//! From the decision until another leads, the worker holds requests back; what was proposed before goes on. The
//! other must be nearly caught up, so that this is a matter of round trips; if it takes longer than an election
//! would, the hand-over is given up and this replica goes on leading.
//!
//! Invariants:
//! - Leadership is let go in one place, [`Partition::go_on_with_hand_over`].
//! - A leader that hands over proposes nothing.

use bark_schema::ids::NodeNumber;

use super::Partition;

/// Leadership is handed only to a replica that lacks at most this many entries.
const LAG_ENTRIES_MAX: u64 = 128;

pub struct HandOver {
    to: NodeNumber,
    is_let_go: bool,
}

impl Partition {
    /// Begins to hand over to `to`, if it is nearly caught up; true if it was begun.
    pub fn hand_over(&mut self, to: NodeNumber) -> bool {
        let mut begun = false;
        self.guard(|partition| {
            if !partition.is_leader()
                || partition.hand_over.is_some()
                || !partition.group.is_nearly_caught_up(to, LAG_ENTRIES_MAX)
            {
                return;
            }
            partition.propose_batch();
            partition.hand_over = Some(HandOver { to, is_let_go: false });
            partition.go_on_with_hand_over();
            begun = true;
        });
        begun
    }

    /// Requests wait until this is over.
    pub fn is_handing_over(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Called every tick. Whatever a leader promises for a time must have run out before it lets go; this one
    /// promises nothing beyond its term, so it lets go at once.
    pub(super) fn go_on_with_hand_over(&mut self) {
        let is_leader = self.is_leader();
        let Some(hand_over) = &mut self.hand_over else {
            return;
        };
        if !is_leader || (hand_over.is_let_go && !self.group.is_transferring()) {
            self.hand_over = None;
        } else if !hand_over.is_let_go {
            hand_over.is_let_go = true;
            self.group.transfer_leader(hand_over.to);
        }
    }
}
