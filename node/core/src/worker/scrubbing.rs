//! When a node reads all its copies of blocks, and what it answers to those who ask about its blocks.
//!
//! Previous in the flow: the worker's clock ([`super::upkeep`]) and requests. Next: [`crate::request::scrub`] and
//! [`crate::request::collect`], as coroutines.
//!
//! Invariant: the node's first worker alone does this; the others hand it what they are asked.

use std::cell::RefCell;
use std::rc::Rc;

use bark_schema::upkeep::ScrubStatus;

use super::Worker;
use super::gateway::Gateway;
use crate::block_store::BadCopy;
use crate::partition::event::{CallId, Completion};
use crate::request::collect;
use crate::request::scrub::{self, Scrub};
use crate::time::Now;

/// How much faster copies are read when somebody waits for it.
const REQUESTED_SPEED: u64 = 8;
/// The first cycle begins after this part of a period.
const FIRST_SHARE: u64 = 7;

#[derive(Default)]
pub struct Scrubbing {
    scrub: Rc<RefCell<Scrub>>,
    due_us: Option<u64>,
}

impl Scrubbing {
    pub fn begin_if_due(&mut self, gateway: &Gateway, now: Now) {
        let config = gateway.config().cleaning;
        let due_us = *self
            .due_us
            .get_or_insert(now.monotonic_us + config.scrub_period_us / FIRST_SHARE);
        if now.monotonic_us >= due_us && !self.scrub.borrow().is_running {
            self.begin(gateway, config.scrub_bytes_per_second);
        }
    }

    fn begin(&mut self, gateway: &Gateway, bytes_per_second: u64) {
        self.due_us = Some(gateway.now().monotonic_us + gateway.config().cleaning.scrub_period_us);
        let cycle = self.scrub.borrow_mut().begin();
        let (work, scrub) = (gateway.clone(), self.scrub.clone());
        gateway.spawn(async move {
            scrub::cycle(&work, &scrub, cycle, bytes_per_second).await;
        });
    }

    /// Bad copies were found on this node.
    pub fn note(&self, bad: &[BadCopy]) {
        self.scrub.borrow_mut().note(bad);
    }
}

impl Worker {
    /// How the reading of all copies goes; `start`: it begins anew.
    pub(super) fn scrub(&mut self, start: bool) -> ScrubStatus {
        if start {
            let rate = self.config.cleaning.scrub_bytes_per_second;
            let rate = rate.saturating_mul(REQUESTED_SPEED);
            self.upkeep.scrubbing.begin(&self.gateway, rate);
        }
        let scrub = self.upkeep.scrubbing.scrub.borrow();
        ScrubStatus {
            node: self.config.node,
            cycle: scrub.cycle,
            running: scrub.is_running,
            checked_blocks: scrub.checked_blocks,
            checked_bytes: scrub.checked_bytes,
            total_bytes: self.disk.block_bytes,
            bad_count: scrub.bad_count,
            bad: scrub.bad(),
        }
    }

    pub(super) fn find_orphans(&self, call: CallId, give_up: bool) {
        let (gateway, sweep) = (self.gateway.clone(), self.upkeep.cleaning.sweep());
        let done = self.completed_calls.clone();
        self.gateway.spawn(async move {
            let result = collect::orphans(&gateway, &sweep, give_up).await;
            done.borrow_mut().push(Completion { call, result });
        });
    }
}
