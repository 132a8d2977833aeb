//! Where the time of calls went: how long each took here, and what its node told.
//!
//! Times here and there are of different clocks and are never compared; what a call took here less what the node
//! says it took is the way there and back, and waiting to be taken up.

use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::operation::{Request, RequestId};
use bark_schema::trace::{Span, describe};
use tokio::time::Instant;

use crate::session::Call;

/// One call that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedCall {
    pub what: &'static str,
    pub partition: Option<PartitionId>,
    /// Who answered; none if nobody did.
    pub node: Option<NodeNumber>,
    /// Since the client started.
    pub from_us: u64,
    pub until_us: u64,
    /// By the node's own clock, since it took up the request; the first is all of it. Empty if it failed.
    pub spans: Vec<Span>,
}

impl TracedCall {
    pub(crate) fn begin(call: &Call, started: Instant) -> TracedCall {
        let now_us = micros(started);
        let (what, partition) = name(call);
        TracedCall {
            what,
            partition,
            node: None,
            from_us: now_us,
            until_us: now_us,
            spans: Vec::new(),
        }
    }

    pub(crate) fn end(&mut self, told: Option<(NodeNumber, Vec<Span>)>, started: Instant) {
        self.until_us = micros(started);
        if let Some((node, spans)) = told {
            self.node = Some(node);
            self.spans = spans;
        }
    }

    /// What it took here.
    pub fn elapsed_us(&self) -> u64 {
        self.until_us.saturating_sub(self.from_us)
    }

    /// What the node says it took.
    pub fn at_node_us(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.until_us)
    }
}

fn micros(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What a call is about, and for which partition.
fn name(call: &Call) -> (&'static str, Option<PartitionId>) {
    // Only its kind is looked at.
    let id = RequestId {
        client: ClientId(0),
        sequence: 0,
        acknowledged_below: 0,
    };
    let request = match call.clone() {
        Call::Query { partition, query } => Request::Query { partition, query },
        Call::Command { partition, command }
        | Call::Ordered {
            partition, command, ..
        } => Request::Command {
            partition,
            id,
            command,
        },
        Call::Namespace(operation) => Request::Namespace { id, operation },
        Call::AnyNode(request) | Call::NamedNode(_, request) => Request::Node(request),
    };
    (describe(&request), request.partition())
}
