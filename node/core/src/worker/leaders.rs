//! Who leads what: even loads, nothing on a node that drains or whose disk stalls, nothing on one that comes and goes.
//!
//! Previous in the flow: the clock, and what other nodes tell of themselves every second ([`Standing`]). Next:
//! `partition/hand_over`.
//!
//! A node is **usable** as a leader while it is connected, was heard of lately, and says neither that it drains nor
//! that its disk is slow. It is **trusted** when it has been usable for a while: ten seconds, and twice as long for
//! each time it went away lately. Only to trusted nodes are partitions handed for the sake of balance, one a second,
//! so a node that restarted gets its share back slowly; its share waits for a minute before others are assigned to it.
//! A node that may not lead hands over at once, to the best usable replica there is.
//!
//! Invariants:
//! - What this node says of itself is never overruled by what it assumes: it leads while it is fit, and hands over
//!   only to nodes that say they are.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::{PeerMessage, Standing};
use bark_schema::operation::{DiskRefusal, NodeStatus};

use super::assignment::assign;
use super::disk_health::DiskHealth;
use super::event::{Effect, SiblingMessage};
use super::{Worker, WorkerConfig};
use crate::time::Now;

/// Silence after which a node counts as gone, whatever its connection says.
const SILENCE_US_MAX: u64 = 3_000_000;
/// How long a node must be usable before partitions are handed to it, ...
const TRUST_US: u64 = 10_000_000;
/// ... doubled for each of the last times it went away, up to 160 s, ...
const FLAPS_MAX: u32 = 4;
/// ... which are forgotten when it stayed this long.
const FLAPS_FORGOTTEN_US: u64 = 300_000_000;
/// A node that is away keeps its share for so long.
const SHARE_WAITS_US: u64 = 60_000_000;
/// A leader stays at least this long (10 s), so that leadership does not wander while nodes come and go.
const LEADERSHIP_TICKS_MIN: u64 = 250;
/// Partitions a node that may not lead begins to hand over in one tick.
const EVACUATIONS_PER_TICK_MAX: usize = 4;

/// What is known of another node.
#[derive(Default)]
struct Known {
    standing: Standing,
    heard_us: Option<u64>,
    /// Since when it has been usable without a break.
    usable_since_us: Option<u64>,
    /// When it last was not, or was never heard of.
    lost_us: u64,
    flaps: u32,
}

#[derive(Default)]
pub struct Leaders {
    draining: bool,
    pub(super) disk: DiskHealth,
    nodes: BTreeMap<NodeNumber, Known>,
    /// The assignment, and for which nodes it was made.
    assigned: Vec<Option<NodeNumber>>,
    assigned_for: BTreeSet<NodeNumber>,
    /// Tell the others at once.
    is_changed: bool,
}

impl Known {
    fn is_trusted(&self, now_us: u64) -> bool {
        let trust_us = TRUST_US << self.flaps;
        self.usable_since_us
            .is_some_and(|since_us| now_us.saturating_sub(since_us) >= trust_us)
    }

    fn is_willing(&self) -> bool {
        !self.standing.draining && !self.standing.disk_slow
    }

    /// Takes note of whether it is connected and speaks.
    fn look(&mut self, is_connected: bool, now_us: u64) {
        let is_heard = self
            .heard_us
            .is_some_and(|heard_us| now_us.saturating_sub(heard_us) <= SILENCE_US_MAX);
        let is_present = is_connected && is_heard;
        if !is_present && let Some(since_us) = self.usable_since_us.take() {
            if now_us.saturating_sub(since_us) >= FLAPS_FORGOTTEN_US {
                self.flaps = 0;
            }
            self.flaps = (self.flaps + 1).min(FLAPS_MAX);
            self.lost_us = now_us;
        } else if is_present && self.is_willing() {
            self.usable_since_us.get_or_insert(now_us);
        } else if is_present {
            // It drains or its disk is slow: not its connection's fault.
            self.usable_since_us = None;
            self.lost_us = now_us;
        }
    }

    /// Partitions are assigned to it, though perhaps not handed over yet.
    fn has_share(&self, now_us: u64) -> bool {
        let waits = now_us.saturating_sub(self.lost_us) < SHARE_WAITS_US;
        self.is_willing() && (self.usable_since_us.is_some() || waits)
    }
}

fn describe(refusal: DiskRefusal) -> &'static str {
    match refusal {
        DiskRefusal::OtherDisk => "it came with another disk than the one that is known",
        DiskRefusal::OlderCopy => "its disk lacks what it had told to be durable: an older copy of it",
    }
}

impl Leaders {
    pub fn new(config: &WorkerConfig, now: Now) -> Leaders {
        let others = config.nodes.iter().map(|node| node.number);
        let known = || Known {
            lost_us: now.monotonic_us,
            ..Known::default()
        };
        Leaders {
            nodes: others
                .filter(|node| *node != config.node)
                .map(|node| (node, known()))
                .collect(),
            ..Leaders::default()
        }
    }

    pub fn set_draining(&mut self, draining: bool) {
        self.is_changed |= self.draining != draining;
        self.draining = draining;
    }

    /// Another worker of this node found its disk stalled.
    pub fn told_stalled(&mut self, now_us: u64) {
        self.is_changed |= !self.disk.is_stalled(now_us);
        self.disk.told_stalled(now_us);
    }

    fn heard(&mut self, from: NodeNumber, standing: Standing, now_us: u64) {
        if let Some(known) = self.nodes.get_mut(&from) {
            known.standing = standing;
            known.heard_us = Some(now_us);
        }
    }

    pub fn disconnected(&mut self, node: NodeNumber, now_us: u64) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.look(false, now_us);
        }
    }

    fn may_lead(&self, now_us: u64) -> bool {
        !self.draining && !self.disk.is_stalled(now_us)
    }

    pub fn describe(&self, node: &mut NodeStatus, own: NodeNumber, now_us: u64) {
        if node.number == own {
            node.draining = self.draining;
            node.disk_slow = self.disk.is_stalled(now_us);
        } else if let Some(known) = self.nodes.get(&node.number) {
            node.draining = known.standing.draining;
            node.disk_slow = known.standing.disk_slow;
        }
    }

    /// Whom each partition is assigned to.
    fn assignment(&mut self, config: &WorkerConfig, now_us: u64) -> &[Option<NodeNumber>] {
        let others = self.nodes.iter().filter(|(_, known)| known.has_share(now_us));
        let mut with_share: BTreeSet<NodeNumber> = others.map(|(node, _)| *node).collect();
        if self.may_lead(now_us) {
            with_share.insert(config.node);
        }
        if self.assigned_for != with_share {
            self.assigned = assign(&config.placement, &with_share);
            self.assigned_for = with_share;
        }
        &self.assigned
    }

    fn assigned_to(&self, partition: PartitionId) -> Option<NodeNumber> {
        self.assigned.get(usize::from(partition.0)).copied().flatten()
    }
}

impl Worker {
    /// Every tick: looks at the others and at the own disk, and leads nothing that it should not.
    pub(super) fn look_at_nodes(&mut self, now: Now) {
        let now_us = now.monotonic_us;
        for (node, known) in &mut self.leaders.nodes {
            known.look(self.gateway.reachable(*node), now_us);
        }
        if self.leaders.disk.judge(now_us) {
            tracing::warn!("the log's disk stalls: this node hands over what it leads");
            self.leaders.is_changed = true;
            for to in (0..self.config.worker_count).filter(|to| *to != self.config.worker) {
                let message = SiblingMessage::DiskStalled;
                self.effects.push(Effect::Sibling { to, message });
            }
        }
        if !self.leaders.may_lead(now_us) {
            self.evacuate(now_us);
        }
        if std::mem::take(&mut self.leaders.is_changed) {
            self.tell_standing(now);
        }
    }

    /// Worker 0 speaks for the node.
    pub(super) fn tell_standing(&mut self, now: Now) {
        if self.config.worker != 0 {
            return;
        }
        let shared = self.gateway.shared();
        let standing = Standing {
            draining: self.leaders.draining,
            disk_slow: self.leaders.disk.is_stalled(now.monotonic_us),
            log_position: self.log_position,
            refusal: None,
        };
        for to in self.leaders.nodes.keys().copied() {
            if shared.peers.borrow().contains(&to) {
                let message = PeerMessage::Standing(Standing {
                    refusal: self.gateway.refusal(to),
                    ..standing
                });
                self.effects.push(Effect::Send {
                    to,
                    bulk: false,
                    message,
                });
            }
        }
    }

    /// A node's word reaches one worker, which tells the others.
    pub(super) fn hear_standing(&mut self, from: NodeNumber, standing: Standing, is_first: bool) {
        let now_us = self.gateway.now().monotonic_us;
        self.leaders.heard(from, standing, now_us);
        for worker in (0..self.config.worker_count).filter(|_| is_first) {
            if worker != self.config.worker {
                self.hand_to_sibling(worker, from, PeerMessage::Standing(standing));
            }
        }
        let Some(refusal) = standing.refusal.filter(|_| !self.refused_by.contains(&from)) else {
            if standing.refusal.is_none() {
                self.refused_by.remove(&from);
            }
            return;
        };
        self.refused_by.insert(from);
        if is_first {
            tracing::error!(
                by = from.0,
                why = describe(refusal),
                "this node is refused, and votes for nothing until an operator lets it in: bark node replace {}",
                self.config.node.0
            );
        }
        self.may_have_forgotten();
    }

    /// This node's disk lacks what it acknowledged: all its partitions rejoin.
    pub(super) fn may_have_forgotten(&mut self) {
        self.effects.push(Effect::MarkRejoining);
        for partition in self.partitions.values_mut() {
            partition.may_have_forgotten(self.gateway.random());
        }
    }

    /// A leader knows of acknowledgements of a partition here that its log does not have.
    pub(super) fn has_forgotten(&mut self, partition: PartitionId) {
        tracing::error!(
            partition = partition.0,
            "this node's log lacks what it acknowledged: its disk is an older copy; its partitions vote again when all \
             other replicas have answered"
        );
        self.may_have_forgotten();
        for to in (0..self.config.worker_count).filter(|to| *to != self.config.worker) {
            let message = SiblingMessage::MayHaveForgotten;
            self.effects.push(Effect::Sibling { to, message });
        }
    }

    /// A node said hello, and was refused or not.
    pub(super) fn greeted(&mut self, node: NodeNumber, refusal: Option<DiskRefusal>, is_first: bool) {
        let was = self.gateway.refusal(node);
        if was == refusal {
            return;
        }
        for to in (0..self.config.worker_count).filter(|_| is_first) {
            if to != self.config.worker {
                let message = SiblingMessage::PeerGreeted { node, refusal };
                self.effects.push(Effect::Sibling { to, message });
            }
        }
        let refused = &self.gateway.shared().refused;
        match refusal {
            Some(refusal) => refused.borrow_mut().insert(node, refusal),
            None => refused.borrow_mut().remove(&node),
        };
        self.leaders.is_changed = true;
        if let Some(refusal) = refusal {
            self.node_is_gone(node);
            if is_first {
                tracing::error!(
                    node = node.0,
                    why = describe(refusal),
                    "the node is refused; if its disk was replaced: bark node replace {}",
                    node.0
                );
            }
        }
    }

    /// Hands over what is led here: this node may not lead.
    fn evacuate(&mut self, now_us: u64) {
        self.leaders.assignment(&self.config, now_us);
        let mut begun = 0;
        for partition in self.partitions.values_mut() {
            if !partition.is_leader() || partition.is_handing_over() {
                continue;
            }
            let assigned = self.leaders.assigned_to(partition.id());
            let mut candidates: Vec<NodeNumber> = partition.replicas().to_vec();
            candidates.retain(|node| {
                let known = self.leaders.nodes.get(node);
                known.is_some_and(|known| known.usable_since_us.is_some())
            });
            candidates.sort_by_key(|node| {
                let known = self.leaders.nodes.get(node);
                let is_trusted = known.is_some_and(|known| known.is_trusted(now_us));
                (Some(*node) != assigned, !is_trusted)
            });
            begun += usize::from(candidates.into_iter().any(|node| partition.hand_over(node)));
            if begun == EVACUATIONS_PER_TICK_MAX {
                return;
            }
        }
    }

    /// Every second: hands one partition to whom it is assigned.
    pub(super) fn spread_leaders(&mut self, now: Now) {
        let now_us = now.monotonic_us;
        if !self.leaders.may_lead(now_us) {
            return;
        }
        self.leaders.assignment(&self.config, now_us);
        for partition in self.partitions.values_mut() {
            let assigned = self.leaders.assigned_to(partition.id());
            let Some(to) = assigned.filter(|node| *node != self.config.node) else {
                continue;
            };
            let known = self.leaders.nodes.get(&to);
            if partition.is_leader()
                && partition.ticks_as_leader() >= LEADERSHIP_TICKS_MIN
                && known.is_some_and(|known| known.is_trusted(now_us))
                && partition.hand_over(to)
            {
                tracing::debug!(partition = partition.id().0, to = to.0, "hands over to even out");
                return;
            }
        }
    }
}
