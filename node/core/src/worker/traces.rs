//! Where the time of a request went, for those who asked for it.
//!
//! Previous in the flow: `router` meets a [`NodeRequest::Traced`] and begins the request inside as a call of its own.
//! Next: its answer, with spans of time, is the answer of the call it came in.
//!
//! Nothing is noted of other requests: where notes are made, the list of those that want them is looked at, and it
//! is empty. Times are the turns', so what happens within one takes no time. A coroutine that carries out a
//! traced request has what it asks traced too, at whatever node, but for the steps of transactions, whose
//! rules of giving up go by what they are: of these the whole is noted.
//!
//! Invariants:
//! - Every span lies within the request's own.
//! - A traced request is carried out, refused and repeated as it would be otherwise.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{Failure, NodeRequest, Refusal, Reply, Request};
use bark_schema::trace::{Span, TracePhase, Traced, describe};

use super::Worker;
use super::calls::{Call, Place};
use super::gateway::{Gateway, Reach, Waiter};
use crate::partition::Watched;
use crate::partition::event::CallId;

/// Spans of one answer; further ones are left out.
const SPANS_MAX: usize = 4096;

/// By call of the request itself, not of the one it came in.
#[derive(Default)]
pub(super) struct Traces {
    table: BTreeMap<CallId, Trace>,
}

struct Trace {
    begun_us: u64,
    /// When it was handed to what carries it out here.
    handed_us: u64,
    recorder: Recorder,
}

/// What a coroutine asks for the sake of a traced request, in the worker's own time.
#[derive(Clone, Default)]
pub struct Recorder(Rc<RefCell<Vec<Span>>>);

/// A request of a coroutine that is to be recorded.
pub(super) struct Note {
    recorder: Recorder,
    what: &'static str,
    node: NodeNumber,
    partition: Option<PartitionId>,
    begun_us: u64,
}

impl Recorder {
    /// What to note of a request, and the request as it is to be sent.
    pub(super) fn note(&self, request: Request, node: NodeNumber, now_us: u64) -> (Request, Note) {
        let note = Note {
            recorder: self.clone(),
            what: describe(&request),
            node,
            partition: request.partition(),
            begun_us: now_us,
        };
        let request = match request {
            Request::Query { .. }
            | Request::Node(NodeRequest::BlockPut { .. } | NodeRequest::BlockGet { .. }) => {
                Request::Node(NodeRequest::Traced {
                    request: Box::new(request),
                })
            }
            other => other,
        };
        (request, note)
    }
}

impl Note {
    /// Records the answer and gives back what was asked for.
    pub(super) fn end(self, result: Result<Reply, Failure>, now_us: u64) -> Result<Reply, Failure> {
        let (result, inner) = match result {
            Ok(Reply::Traced(traced)) => (Ok(traced.reply), traced.spans),
            other => (other, Vec::new()),
        };
        let mut spans = self.recorder.0.borrow_mut();
        if spans.len() + inner.len() < SPANS_MAX {
            spans.push(Span {
                phase: TracePhase::Request,
                node: inner.first().map_or(self.node, |span| span.node),
                partition: self.partition,
                depth: 0,
                from_us: self.begun_us,
                until_us: now_us,
                what: self.what.to_owned(),
            });
            // What the other took is laid in the middle: what is around it is the way there and back.
            let whole_us = now_us.saturating_sub(self.begun_us);
            let taken_us = inner.first().map_or(0, |span| span.until_us).min(whole_us);
            let shift_us = self.begun_us + (whole_us - taken_us) / 2;
            spans.extend(inner.into_iter().map(|span| Span {
                depth: span.depth.saturating_add(1),
                from_us: span.from_us.min(taken_us) + shift_us,
                until_us: span.until_us.min(taken_us) + shift_us,
                ..span
            }));
        }
        result
    }
}

impl Worker {
    /// Begins the request that came in the call `outer`, whose answer will be its answer.
    pub(super) fn begin_traced(&mut self, outer: CallId, request: Request) {
        let Some(call) = self.calls.get(outer) else {
            return;
        };
        if matches!(request, Request::Node(NodeRequest::Traced { .. })) {
            let failure = Failure::refused(Refusal::InvalidArgument, "a traced request inside another");
            self.complete(outer, Err(failure));
            return;
        }
        let now_us = self.gateway.now().monotonic_us;
        let inner = self.calls.insert(Call {
            request,
            reach: Reach::Here,
            deadline_us: call.deadline_us,
            waiter: Waiter::Traced { outer },
            place: Place::Nowhere,
            attempts: 0,
            maybe_applied: false,
        });
        let trace = Trace {
            begun_us: now_us,
            handed_us: now_us,
            recorder: Recorder::default(),
        };
        self.traces.table.insert(inner, trace);
        self.route(inner, false);
    }

    /// The call is handed to what carries it out.
    pub(super) fn note_handed(&mut self, id: CallId) {
        if self.traces.table.is_empty() {
            return;
        }
        let now_us = self.gateway.now().monotonic_us;
        let Some(trace) = self.traces.table.get_mut(&id) else {
            return;
        };
        trace.handed_us = now_us;
        let request = self.calls.get(id).map(|call| &call.request);
        if let Some(Request::Query { partition, .. } | Request::Command { partition, .. }) = request {
            let partition = *partition;
            self.with_partition(partition, |local| local.watch(id));
        }
    }

    /// For the coroutine that carries out a call.
    pub(super) fn gateway_for(&self, id: CallId) -> Gateway {
        match self.traces.table.get(&id) {
            Some(trace) => self.gateway.recording(trace.recorder.clone()),
            None => self.gateway.clone(),
        }
    }

    /// Answers the call a traced request came in.
    pub(super) fn end_traced(
        &mut self,
        id: CallId,
        outer: CallId,
        request: &Request,
        result: Result<Reply, Failure>,
    ) {
        let now_us = self.gateway.now().monotonic_us;
        let trace = self.traces.table.remove(&id);
        let partition = request.partition();
        let watched = partition
            .and_then(|partition| self.partitions.get_mut(&partition))
            .and_then(|local| local.unwatch(id));
        let result = match (result, trace) {
            (Ok(reply), Some(trace)) => {
                let node = self.config.node;
                let spans = trace.spans(node, request, watched, now_us);
                Ok(Reply::Traced(Box::new(Traced { reply, spans })))
            }
            (result, _) => result,
        };
        self.complete(outer, result);
    }
}

impl Trace {
    fn spans(self, node: NodeNumber, request: &Request, watched: Option<Watched>, now_us: u64) -> Vec<Span> {
        let begun_us = self.begun_us;
        let span = |phase, node, from_us: u64, until_us: u64| Span {
            phase,
            node,
            partition: request.partition(),
            depth: 1,
            from_us: from_us.saturating_sub(begun_us),
            until_us: until_us.saturating_sub(begun_us),
            what: String::new(),
        };
        let mut spans = vec![
            Span {
                depth: 0,
                what: describe(request).to_owned(),
                ..span(TracePhase::Request, node, begun_us, now_us)
            },
            span(TracePhase::Worker, node, begun_us, self.handed_us),
        ];
        if let Some(Watched {
            proposed: Some((_, proposed_us)),
            synced_us,
            acknowledged,
            ..
        }) = &watched
        {
            spans.push(span(TracePhase::Batch, node, self.handed_us, *proposed_us));
            if let Some(synced_us) = synced_us {
                spans.push(span(TracePhase::Sync, node, *proposed_us, *synced_us));
            }
            for (follower, at_us) in acknowledged {
                spans.push(span(TracePhase::Follower, *follower, *proposed_us, *at_us));
            }
            spans.push(span(TracePhase::Commit, node, *proposed_us, now_us));
        } else if watched.is_some_and(|watched| watched.is_read) {
            spans.push(span(TracePhase::Confirm, node, self.handed_us, now_us));
        }
        let recorded = std::mem::take(&mut *self.recorder.0.borrow_mut());
        if recorded.is_empty() && matches!(request, Request::Node(_)) {
            spans.push(span(TracePhase::BlockStore, node, self.handed_us, now_us));
        }
        spans.extend(recorded.into_iter().map(|recorded| Span {
            depth: recorded.depth.saturating_add(1),
            from_us: recorded.from_us.saturating_sub(begun_us),
            until_us: recorded.until_us.saturating_sub(begun_us),
            ..recorded
        }));
        spans
    }
}
