//! A bounded ring from one thread to one other thread.
//!
//! Design. A power-of-two array of slots and two counters that only grow (and wrap): `tail` counts what the producer
//! published, `head` what the consumer gave back. Each side keeps its own counter as a plain number and a cached copy
//! of the other's; it touches the other's cache line only when the cached copy says full or empty. A cache line takes
//! 50-75 ns from core to core, so lines moved per item decide the speed: push many and publish once, take many and
//! give back once.
//!
//! The price: the capacity is allocated up front, and `len` is a moment's truth.
//!
//! Invariants
//! - `head <= published tail <= local tail <= head + capacity` (as wrapping distances).
//! - Slots in `head..tail` hold a value; the producer writes only outside, the consumer reads only inside.
//! - Only the producer stores `tail`, only the consumer stores `head`.
//! - What was pushed but not published is published when the producer is dropped: nothing pushed is lost.
//!
//! Source: Lamport's ring with cached indices, as in FastForward/MCRingBuffer and the rtrb crate.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use crate::Full;
use crate::cache_padded::CachePadded;
use crate::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

/// Creates a ring that holds at least `capacity` values: the next power of two, at least one.
///
/// Panics: if the next power of two does not fit `usize`, or memory is exhausted.
pub fn channel<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slots_count = capacity.max(1).next_power_of_two();
    let ring = Arc::new(Ring {
        slots: (0..slots_count)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        head: CachePadded(AtomicUsize::new(0)),
        tail: CachePadded(AtomicUsize::new(0)),
        producer_is_gone: AtomicBool::new(false),
        consumer_is_gone: AtomicBool::new(false),
    });
    let producer = Producer {
        ring: Arc::clone(&ring),
        tail: 0,
        published: 0,
        head_seen: 0,
        not_sync: PhantomData,
    };
    let consumer = Consumer {
        ring,
        head: 0,
        tail_seen: 0,
        not_sync: PhantomData,
    };
    (producer, consumer)
}

struct Ring<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    producer_is_gone: AtomicBool,
    consumer_is_gone: AtomicBool,
}

// SAFETY: a value is written by the producer's thread and read or dropped by another one, which T: Send permits.
// A slot is never accessed by two threads at a time: the counters hand it over (module invariants).
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above; the shared methods only touch atomics, and slots through the two halves, of which there is one each.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    #[inline(always)]
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The length is a power of two, so this stays right when the counters wrap, and in bounds always.
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Relaxed: both halves are gone; the Arc's count ordered their last stores before this.
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: slots in head..tail hold a value (invariant), and &mut self means that nobody else looks.
                unsafe { (*slot).assume_init_drop() }
            });
            head = head.wrapping_add(1);
        }
    }
}

/// The writing half. Send, not Sync: one thread at a time.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    /// Next position to write; ahead of `published` by what is not visible yet.
    tail: usize,
    published: usize,
    head_seen: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Producer<T> {
    /// Pushes one value and makes it, and all pushed before it, visible.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), Full<T>> {
        self.push_unpublished(value)?;
        self.publish();
        Ok(())
    }

    /// Pushes one value that the consumer does not see before [`publish`](Self::publish).
    #[inline]
    pub fn push_unpublished(&mut self, value: T) -> Result<(), Full<T>> {
        if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
            // Acquire: pairs with the Release store in Consumer::give_back(): the slot's last read is over.
            self.head_seen = self.ring.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
                return Err(Full(value));
            }
        }
        self.ring.slot(self.tail).with_mut(|slot| {
            // SAFETY: tail - head < capacity, so this slot is outside head..tail and ours alone; it holds no value
            // that an overwrite would leak, because the consumer moved it out before it advanced head.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Makes everything pushed so far visible to the consumer. Free when nothing is new.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.tail {
            self.published = self.tail;
            // Release: pairs with the Acquire load in Consumer::available(): the slots are written before tail says so.
            self.ring.tail.store(self.tail, Ordering::Release);
        }
    }

    /// Values pushed and not yet published.
    #[inline]
    pub fn unpublished_len(&self) -> usize {
        self.tail.wrapping_sub(self.published)
    }

    /// Pushes from `values` until they end or the ring is full, publishes once, returns how many went in.
    /// A value is only drawn from the iterator when there is room for it.
    pub fn push_batch(&mut self, values: &mut impl Iterator<Item = T>) -> usize {
        let mut count = 0;
        while self.free() > 0 {
            let Some(value) = values.next() else { break };
            if self.push_unpublished(value).is_err() {
                unreachable!("free() saw room, and only this half fills it");
            }
            count += 1;
        }
        self.publish();
        count
    }

    /// Slots free now. The consumer may free more at any time, nobody but this half takes them.
    pub fn free(&mut self) -> usize {
        if self.tail.wrapping_sub(self.head_seen) == self.capacity() {
            // Acquire: pairs with the Release store in Consumer::give_back().
            self.head_seen = self.ring.head.load(Ordering::Acquire);
        }
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Values pushed, published or not, and not yet given back by the consumer.
    pub fn len(&self) -> usize {
        // Relaxed: a number to look at, nothing is read on the strength of it.
        self.tail.wrapping_sub(self.ring.head.load(Ordering::Relaxed))
    }

    /// Whether the consumer has given everything back.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values the ring can hold.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.ring.slots.len()
    }

    /// Whether the consumer was dropped. What is pushed after that is dropped with the ring.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release store in Consumer::drop().
        self.ring.consumer_is_gone.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.publish();
        // Release: pairs with the Acquire load in Consumer::is_closed(): who sees this sees the last publish.
        self.ring.producer_is_gone.store(true, Ordering::Release);
    }
}

/// The reading half. Send, not Sync: one thread at a time.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    /// Next position to read; ahead of the ring's `head` only inside a [`Drain`].
    head: usize,
    tail_seen: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Consumer<T> {
    /// Takes the oldest published value.
    #[inline]
    pub fn try_take(&mut self) -> Option<T> {
        let value = self.take_without_giving_back()?;
        self.give_back();
        Some(value)
    }

    /// Takes up to `count_max` values that are published now, and gives their slots back together when the
    /// iterator is dropped. Values not drawn from it stay in the ring.
    pub fn drain(&mut self, count_max: usize) -> Drain<'_, T> {
        let remaining = self.available_now().min(count_max);
        Drain {
            consumer: self,
            remaining,
        }
    }

    /// Values published and not yet taken.
    pub fn len(&self) -> usize {
        // Acquire: pairs with the Release store in Producer::publish(); is_empty() is used as a recheck before sleep.
        self.ring.tail.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// Whether nothing is published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values the ring can hold.
    pub fn capacity(&self) -> usize {
        self.ring.slots.len()
    }

    /// Whether the producer was dropped. Its last values may still be here: when this is true and
    /// [`try_take`](Self::try_take) says None *afterwards*, that was all.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release store in Producer::drop().
        self.ring.producer_is_gone.load(Ordering::Acquire)
    }

    fn available_now(&mut self) -> usize {
        // Acquire: pairs with the Release store in Producer::publish().
        self.tail_seen = self.ring.tail.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    #[inline(always)]
    fn take_without_giving_back(&mut self) -> Option<T> {
        if self.head == self.tail_seen && self.available_now() == 0 {
            return None;
        }
        let value = self.ring.slot(self.head).with(|slot| {
            // SAFETY: head < published tail, so the slot holds a value whose write happened before our Acquire load
            // of tail; advancing head below means that it is never read again.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        Some(value)
    }

    #[inline(always)]
    fn give_back(&self) {
        // Release: pairs with the Acquire loads in Producer::push_unpublished() and free(): our reads are over.
        self.ring.head.store(self.head, Ordering::Release);
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // A Drain that was forgotten has moved values out; Ring::drop must not see them again.
        self.give_back();
        // Release: pairs with the Acquire load in Producer::is_closed().
        self.ring.consumer_is_gone.store(true, Ordering::Release);
    }
}

/// See [`Consumer::drain`].
pub struct Drain<'a, T> {
    consumer: &'a mut Consumer<T>,
    remaining: usize,
}

impl<T> Iterator for Drain<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.remaining = self.remaining.checked_sub(1)?;
        self.consumer.take_without_giving_back()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl<T> ExactSizeIterator for Drain<'_, T> {}

impl<T> Drop for Drain<'_, T> {
    fn drop(&mut self) {
        self.consumer.give_back();
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("spsc::Producer")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("spsc::Consumer")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Drain<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("spsc::Drain")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}
