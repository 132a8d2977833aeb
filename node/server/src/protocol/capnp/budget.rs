//! Makes large answers wait until the client has taken the earlier ones.
//!
//! A handler reserves what its answer will take before it fetches or builds it. The reservation is given
//! back when the handler ends, which is when the answer has moved to the wire and counts there.
//!
//! Invariants:
//! - Reserved and buffered bytes of a connection stay below the limit, or there is one answer alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bark_schema::limits::MIB;

use crate::protocol::Wire;

/// Four of the largest reads.
const ANSWER_BYTES_MAX: usize = 16 * MIB;

#[derive(Clone)]
pub struct Budget(Rc<Inner>);

struct Inner {
    wire: Wire,
    reserved_bytes: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// Room for one answer; given back on drop.
pub struct Reservation {
    budget: Budget,
    size_bytes: usize,
}

impl Budget {
    pub fn new(wire: Wire) -> Budget {
        Budget(Rc::new(Inner {
            wire,
            reserved_bytes: Cell::new(0),
            waiting: RefCell::default(),
        }))
    }

    /// Waits for room for an answer of this size.
    pub async fn reserve(&self, size_bytes: usize) -> Reservation {
        poll_fn(|context| self.poll_reserve(size_bytes, context)).await
    }

    fn poll_reserve(&self, size_bytes: usize, context: &mut Context<'_>) -> Poll<Reservation> {
        let reserved = self.0.reserved_bytes.get();
        if reserved > 0 && reserved + size_bytes > ANSWER_BYTES_MAX {
            self.0.waiting.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        let room = ANSWER_BYTES_MAX.saturating_sub(reserved + size_bytes).max(1);
        if self.0.wire.poll_room(room, context).is_pending() {
            return Poll::Pending;
        }
        self.0.reserved_bytes.set(reserved + size_bytes);
        Poll::Ready(Reservation {
            budget: self.clone(),
            size_bytes,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let inner = &self.budget.0;
        inner
            .reserved_bytes
            .set(inner.reserved_bytes.get() - self.size_bytes);
        for waker in inner.waiting.take() {
            waker.wake();
        }
    }
}
