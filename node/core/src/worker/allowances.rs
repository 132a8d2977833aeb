//! Getting a partition more of a quota when a command needs it.
//!
//! Previous in the flow: a partition led here put a command off. Next: [`crate::request::quota`]; then the command
//! is carried out, or its refusal is written down as its answer.
//!
//! Near the limit many commands wait for the same thing, and those that are refused may be tried again and again
//! by their clients. So they wait in line, and what one is refused, all behind it that want as much are.
//! One that may go on does so at once, not when its client comes again: by then others near the limit would have
//! taken back what it was granted.
//!
//! Invariants:
//! - For one partition and quota one coroutine asks, for one command after the other, the oldest first.
//! - A refusal is the answer to every repetition of its request.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Failure, Refusal, Reply, Request, RequestId};

use super::Worker;
use super::gateway::{Gateway, NO_SESSION};
use crate::partition::event::{CallId, Completion};
use crate::request::quota;
use crate::state::refusal::refuse;

/// A command that was put off.
struct Wish {
    call: CallId,
    id: RequestId,
    bytes: u64,
    inodes: u64,
}

type Line = (PartitionId, InodeId);

/// What is asked for; a line is there while a coroutine works on it.
#[derive(Default)]
pub struct Allowances {
    lines: Rc<RefCell<BTreeMap<Line, VecDeque<Wish>>>>,
    /// Calls that may go on.
    granted: Rc<RefCell<Vec<CallId>>>,
}

/// Takes the line away also if its coroutine panics: those in it run into their deadlines, others begin a new one.
struct Ending {
    line: Line,
    lines: Rc<RefCell<BTreeMap<Line, VecDeque<Wish>>>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.lines.borrow_mut().remove(&self.line);
    }
}

impl Ending {
    fn next(&self) -> Option<Wish> {
        let mut lines = self.lines.borrow_mut();
        lines.get_mut(&self.line)?.pop_front()
    }

    /// Those in the line that want no less than was refused.
    fn take_as_large(&self, bytes: u64, inodes: u64) -> Vec<Wish> {
        let mut lines = self.lines.borrow_mut();
        let Some(line) = lines.get_mut(&self.line) else {
            return Vec::new();
        };
        let all = std::mem::take(line);
        let (as_large, rest): (VecDeque<Wish>, VecDeque<Wish>) = all
            .into_iter()
            .partition(|wish| wish.bytes >= bytes && wish.inodes >= inodes);
        *line = rest;
        as_large.into()
    }
}

impl Worker {
    /// A call was put off until its partition may use more of a quota.
    pub(super) fn acquire_allowance(&mut self, call: CallId, root: InodeId, bytes: u64, inodes: u64) {
        let Some(Request::Command { partition, id, .. }) = self.calls.get(call).map(|call| &call.request)
        else {
            self.complete(call, again());
            return;
        };
        let (line, id) = ((*partition, root), *id);
        let wish = Wish {
            call,
            id,
            bytes,
            inodes,
        };
        let lines = self.allowances.lines.clone();
        if let Some(waiting) = lines.borrow_mut().get_mut(&line) {
            waiting.push_back(wish);
            return;
        }
        lines.borrow_mut().insert(line, VecDeque::from([wish]));
        let gateway = self.gateway.clone();
        let done = self.completed_calls.clone();
        let granted = self.allowances.granted.clone();
        let ending = Ending { line, lines };
        self.gateway.spawn(async move {
            while let Some(wish) = ending.next() {
                let (partition, root) = ending.line;
                let acquired = quota::acquire(&gateway, partition, root, wish.bytes, wish.inodes).await;
                let (refusal, sentence) = match acquired {
                    Err(Failure::Refused(refusal, sentence)) => (refusal, sentence),
                    Ok(()) => {
                        granted.borrow_mut().push(wish.call);
                        continue;
                    }
                    Err(_) => {
                        let (call, result) = (wish.call, again());
                        done.borrow_mut().push(Completion { call, result });
                        continue;
                    }
                };
                let behind = ending.take_as_large(wish.bytes, wish.inodes);
                for wish in std::iter::once(wish).chain(behind) {
                    let result = refused(&gateway, partition, wish.id, refusal, sentence.clone()).await;
                    done.borrow_mut().push(Completion {
                        call: wish.call,
                        result,
                    });
                }
            }
        });
    }
}

impl Worker {
    /// Lets calls go on whose partitions may use more now; true if there were any.
    pub(super) fn resume_granted(&mut self) -> bool {
        let granted = std::mem::take(&mut *self.allowances.granted.borrow_mut());
        let any = !granted.is_empty();
        for call in granted {
            self.route(call, true);
        }
        any
    }
}

fn again() -> Result<Reply, Failure> {
    Err(Failure::Busy("waiting for a larger part of the quota".to_owned()))
}

async fn refused(
    gateway: &Gateway,
    partition: PartitionId,
    id: RequestId,
    refusal: Refusal,
    sentence: String,
) -> Result<Reply, Failure> {
    match id {
        NO_SESSION => Err(Failure::Refused(refusal, sentence)),
        id => gateway.command(partition, refuse(id, refusal, sentence)).await,
    }
}
