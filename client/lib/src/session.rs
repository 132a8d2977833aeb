//! The client's half of exactly-once: which request goes to which node, when it is repeated, and how it ends.
//!
//! Previous in the flow: `keys` and `files`, which make [`Call`]s. Next: `connection`, which carries
//! [`Outgoing`] to a node and brings the reply back.
//!
//! The session does no I/O: time is an argument, randomness is seeded, and what it wants sent is polled.
//! The tokio client and the whole-cluster simulator drive the very same code. The price is a driver that
//! must ask after every event: [`Session::poll_send`], [`Session::take_completed`], [`Session::next_wake`].
//!
//! Invariants:
//! - A change gets its [`RequestId`] once; every repetition carries the same one.
//! - Nothing is repeated later than `retention_ms` after it began: the nodes remember replies for longer.
//! - A call ends exactly once. A change whose attempt may have been applied ends in a decided reply or in
//!   `Unknown`, never in `Busy`.
//! - Repetitions are paced: jittered backoff for each call, one budget for all of them together.
//! - Same configuration, same events, same outgoing requests: nothing here depends on hash order.

mod call;
mod config;
mod pace;
mod routing;
mod silence;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::operation::{
    ClusterStatus, Command, Failure, NodeRequest, Refusal, Reply, Request, RequestId,
};
use bark_schema::trace::Span;

pub use self::call::{Call, Outgoing, transfer_ms};
pub use self::config::{SessionConfig, Topology};
use self::pace::{Random, RetryBudget};
use self::silence::Silence;

/// How long a node that did not answer is passed over while others might.
const AVOID_MS: u64 = 100;
/// Hints followed without a pause; more in a row mean the replicas disagree, and backing off helps them.
const REDIRECTS_MAX: u32 = 3;

/// Ordered changes that were not applied are tried again when the clock reaches a multiple of this.
const ORDERED_PAUSE_MS: u64 = 25;

/// One call in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In the ready queue.
    Ready,
    /// Backing off; the timer makes it ready.
    Waiting,
    /// An attempt is out; the timer gives it up.
    Sent { frame_id: u64, node: NodeNumber },
}

/// Whether the node of a failed attempt is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeState {
    Answered,
    Silent,
}

#[derive(Debug)]
struct Pending {
    request: Request,
    transfer_ms: u64,
    named: Option<NodeNumber>,
    deadline: u64,
    attempts: u32,
    redirects: u32,
    /// Where the next attempt goes if it is known.
    hint: Option<NodeNumber>,
    /// The last node tried, to go on after it.
    tried: Option<NodeNumber>,
    /// An attempt left whose effect is not known.
    maybe_applied: bool,
    last_failure: Option<Failure>,
    phase: Phase,
    timer: u64,
    /// Every attempt that may still be answered, the current one included.
    frames: Vec<(u64, NodeNumber)>,
}

/// The state of one client of the cluster. See the module's page for how to drive it.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    topology: Topology,
    random: Random,
    budget: RetryBudget,
    next_sequence: u64,
    next_call: u64,
    next_frame: u64,
    unanswered: BTreeSet<u64>,
    leaders: BTreeMap<PartitionId, NodeNumber>,
    avoided: BTreeMap<NodeNumber, u64>,
    silence: Silence,
    calls: BTreeMap<CallId, Pending>,
    frames: BTreeMap<u64, CallId>,
    timers: BTreeSet<(u64, CallId)>,
    ready: VecDeque<CallId>,
    completed: VecDeque<(CallId, Result<Reply, Failure>)>,
    /// Where the time of calls went that were answered, until somebody takes it.
    traces: BTreeMap<CallId, (NodeNumber, Vec<Span>)>,
    /// The sequence of the last ordered change of each partition.
    ordered: BTreeMap<PartitionId, u64>,
}

impl Session {
    pub fn new(config: SessionConfig, topology: Topology) -> Session {
        Session {
            random: Random::new(config.seed),
            budget: RetryBudget::new(),
            next_sequence: 1,
            next_call: 1,
            next_frame: 1,
            unanswered: BTreeSet::new(),
            leaders: BTreeMap::new(),
            avoided: BTreeMap::new(),
            silence: Silence::default(),
            calls: BTreeMap::new(),
            frames: BTreeMap::new(),
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            completed: VecDeque::new(),
            traces: BTreeMap::new(),
            ordered: BTreeMap::new(),
            config,
            topology,
        }
    }

    pub fn client(&self) -> ClientId {
        self.config.client
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The leader this session would ask first, if it has learnt one.
    pub fn leader(&self, partition: PartitionId) -> Option<NodeNumber> {
        self.leaders.get(&partition).copied()
    }

    /// Where the time of a call went that ended, and who answered it; if traces are asked for.
    pub fn take_trace(&mut self, call: CallId) -> Option<(NodeNumber, Vec<Span>)> {
        self.traces.remove(&call)
    }

    /// Takes the leaders a node knows.
    pub fn learn(&mut self, status: &ClusterStatus) {
        for partition in &status.partitions {
            if let Some(leader) = partition.leader
                && self.topology.nodes.contains(&leader)
            {
                self.leaders.insert(partition.partition, leader);
            }
        }
    }

    /// Starts a call that must end by `deadline` (absolute). Its first attempt is ready to be polled.
    pub fn begin(&mut self, now: u64, call: Call, deadline: u64) -> CallId {
        let mut named = None;
        let transfer_ms = transfer_ms(call.bulk_bytes());
        let mut deadline = deadline;
        let request = match call {
            Call::Query { partition, query } => Request::Query { partition, query },
            Call::AnyNode(request) => Request::Node(request),
            Call::NamedNode(node, request) => {
                named = Some(node);
                Request::Node(request)
            }
            Call::Command { partition, command } => {
                deadline = deadline.min(now + self.config.retention_ms);
                Request::Command {
                    partition,
                    id: self.new_request_id(),
                    command,
                }
            }
            Call::Ordered {
                partition,
                time,
                inode,
                awaited,
                command,
            } => {
                deadline = deadline.min(now + self.config.retention_ms);
                let id = self.new_request_id();
                let after = self.ordered.insert(partition, id.sequence).unwrap_or(0);
                let command = Command::Ordered {
                    after,
                    time,
                    inode,
                    awaited,
                    command: Box::new(command),
                };
                Request::Command {
                    partition,
                    id,
                    command,
                }
            }
            Call::Namespace(operation) => {
                deadline = deadline.min(now + self.config.retention_ms);
                Request::Namespace {
                    id: self.new_request_id(),
                    operation,
                }
            }
        };
        let call = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(
            call,
            Pending {
                request,
                transfer_ms,
                named,
                deadline,
                attempts: 0,
                redirects: 0,
                hint: None,
                tried: None,
                maybe_applied: false,
                last_failure: None,
                phase: Phase::Ready,
                timer: deadline,
                frames: Vec::new(),
            },
        );
        self.timers.insert((deadline, call));
        self.ready.push_back(call);
        call
    }

    /// The next ordered change of a partition counts on none before it: those that were out have ended.
    pub fn end_order(&mut self, partition: PartitionId) {
        self.ordered.remove(&partition);
    }

    /// Forgets a call nobody waits for any more. A change that is out may still be applied.
    pub fn abandon(&mut self, call: CallId) {
        self.remove(call);
    }

    /// The next request to put on a connection, if there is one.
    pub fn poll_send(&mut self, now: u64) -> Option<Outgoing> {
        if let Some(question) = self.poll_question() {
            return Some(question);
        }
        while let Some(call) = self.ready.pop_front() {
            let Some(pending) = self.calls.get(&call) else {
                continue;
            };
            if pending.phase != Phase::Ready {
                continue;
            }
            if now >= pending.deadline {
                self.expire(call);
                continue;
            }
            let Some(node) = self.choose(now, call) else {
                self.finish(call, Err(Failure::Busy("the cluster has no nodes".into())));
                continue;
            };
            return self.send(now, call, node);
        }
        None
    }

    fn send(&mut self, now: u64, call: CallId, node: NodeNumber) -> Option<Outgoing> {
        let frame_id = self.next_frame;
        let pending = self.calls.get_mut(&call)?;
        self.next_frame += 1;
        pending.attempts += 1;
        pending.hint = None;
        pending.tried = Some(node);
        pending.phase = Phase::Sent { frame_id, node };
        pending.frames.push((frame_id, node));
        let transfer_ms = pending.transfer_ms;
        let timeout = transfer_ms
            + match pending.named {
                Some(_) => self.config.named_attempt_timeout_ms,
                None => self.config.attempt_timeout_ms,
            };
        let until = pending.deadline.min(now + timeout);
        let outgoing = Outgoing {
            node,
            frame_id,
            deadline_ms: u32::try_from(until - now).unwrap_or(u32::MAX),
            request: match self.config.traced {
                true => Request::Node(NodeRequest::Traced {
                    request: Box::new(pending.request.clone()),
                }),
                false => pending.request.clone(),
            },
        };
        self.frames.insert(frame_id, call);
        self.silence.sent(node, now, transfer_ms);
        self.set_timer(call, until);
        Some(outgoing)
    }

    /// A node answered. Answers to calls that have ended, and second answers, are ignored.
    pub fn on_reply(&mut self, now: u64, node: NodeNumber, frame_id: u64, result: Result<Reply, Failure>) {
        self.avoided.remove(&node);
        self.silence.heard(node, now);
        let Some(call) = self.frames.remove(&frame_id) else {
            return;
        };
        let Some(pending) = self.calls.get_mut(&call) else {
            return;
        };
        pending.frames.retain(|(frame, _)| *frame != frame_id);
        let partition = pending.request.partition();
        let current = matches!(pending.phase, Phase::Sent { frame_id: sent, .. } if sent == frame_id);
        let failure = match result {
            Ok(reply) => {
                let reply = match reply {
                    Reply::Traced(traced) => {
                        self.traces.insert(call, (node, traced.spans));
                        traced.reply
                    }
                    reply => reply,
                };
                if let (Some(partition), true) = (partition, current) {
                    self.leaders.insert(partition, node);
                }
                if let Reply::Cluster(status) = &reply {
                    self.learn(status);
                }
                return self.finish(call, Ok(reply));
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::NotLeader { leader } => {
                self.learn_redirect(partition, node, leader);
                if current {
                    self.redirect(now, call, node, leader);
                }
            }
            // Who names a node knows others to ask, and asks this one again after them.
            Failure::Busy(_) if pending.named.is_some() => self.finish(call, Err(failure)),
            Failure::Busy(_)
            | Failure::Locked { .. }
            | Failure::Delegated { .. }
            | Failure::OverAllowance { .. } => {
                self.fail_attempt(now, call, current, failure, NodeState::Answered);
            }
            Failure::Unknown(_) => {
                pending.maybe_applied = true;
                if pending.named.is_some() {
                    return self.finish(call, Err(failure));
                }
                self.fail_attempt(now, call, current, failure, NodeState::Answered);
            }
            // The record of an attempt that may have been applied is gone: nobody can tell any more.
            Failure::Refused(Refusal::SessionExpired, sentence) if pending.maybe_applied => {
                self.finish(call, Err(Failure::Unknown(sentence)));
            }
            decided => self.finish(call, Err(decided)),
        }
    }

    /// The connection to `node` broke: what was out on it may or may not have arrived.
    pub fn on_disconnect(&mut self, now: u64, node: NodeNumber) {
        self.avoid(now, node);
        self.silence.heard(node, now);
        let lost: Vec<(u64, CallId)> = self
            .calls
            .iter()
            .flat_map(|(call, pending)| pending.frames.iter().map(|frame| (*call, *frame)))
            .filter(|(_, (_, to))| *to == node)
            .map(|(call, (frame_id, _))| (frame_id, call))
            .collect();
        for (frame_id, call) in lost {
            self.frames.remove(&frame_id);
            let Some(pending) = self.calls.get_mut(&call) else {
                continue;
            };
            pending.frames.retain(|(frame, _)| *frame != frame_id);
            pending.maybe_applied = true;
            let current = matches!(pending.phase, Phase::Sent { frame_id: sent, .. } if sent == frame_id);
            self.fail_attempt(
                now,
                call,
                current,
                Failure::Unknown(format!("the connection to {node} broke")),
                NodeState::Silent,
            );
        }
    }

    /// This attempt never left: there was no connection to the node.
    pub fn on_unsent(&mut self, now: u64, node: NodeNumber, frame_id: u64) {
        self.avoid(now, node);
        let Some(call) = self.frames.remove(&frame_id) else {
            return;
        };
        let Some(pending) = self.calls.get_mut(&call) else {
            return;
        };
        pending.frames.retain(|(frame, _)| *frame != frame_id);
        let current = matches!(pending.phase, Phase::Sent { frame_id: sent, .. } if sent == frame_id);
        self.fail_attempt(
            now,
            call,
            current,
            Failure::Busy(format!("{node} cannot be reached")),
            NodeState::Silent,
        );
    }

    /// Part of a large reply of `node` arrived: attempts there get their time anew.
    pub fn on_progress(&mut self, now: u64, node: NodeNumber) {
        self.silence.heard(node, now);
        let until = now + self.config.attempt_timeout_ms;
        let waiting = |pending: &Pending| {
            matches!(pending.phase, Phase::Sent { node: sent, .. } if sent == node) && pending.timer < until
        };
        let calls: Vec<CallId> = self
            .calls
            .iter()
            .filter_map(|(call, pending)| waiting(pending).then_some(*call))
            .collect();
        for call in calls {
            self.set_timer(call, until);
        }
    }

    /// Time passed: gives up attempts that took too long, ends calls past their deadline, wakes those backing off.
    pub fn on_tick(&mut self, now: u64) {
        self.look_at_nodes(now);
        while let Some(&(at, call)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, call));
            let Some(pending) = self.calls.get_mut(&call) else {
                continue;
            };
            if now >= pending.deadline {
                if matches!(pending.phase, Phase::Sent { .. }) {
                    pending.maybe_applied = true;
                }
                self.expire(call);
                continue;
            }
            match pending.phase {
                Phase::Ready => self.set_timer(call, u64::MAX),
                Phase::Waiting => {
                    pending.phase = Phase::Ready;
                    self.set_timer(call, u64::MAX);
                    self.ready.push_back(call);
                }
                Phase::Sent { node, .. } => {
                    pending.maybe_applied = true;
                    self.avoid(now, node);
                    let failure = Failure::Unknown(format!("{node} did not answer in time"));
                    self.fail_attempt(now, call, true, failure, NodeState::Silent);
                }
            }
        }
    }

    /// When [`Session::on_tick`] is wanted next.
    pub fn next_wake(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(at, _)| *at);
        // Where nothing is out there is nothing to look at.
        let look = self.silence.next_look().filter(|_| !self.calls.is_empty());
        [timer, look].into_iter().flatten().min()
    }

    /// How a call ended, one at a time, each exactly once.
    pub fn take_completed(&mut self) -> Option<(CallId, Result<Reply, Failure>)> {
        self.completed.pop_front()
    }

    /// Calls begun and not yet ended.
    pub fn outstanding_count(&self) -> usize {
        self.calls.len()
    }

    fn new_request_id(&mut self) -> RequestId {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.unanswered.insert(sequence);
        RequestId {
            client: self.config.client,
            sequence,
            acknowledged_below: self.unanswered.first().copied().unwrap_or(sequence),
        }
    }

    /// An attempt ended without a decision: try again later, unless a newer attempt is out.
    fn fail_attempt(&mut self, now: u64, call: CallId, current: bool, failure: Failure, node: NodeState) {
        let Some(pending) = self.calls.get_mut(&call) else {
            return;
        };
        if !current {
            return;
        }
        if node == NodeState::Silent {
            if pending.named.is_some() {
                let sentence = failure.to_string();
                return self.finish(call, Err(Failure::Busy(sentence)));
            }
            if let (Some(partition), Some(node)) = (pending.request.partition(), pending.tried)
                && self.leaders.get(&partition) == Some(&node)
            {
                self.leaders.remove(&partition);
            }
        }
        pending.last_failure = Some(failure);
        self.back_off(now, call);
    }

    fn back_off(&mut self, now: u64, call: CallId) {
        let Some(pending) = self.calls.get_mut(&call) else {
            return;
        };
        let doublings = pending.attempts.saturating_sub(1).min(16);
        let ceiling = (self.config.backoff_min_ms << doublings).clamp(1, self.config.backoff_max_ms);
        let delay = ceiling / 2 + self.random.below(ceiling / 2 + 1);
        pending.phase = Phase::Waiting;
        let until = match pending.request.is_ordered() {
            // All of them together and in their order: one that comes before its turn comes in vain.
            true => (now / ORDERED_PAUSE_MS + 1) * ORDERED_PAUSE_MS,
            false => (now + delay.max(1)).max(self.budget.take(now)),
        };
        self.set_timer(call, until);
    }

    fn avoid(&mut self, now: u64, node: NodeNumber) {
        self.avoided.insert(node, now + AVOID_MS);
    }

    /// Replaces the call's timer; never later than its deadline.
    fn set_timer(&mut self, call: CallId, at: u64) {
        if let Some(pending) = self.calls.get_mut(&call) {
            self.timers.remove(&(pending.timer, call));
            pending.timer = at.min(pending.deadline);
            self.timers.insert((pending.timer, call));
        }
    }

    /// The deadline passed: says which of the outcomes it is.
    fn expire(&mut self, call: CallId) {
        let Some(pending) = self.calls.get(&call) else {
            return;
        };
        let reason = match &pending.last_failure {
            Some(failure) => format!("deadline passed; last: {failure}"),
            None => "deadline passed before any node answered".into(),
        };
        let is_change = matches!(
            pending.request,
            Request::Command { .. } | Request::Namespace { .. }
        );
        let failure = match is_change && pending.maybe_applied {
            true => Failure::Unknown(reason),
            false => Failure::Busy(reason),
        };
        self.finish(call, Err(failure));
    }

    fn finish(&mut self, call: CallId, result: Result<Reply, Failure>) {
        if self.remove(call) {
            self.completed.push_back((call, result));
        }
    }

    fn remove(&mut self, call: CallId) -> bool {
        let Some(pending) = self.calls.remove(&call) else {
            return false;
        };
        self.timers.remove(&(pending.timer, call));
        for (frame_id, _) in &pending.frames {
            self.frames.remove(frame_id);
        }
        if let Request::Command { id, .. } | Request::Namespace { id, .. } = &pending.request {
            self.unanswered.remove(&id.sequence);
        }
        true
    }
}
