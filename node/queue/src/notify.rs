//! A mesh: one ring per producer towards one consumer, and a mask of who has something. The workers' way to notify the
//! network thread.
//!
//! Design. Every ring is an [`spsc`] one, so producers never meet on a cache line that matters; the consumer reads one
//! word instead of asking every ring. It beats every single queue with many
//! producers when they publish in batches (`bark-benches queue`); publishing each item alone gives that away.
//!
//! ```text
//! worker 0 ──ring 0──┐
//! worker 1 ──ring 1──┼──▶ network thread: mask = dirty.swap(0), drain the rings it names
//! worker N ──ring N──┘        dirty: one bit per worker
//! ```
//! A producer pushes many items, then publishes: the ring's tail, its bit, the sleep flag, in that order. When its bit
//! is still set from the publish before, both later steps are skipped: whoever set it did them, and the consumer clears
//! the bit before it looks into the ring.
//!
//! The price: at most 64 producers, memory for each ring, no order between producers.
//!
//! Invariants
//! - If a ring holds published values then its dirty bit is set, or its pending bit is, or its producer is inside
//!   `publish` and about to set it.
//! - Only the ring's producer sets its dirty bit; only the consumer clears it, always before it reads the ring.
//! - `publish` is true at most once per sleep of the consumer.

use crate::cache_padded::CachePadded;
use crate::sync::{Arc, AtomicU64, Ordering, fence};
use crate::{Full, SleepFlag, spsc};

/// One bit of the mask each.
pub const PRODUCERS_MAX: usize = u64::BITS as usize;

/// Creates `producers_count` rings of at least `capacity` values each towards one consumer that sleeps on
/// `consumer_flag`. The flag may stand for other queues of the same thread too.
///
/// Panics: if there are more than [`PRODUCERS_MAX`] producers: a configuration must be checked before it comes here.
pub fn mesh<T>(
    producers_count: usize,
    capacity: usize,
    consumer_flag: &SleepFlag,
) -> (Vec<Producer<T>>, Consumer<T>) {
    assert!(producers_count <= PRODUCERS_MAX);
    let dirty = Arc::new(CachePadded(AtomicU64::new(0)));
    let mut producers = Vec::with_capacity(producers_count);
    let mut rings = Vec::with_capacity(producers_count);
    for index in 0..producers_count {
        let (ring, ring_consumer) = spsc::channel(capacity);
        let flag = consumer_flag.clone();
        producers.push(Producer {
            ring,
            dirty: Arc::clone(&dirty),
            bit: 1 << index,
            consumer_flag: flag,
        });
        rings.push(ring_consumer);
    }
    let consumer = Consumer {
        rings: rings.into_boxed_slice(),
        dirty,
        pending: 0,
        first_ring: 0,
    };
    (producers, consumer)
}

/// One worker's end. Send, not Sync.
#[derive(Debug)]
pub struct Producer<T> {
    ring: spsc::Producer<T>,
    dirty: Arc<CachePadded<AtomicU64>>,
    bit: u64,
    consumer_flag: SleepFlag,
}

impl<T> Producer<T> {
    /// Pushes one value that the consumer does not see before [`publish`](Self::publish).
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        self.ring.push_unpublished(value)
    }

    /// Makes everything pushed so far visible; true if the caller must wake the consumer. Once per batch, not per item.
    #[inline]
    #[must_use = "a consumer that nobody wakes sleeps for ever"]
    pub fn publish(&mut self) -> bool {
        if self.ring.unpublished_len() == 0 {
            return false;
        }
        self.publish_and_mark() && self.consumer_flag.must_wake()
    }

    /// Slots free now.
    pub fn free(&mut self) -> usize {
        self.ring.free()
    }

    /// Values pushed, published or not, and not yet given back by the consumer.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether the consumer has given everything back.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Values the ring can hold.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Whether the consumer was dropped.
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Publishes the ring and sets the bit; false if it was set already.
    #[inline]
    fn publish_and_mark(&mut self) -> bool {
        self.ring.publish();
        // SeqCst: pairs with the fence in Consumer::collect_dirty(). Either the consumer, which cleared the bit before
        // its fence, sees our tail, or we see the bit cleared and set it again.
        fence(Ordering::SeqCst);
        if self.dirty.load(Ordering::Relaxed) & self.bit != 0 {
            return false;
        }
        // Release: pairs with the Acquire swap in Consumer::collect_dirty(): who sees the bit sees the tail.
        self.dirty.fetch_or(self.bit, Ordering::Release);
        true
    }
}

impl<T> Drop for Producer<T> {
    /// What was not published is published, but nobody is woken: a caller that needs that publishes first.
    fn drop(&mut self) {
        if self.ring.unpublished_len() > 0 {
            self.publish_and_mark();
        }
    }
}

/// The network thread's end. Send, not Sync.
#[derive(Debug)]
pub struct Consumer<T> {
    rings: Box<[spsc::Consumer<T>]>,
    dirty: Arc<CachePadded<AtomicU64>>,
    /// Rings that may hold something although their dirty bit was cleared.
    pending: u64,
    /// Where the next drain begins, so that a bound on it does not starve the later rings.
    first_ring: u32,
}

impl<T> Consumer<T> {
    /// Hands up to `count_max` values to `take`, with the index of their producer, ring by ring, and gives back each
    /// ring's slots once. Returns how many there were; fewer than `count_max` do not mean that nothing came meanwhile.
    pub fn drain(&mut self, count_max: usize, mut take: impl FnMut(usize, T)) -> usize {
        self.collect_dirty();
        let mut count = 0;
        let mut unvisited = self.pending;
        while unvisited != 0 && count < count_max {
            // The first set bit from first_ring on, round the end.
            let steps = unvisited.rotate_right(self.first_ring).trailing_zeros();
            let index = (self.first_ring + steps) % u64::BITS;
            let ring = &mut self.rings[index as usize];
            for value in ring.drain(count_max - count) {
                count += 1;
                take(index as usize, value);
            }
            // A publish after this look finds the dirty bit cleared and sets it again.
            if ring.is_empty() {
                self.pending &= !(1 << index);
            }
            unvisited &= !(1 << index);
            self.first_ring = (index + 1) % u64::BITS;
        }
        count
    }

    /// Whether nothing is waiting: the recheck between `prepare_sleep` and blocking.
    pub fn is_empty(&self) -> bool {
        // Relaxed: SleepFlag's fence orders it, and the data is read behind collect_dirty()'s Acquire.
        self.pending == 0 && self.dirty.load(Ordering::Relaxed) == 0
    }

    /// Whether all producers were dropped. When this is true and [`drain`](Self::drain) finds nothing *afterwards*,
    /// that was all.
    pub fn is_closed(&self) -> bool {
        self.rings.iter().all(spsc::Consumer::is_closed)
    }

    fn collect_dirty(&mut self) {
        // A poll of an empty mesh must not take the cache line away from the producers.
        if self.dirty.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Acquire: pairs with the Release in Producer::publish_and_mark().
        self.pending |= self.dirty.swap(0, Ordering::Acquire);
        // SeqCst: pairs with the fence in Producer::publish_and_mark(): the bits are cleared before the rings are read.
        fence(Ordering::SeqCst);
    }
}
