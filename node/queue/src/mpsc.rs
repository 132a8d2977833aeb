//! A bounded queue from many threads to one whose writers come and go as handles that can be cloned.
//!
//! Design. Every handle leases a ring of its own ([`spsc`]), so writers never meet: a push is a store to a slot and
//! one to a counter. The reader goes round the rings, a batch from each. What was one list with a compare-and-swap a
//! push before cost 17-60 ns an item with 2-8 writers, since the list's head travelled from core to core with each.
//! A dropped handle's ring, with what is still in it, goes to the next clone, which writes on where it ended.
//!
//! ```text
//! producer A ──ring 0──┐
//! producer B ──ring 1──┼──▶ consumer: up to a batch from each, round and round
//!   (leased) ──ring N──┘
//! ```
//! Unlike [`notify`](crate::notify) there is no mask of who has something and so no fence in a push: the reader looks
//! at the counters of all rings, which stay in its cache while nobody writes. A reader that sleeps uses a
//! [`SleepFlag`](crate::SleepFlag).
//!
//! The price: memory for every ring, no order between producers, and a look at every ring when there is nothing.
//!
//! Invariants
//! - A ring is leased by at most one handle; the others lie in the pool.
//! - Values of one producer are taken in the order of their pushes.
//! - Nothing here is unsafe: the pool's lock is touched when a handle is cloned or dropped, never by a push.

use std::fmt;

use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::{Full, spsc};

/// Values taken from one ring before the next one is looked at: amortises giving back, and nobody starves.
const BATCH_MAX: usize = 256;

/// Creates a queue of at most `producers_max` producers at a time, each of which finds room for at least `capacity`
/// values of its own.
///
/// Panics: if memory is exhausted.
pub fn channel<T>(capacity: usize, producers_max: usize) -> (Producer<T>, Consumer<T>) {
    let (mut pool, rings): (Vec<_>, Vec<_>) =
        (0..producers_max.max(1)).map(|_| spsc::channel(capacity)).unzip();
    let ring = pool.pop();
    let shared = Arc::new(Shared {
        pool: Mutex::new(pool),
        producers_count: AtomicUsize::new(1),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        ring,
    };
    let consumer = Consumer {
        shared,
        rings: rings.into_boxed_slice(),
        current: 0,
    };
    (producer, consumer)
}

struct Shared<T> {
    /// Rings nobody writes to now.
    pool: Mutex<Vec<spsc::Producer<T>>>,
    producers_count: AtomicUsize,
}

/// A writing handle; clone it for every thread that writes. Send, not Sync.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// None only while the handle is dropped.
    ring: Option<spsc::Producer<T>>,
}

impl<T> Producer<T> {
    /// Pushes one value; visible at once. Wake the consumer afterwards if it may sleep.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        match &mut self.ring {
            Some(ring) => ring.push(value),
            None => Err(Full(value)),
        }
    }

    /// Whether the consumer was dropped. What is pushed after that is dropped with the queue.
    pub fn is_closed(&self) -> bool {
        self.ring.as_ref().is_none_or(spsc::Producer::is_closed)
    }
}

impl<T> Clone for Producer<T> {
    /// Another handle, with a ring of its own.
    ///
    /// Panics: if `producers_max` handles exist already: a configuration is checked before it comes here.
    fn clone(&self) -> Self {
        let ring = self.shared.pool().pop();
        assert!(
            ring.is_some(),
            "an mpsc queue has no more handles than it was made for"
        );
        // Relaxed: we hold a handle, so the count cannot reach zero meanwhile.
        self.shared.producers_count.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
            ring,
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        if let Some(ring) = self.ring.take() {
            self.shared.pool().push(ring);
        }
        // Release: pairs with the Acquire load in Consumer::is_closed(): who sees zero sees every push.
        self.shared.producers_count.fetch_sub(1, Ordering::Release);
    }
}

impl<T> Shared<T> {
    fn pool(&self) -> crate::sync::MutexGuard<'_, Vec<spsc::Producer<T>>> {
        // Nothing in the crate panics while it holds the lock; a list of rings is whole in any case.
        match self.pool.lock() {
            Ok(pool) => pool,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// The reading half. Send, not Sync.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    rings: Box<[spsc::Consumer<T>]>,
    /// The ring looked at next.
    current: usize,
}

impl<T> Consumer<T> {
    /// Takes a value: the oldest of a producer that has one.
    #[inline]
    pub fn try_take(&mut self) -> Option<T> {
        for _ in 0..self.rings.len() {
            if let Some(value) = self.rings[self.current].try_take() {
                return Some(value);
            }
            self.step();
        }
        None
    }

    /// Hands up to `count_max` values to `take`, a batch from each producer in turn. Returns how many there were.
    #[inline]
    pub fn drain(&mut self, count_max: usize, mut take: impl FnMut(T)) -> usize {
        let mut count = 0;
        for _ in 0..self.rings.len() {
            for value in self.rings[self.current].drain(BATCH_MAX.min(count_max - count)) {
                count += 1;
                take(value);
            }
            self.step();
            if count == count_max {
                break;
            }
        }
        count
    }

    /// Whether nothing is waiting: the recheck between `prepare_sleep` and blocking.
    pub fn is_empty(&self) -> bool {
        self.rings.iter().all(spsc::Consumer::is_empty)
    }

    /// Whether all producers were dropped. Their last values may still be here: when this is true and
    /// [`try_take`](Self::try_take) says None *afterwards*, that was all.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release decrement in Producer::drop().
        self.shared.producers_count.load(Ordering::Acquire) == 0
    }

    fn step(&mut self) {
        self.current += 1;
        if self.current == self.rings.len() {
            self.current = 0;
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("mpsc::Producer").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("mpsc::Consumer")
            .field("is_empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}
