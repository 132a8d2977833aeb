//! Tasks to run at the next turn and timers to run when their time has come.
//!
//! Invariants
//! - Tasks run in the order they came; timers by deadline, equal ones in the order they came.
//! - Whoever puts something in front of an empty queue, or of all timers, is told to wake the loop.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

pub(super) type Task<State> = Box<dyn FnOnce(&mut State) + Send>;

pub(super) struct Schedule<State> {
    tasks: Vec<Task<State>>,
    timers: BinaryHeap<Timer<State>>,
    timers_pushed: u64,
}

struct Timer<State> {
    deadline: Instant,
    sequence: u64,
    task: Task<State>,
}

impl<State> Schedule<State> {
    pub(super) fn new() -> Self {
        Self {
            tasks: Vec::new(),
            timers: BinaryHeap::new(),
            timers_pushed: 0,
        }
    }

    /// True if the loop must be woken: whoever pushed before has not done it for a turn that is over.
    pub(super) fn push_task(&mut self, task: Task<State>) -> bool {
        self.tasks.push(task);
        self.tasks.len() == 1
    }

    /// True if the loop must be woken, because it may sleep beyond this deadline.
    pub(super) fn push_timer(&mut self, deadline: Instant, task: Task<State>) -> bool {
        let sequence = self.timers_pushed;
        self.timers_pushed += 1;
        self.timers.push(Timer {
            deadline,
            sequence,
            task,
        });
        self.timers.peek().is_some_and(|next| next.sequence == sequence)
    }

    /// How long the loop may sleep; None for as long as it likes.
    pub(super) fn wait_max(&self, now: Instant) -> Option<Duration> {
        if !self.tasks.is_empty() {
            return Some(Duration::ZERO);
        }
        self.timers
            .peek()
            .map(|next| next.deadline.saturating_duration_since(now))
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Task<State>> {
        let mut due = Vec::new();
        while self.timers.peek().is_some_and(|next| next.deadline <= now) {
            due.extend(self.timers.pop().map(|timer| timer.task));
        }
        due.append(&mut self.tasks);
        due
    }
}

impl<State> PartialEq for Timer<State> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<State> Eq for Timer<State> {}

impl<State> PartialOrd for Timer<State> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<State> Ord for Timer<State> {
    /// The greatest is the next one: `BinaryHeap` pops the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.deadline, other.sequence).cmp(&(self.deadline, self.sequence))
    }
}
