//! Whose turn it is: one holder at a time, in the order of asking.
//!
//! Writes to one file may wait for disks; those that follow must not overtake them. The general-purpose
//! asynchronous mutex at hand does not keep the order.
//!
//! Invariants:
//! - The value is in its place or with the one holder.
//! - A holder or waiter that is dropped lets the next one in.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::task::{Poll, Waker};

pub struct Turns<T> {
    value: Cell<Option<T>>,
    next: Cell<u64>,
    /// Tickets given and not returned; the smallest one has the turn.
    tickets: RefCell<BTreeMap<u64, Option<Waker>>>,
}

struct Ticket<'a, T> {
    turns: &'a Turns<T>,
    number: u64,
}

pub struct Turn<'a, T> {
    /// Dropped after the value was put back.
    ticket: Ticket<'a, T>,
    value: Option<T>,
}

impl<T> Turns<T> {
    pub fn new(value: T) -> Turns<T> {
        Turns {
            value: Cell::new(Some(value)),
            next: Cell::new(0),
            tickets: RefCell::default(),
        }
    }

    /// Waits until everybody who asked before is done.
    pub async fn enter(&self) -> Turn<'_, T> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.tickets.borrow_mut().insert(number, None);
        let ticket = Ticket { turns: self, number };
        let value = poll_fn(|context| {
            let mut tickets = self.tickets.borrow_mut();
            if tickets.keys().next() == Some(&number)
                && let Some(value) = self.value.take()
            {
                return Poll::Ready(value);
            }
            tickets.insert(number, Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
        Turn {
            ticket,
            value: Some(value),
        }
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
            .as_ref()
            .expect("the holder has the value until it is dropped")
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value
            .as_mut()
            .expect("the holder has the value until it is dropped")
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.ticket.turns.value.set(self.value.take());
    }
}

impl<T> Drop for Ticket<'_, T> {
    fn drop(&mut self) {
        let mut tickets = self.turns.tickets.borrow_mut();
        tickets.remove(&self.number);
        if let Some((_, Some(waker))) = tickets.first_key_value() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn those_who_wait_are_let_in_in_order() {
        // Goal: nobody overtakes. Method: one holder, two waiters of which the first gives up.
        let turns = Turns::new(Vec::new());
        let mut first = turns.enter().now_or_never().expect("nobody holds it");
        let mut second = Box::pin(turns.enter());
        let mut third = Box::pin(turns.enter());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        first.push(1);
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second is before it");
        drop(second);
        let mut third = third.now_or_never().expect("the second gave up");
        third.push(3);
        drop(third);
        assert_eq!(*turns.enter().now_or_never().expect("all are done"), vec![1, 3]);
    }
}
