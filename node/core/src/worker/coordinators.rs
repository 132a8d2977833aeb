//! One coordinator for each namespace request, however often it is repeated.
//!
//! Previous in the flow: `router`, when this node leads the operation's first partition.
//! Next: `request::namespace`, the coroutine that carries it out.
//!
//! A client that waits for long asks again, by another way, under the same id. Two coordinators of one request
//! would hold each other's locks and abort each other for seconds; so the repetition joins the one that runs.
//! A coordinator of an earlier term is no use to it: what that one decides is refused by the partition.
//!
//! Invariants:
//! - At most one coordinator runs for a request in a term.
//! - Everybody who joined gets the same answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_schema::ids::{ClientId, PartitionId};
use bark_schema::operation::{Failure, Namespace, Reply, RequestId};

use super::Worker;
use crate::partition::event::CallId;
use crate::request;

/// What is coordinated, and in which term of its first partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Coordination {
    partition: PartitionId,
    client: ClientId,
    sequence: u64,
    term: u64,
}

#[derive(Default)]
pub struct Coordinators {
    /// Who waits for each that runs.
    waiting: BTreeMap<Coordination, Vec<CallId>>,
    finished: Finished,
    joined: u64,
}

type Finished = Rc<RefCell<Vec<(Coordination, Result<Reply, Failure>)>>>;

/// Tells the end of a coordinator, also of one that panicked: nobody may wait for it for ever.
struct Ending {
    coordination: Coordination,
    result: Option<Result<Reply, Failure>>,
    finished: Finished,
}

impl Ending {
    fn note(&mut self, result: Result<Reply, Failure>) {
        self.result = Some(result);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let failed = || Err(Failure::Unknown("the request's coordinator failed".to_string()));
        let result = self.result.take().unwrap_or_else(failed);
        self.finished.borrow_mut().push((self.coordination, result));
    }
}

impl Worker {
    /// Starts the coordinator of a request whose first partition is led here, or joins it.
    pub(super) fn coordinate(&mut self, call: CallId, id: RequestId, operation: Namespace) {
        let partition = operation.primary();
        let Some(local) = self.partitions.get(&partition) else {
            return;
        };
        if let Some(recorded) = local.state().recorded(&id) {
            self.complete(call, recorded);
            return;
        }
        let term = local.term();
        let coordination = Coordination {
            partition,
            client: id.client,
            sequence: id.sequence,
            term,
        };
        if let Some(waiting) = self.coordinators.waiting.get_mut(&coordination) {
            if !waiting.contains(&call) {
                waiting.push(call);
                self.coordinators.joined += 1;
            }
            return;
        }
        self.coordinators.waiting.insert(coordination, vec![call]);
        let gateway = self.gateway_for(call);
        let mut ending = Ending {
            coordination,
            result: None,
            finished: self.coordinators.finished.clone(),
        };
        self.gateway.spawn(async move {
            ending.note(request::namespace::carry_out(&gateway, id, operation, term).await);
        });
    }

    /// Answers everybody whose coordinator came to its end; true if there was one.
    pub(super) fn complete_coordinated(&mut self) -> bool {
        let finished = std::mem::take(&mut *self.coordinators.finished.borrow_mut());
        let any = !finished.is_empty();
        for (coordination, result) in finished {
            let waiting = self.coordinators.waiting.remove(&coordination);
            for call in waiting.unwrap_or_default() {
                self.complete(call, result.clone());
            }
        }
        any
    }

    /// How many repetitions ever joined a coordinator that ran already.
    pub fn requests_joined(&self) -> u64 {
        self.coordinators.joined
    }
}
