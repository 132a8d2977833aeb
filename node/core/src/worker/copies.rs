//! Whether there are nodes enough for the copies a policy asks for.
//!
//! The state does not know the nodes, and must not: its answer has to be the same on every replica at any time. So the leader
//! looks before it proposes. Every leader knows the same nodes, so a late copy of the request is refused as well.

use bark_schema::operation::{Command, Failure, Namespace, Request};

use super::Worker;

impl Worker {
    /// Why a request that arrived here must not be carried out for the policy it brings.
    pub(super) fn refusal_for_copies(&self, request: &Request) -> Option<Failure> {
        let policy = match request {
            Request::Command { command, .. } => match command.inner() {
                Command::SetAttributes { change, .. } => &change.policy,
                Command::Create { attributes, .. } => &attributes.policy,
                _ => return None,
            },
            Request::Namespace {
                operation: Namespace::MakeDirectory { attributes, .. },
                ..
            } => &attributes.policy,
            _ => return None,
        };
        policy.check_nodes(self.config.nodes.len()).err()
    }
}
