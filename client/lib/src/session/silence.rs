//! Nodes that stand still, noticed before a call has waited for its whole time.
//!
//! A frozen process keeps its connections, and a busy one may hold a question for long on purpose. So when something
//! is out to a node and nothing at all has come from it for a while, it is asked something small; if nothing comes
//! for another while, whatever is out there is tried elsewhere, and the node is passed over until it is heard again.
//!
//! The price: a request a node holds back costs it a small one now and then.

use std::collections::{BTreeMap, VecDeque};

use bark_schema::ids::NodeNumber;
use bark_schema::operation::{NodeRequest, Request};

use super::{Failure, NodeState, Outgoing, Phase, Session};

/// Without a word for so long a node is asked.
const QUIET_MS: u64 = 400;
/// In so long one that lives answers.
const ANSWER_MS: u64 = 600;
/// A silent one is asked so often, so many times; then callers find out for themselves.
const AGAIN_MS: u64 = 500;
const AGAIN_MAX: u32 = 60;

/// What is known of the nodes' being alive.
#[derive(Debug, Default)]
pub(super) struct Silence {
    nodes: BTreeMap<NodeNumber, Signs>,
    /// Questions to be sent.
    pub(super) questions: VecDeque<NodeNumber>,
}

#[derive(Debug, Default)]
struct Signs {
    /// Something came, or what was sent last may have arrived.
    heard_at: u64,
    /// When to look next; none: nothing is out.
    look_at: Option<u64>,
    /// Asked, and not heard since.
    asked: u32,
}

impl Silence {
    pub(super) fn next_look(&self) -> Option<u64> {
        self.nodes.values().filter_map(|signs| signs.look_at).min()
    }

    fn due(&self, now: u64) -> Option<NodeNumber> {
        let mut nodes = self.nodes.iter();
        let due = nodes.find(|(_, signs)| signs.look_at.is_some_and(|at| at <= now));
        due.map(|(node, _)| *node)
    }

    /// Something is on its way to a node, where it may take so long to arrive.
    pub(super) fn sent(&mut self, node: NodeNumber, now: u64, transfer_ms: u64) {
        let signs = self.nodes.entry(node).or_default();
        // Nobody looked when it was time to: nothing was out.
        if signs.look_at.is_none_or(|at| at <= now) {
            signs.look_at = Some(now + transfer_ms + QUIET_MS);
            signs.heard_at = now;
        }
        if transfer_ms > 0 {
            signs.heard_at = signs.heard_at.max(now + transfer_ms);
        }
    }

    /// Something came from a node, or its connection is not what it was.
    pub(super) fn heard(&mut self, node: NodeNumber, now: u64) {
        if let Some(signs) = self.nodes.get_mut(&node) {
            signs.heard_at = signs.heard_at.max(now);
            signs.asked = 0;
        }
    }
}

impl Session {
    /// Looks at the nodes from which nothing has come for a while.
    pub(super) fn look_at_nodes(&mut self, now: u64) {
        while let Some(node) = self.silence.due(now) {
            let is_out = self.is_out(node);
            let Some(signs) = self.silence.nodes.get_mut(&node) else {
                return;
            };
            if now < signs.heard_at {
                // What is on its way there takes its time, and a question would wait behind it.
                signs.look_at = Some(signs.heard_at);
                continue;
            }
            if signs.asked == 0 {
                let quiet_until = signs.heard_at + QUIET_MS;
                if !is_out {
                    signs.look_at = None;
                } else if now < quiet_until {
                    signs.look_at = Some(quiet_until);
                } else {
                    signs.asked = 1;
                    signs.look_at = Some(now + ANSWER_MS);
                    self.silence.questions.push_back(node);
                }
                continue;
            }
            signs.asked += 1;
            let is_given_up = signs.asked > AGAIN_MAX;
            signs.look_at = (!is_given_up).then_some(now + AGAIN_MS);
            if is_given_up {
                signs.asked = 0;
            } else {
                self.silence.questions.push_back(node);
                self.avoided.insert(node, now + 2 * AGAIN_MS);
            }
            self.try_elsewhere(now, node);
        }
    }

    fn is_out(&self, node: NodeNumber) -> bool {
        let mut calls = self.calls.values();
        calls.any(|call| matches!(call.phase, Phase::Sent { node: sent, .. } if sent == node))
    }

    /// Gives up the attempts that wait for a node.
    fn try_elsewhere(&mut self, now: u64, node: NodeNumber) {
        let waiting = self.calls.iter().filter(|(_, call)| match call.phase {
            Phase::Sent { node: sent, .. } => sent == node,
            _ => false,
        });
        let waiting: Vec<_> = waiting.map(|(call, _)| *call).collect();
        for call in waiting {
            if let Some(pending) = self.calls.get_mut(&call) {
                pending.maybe_applied = true;
            }
            let failure = Failure::Unknown(format!("nothing is heard from {node}"));
            self.fail_attempt(now, call, true, failure, NodeState::Silent);
        }
    }

    /// A question to a node that was quiet, if there is one.
    pub(super) fn poll_question(&mut self) -> Option<Outgoing> {
        let node = self.silence.questions.pop_front()?;
        let frame_id = self.next_frame;
        self.next_frame += 1;
        Some(Outgoing {
            node,
            frame_id,
            deadline_ms: ANSWER_MS as u32,
            request: Request::Node(NodeRequest::ClusterStatus),
        })
    }
}
