//! Getting a partition more of a quota when a command needs it.
//!
//! Previous in the flow: a partition led here, or elsewhere, put a command off. Next: [`crate::request::quota`];
//! then the command is carried out, or its refusal is written down as its answer.
//!
//! Invariants:
//! - For one partition and quota at most one coroutine asks; commands that come meanwhile are put off.
//! - A refusal is the answer to every repetition of its request.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Failure, Refusal, Request};

use super::Worker;
use super::gateway::NO_SESSION;
use crate::partition::event::{CallId, Completion};
use crate::request::quota;
use crate::state::refusal::refuse;

/// What is asked for now.
#[derive(Default)]
pub struct Allowances {
    under_way: Rc<RefCell<BTreeSet<(PartitionId, InodeId)>>>,
}

impl Worker {
    /// A call was put off until its partition may use more of a quota.
    pub(super) fn acquire_allowance(&mut self, call: CallId, root: InodeId, bytes: u64, inodes: u64) {
        let again = || Err(Failure::Busy("waiting for a larger part of the quota".to_owned()));
        let Some(Request::Command { partition, id, .. }) = self.calls.get(call).map(|call| &call.request)
        else {
            self.complete(call, again());
            return;
        };
        let (partition, id) = (*partition, *id);
        let key = (partition, root);
        let under_way = self.allowances.under_way.clone();
        if !under_way.borrow_mut().insert(key) {
            self.complete(call, again());
            return;
        }
        let gateway = self.gateway.clone();
        let done = self.completed_calls.clone();
        self.gateway.spawn(async move {
            let acquired = quota::acquire(&gateway, partition, root, bytes, inodes).await;
            under_way.borrow_mut().remove(&key);
            let result = match acquired {
                Err(Failure::Refused(Refusal::QuotaExceeded, sentence)) if id != NO_SESSION => {
                    let refusal = refuse(id, Refusal::QuotaExceeded, sentence);
                    gateway.command(partition, refusal).await
                }
                Err(refused @ Failure::Refused(..)) => Err(refused),
                Ok(()) | Err(_) => again(),
            };
            done.borrow_mut().push(Completion { call, result });
        });
    }
}
