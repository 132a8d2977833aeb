//! A bounded queue from many threads to one, for traffic too rare to deserve a ring per pair.
//!
//! Design. A Treiber stack whose reader takes the whole chain with one swap and turns it round: the measured best of
//! the single-queue designs. A push is one compare-and-swap that also says whether the queue was empty, the only moment
//! at which a wake-up can be needed.
//!
//! ```text
//! producers ──push──▶ pushed: newest → … → oldest ──swap──▶ consumer: values moved to a local vector, oldest last
//!     ▲                                                        │ nodes cut into magazines of 16
//!     └──pop one magazine◀── free: magazine → magazine → … ◀──┘ one compare-and-swap for all of them
//! ```
//! Nodes live in one array and are named by a 32-bit index; allocating one per push cost 37-144 ns. Producers get
//! them back in magazines, so that the free list is touched once in 16 pushes under load.
//!
//! The price: a value is copied once more, through the consumer's vector, and nodes cached by a producer are not
//! there for the others; `channel` adds them to the array, so that `capacity` still holds.
//!
//! Invariants
//! - A node is in exactly one place: a producer's cache, the pushed chain, the free list, or being moved between them.
//! - Exactly the nodes in the pushed chain hold a value.
//! - Taking the chain is immune to ABA because nothing is dereferenced before the swap. Popping a magazine is protected
//!   by a 32-bit tag that every pop advances: a thread would have to stall for exactly 2^32 pops to be fooled.
//! - Values of one producer are taken in the order of their pushes.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use crate::Full;
use crate::cache_padded::CachePadded;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, UnsafeCell};

/// 16: divides the cost of the free list by 16 and still caches only 15 idle nodes per producer. Loom gets 2, so that
/// its small models cross a magazine's edge.
const MAGAZINE_NODES_MAX: usize = if cfg!(loom) { 2 } else { 16 };

/// No node: the end of a chain.
const NIL: u32 = u32::MAX;

/// What a successful push found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Nothing was waiting: the consumer may be asleep. Ask its [`SleepFlag`](crate::SleepFlag).
    pub was_empty: bool,
}

/// Creates a queue in which `capacity` values always find room while there are at most `producers_max` producers
/// (with more of them, the ones that cache nodes may make the others see [`Full`] earlier).
///
/// Panics: if that needs 2^32 - 1 nodes or more, or memory is exhausted.
pub fn channel<T>(capacity: usize, producers_max: usize) -> (Producer<T>, Consumer<T>) {
    let nodes_count = producers_max
        .max(1)
        .checked_mul(MAGAZINE_NODES_MAX - 1)
        .and_then(|cached| cached.checked_add(capacity.max(1)))
        .filter(|count| *count < NIL as usize)
        .expect("an mpsc queue has fewer than 2^32 - 1 nodes");
    let nodes: Box<[Node<T>]> = (0..nodes_count)
        .map(|index| Node::in_first_free_list(index, nodes_count))
        .collect();
    let shared = Arc::new(Shared {
        nodes,
        pushed: CachePadded(AtomicU32::new(NIL)),
        free: CachePadded(AtomicU64::new(FreeHead { tag: 0, first: 0 }.pack())),
        producers_count: AtomicUsize::new(1),
        consumer_is_gone: AtomicBool::new(false),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        cached: NIL,
        not_sync: PhantomData,
    };
    let consumer = Consumer {
        shared,
        taken: Vec::with_capacity(nodes_count),
        not_sync: PhantomData,
    };
    (producer, consumer)
}

struct Node<T> {
    value: UnsafeCell<MaybeUninit<T>>,
    /// The next node of the same chain: pushed earlier, or in the same magazine.
    next: AtomicU32,
    /// In the first node of a magazine in the free list: the next magazine.
    next_magazine: AtomicU32,
}

impl<T> Node<T> {
    fn in_first_free_list(index: usize, nodes_count: usize) -> Self {
        let index_or_nil = |index: usize| if index < nodes_count { index as u32 } else { NIL };
        let ends_magazine = (index + 1).is_multiple_of(MAGAZINE_NODES_MAX);
        Self {
            value: UnsafeCell::new(MaybeUninit::uninit()),
            next: AtomicU32::new(if ends_magazine {
                NIL
            } else {
                index_or_nil(index + 1)
            }),
            next_magazine: AtomicU32::new(index_or_nil(index + MAGAZINE_NODES_MAX)),
        }
    }
}

/// Head of the free list: a tag against ABA and the first magazine, in one word.
#[derive(Clone, Copy)]
struct FreeHead {
    tag: u32,
    first: u32,
}

impl FreeHead {
    fn pack(self) -> u64 {
        (u64::from(self.tag) << 32) | u64::from(self.first)
    }

    fn unpack(word: u64) -> Self {
        Self {
            tag: (word >> 32) as u32,
            first: word as u32,
        }
    }
}

struct Shared<T> {
    nodes: Box<[Node<T>]>,
    pushed: CachePadded<AtomicU32>,
    free: CachePadded<AtomicU64>,
    producers_count: AtomicUsize,
    consumer_is_gone: AtomicBool,
}

// SAFETY: values move from a producer's thread to the consumer's, which T: Send permits; a node's value is accessed by
// the one place that holds the node (module invariants), and places hand over with Release/Acquire.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; everything else in it is atomic.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn node(&self, index: u32) -> &Node<T> {
        &self.nodes[index as usize]
    }

    fn pop_magazine(&self) -> Option<u32> {
        // Acquire: pairs with the Release in push_magazines(): the nodes' links are written, their values read.
        let mut word = self.free.load(Ordering::Acquire);
        loop {
            let head = FreeHead::unpack(word);
            if head.first == NIL {
                return None;
            }
            // May be stale when another pop wins; then the tag has moved and the exchange fails.
            let first = self.node(head.first).next_magazine.load(Ordering::Relaxed);
            let popped = FreeHead {
                tag: head.tag.wrapping_add(1),
                first,
            }
            .pack();
            // Acquire: as the load above.
            match self
                .free
                .compare_exchange_weak(word, popped, Ordering::Acquire, Ordering::Acquire)
            {
                Ok(_) => return Some(head.first),
                Err(actual) => word = actual,
            }
        }
    }

    /// Gives back magazines linked from `first` to `last`.
    fn push_magazines(&self, first: u32, last: u32) {
        let mut word = self.free.load(Ordering::Relaxed);
        loop {
            let head = FreeHead::unpack(word);
            self.node(last).next_magazine.store(head.first, Ordering::Relaxed);
            let pushed = FreeHead { tag: head.tag, first }.pack();
            // Release: pairs with the Acquire in pop_magazine().
            match self
                .free
                .compare_exchange_weak(word, pushed, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(actual) => word = actual,
            }
        }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed, here and below: all handles are gone; the Arc's count ordered what they did before this.
        let mut index = self.pushed.load(Ordering::Relaxed);
        while index != NIL {
            let node = self.node(index);
            node.value.with_mut(|value| {
                // SAFETY: a node in the pushed chain holds a value (invariant), and &mut self is alone.
                unsafe { (*value).assume_init_drop() }
            });
            index = node.next.load(Ordering::Relaxed);
        }
    }
}

/// A writing handle; clone it for every thread that writes. Send, not Sync.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Free nodes that only this handle knows: the rest of its magazine.
    cached: u32,
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Producer<T> {
    /// Pushes one value; visible at once. Says whether the queue was empty.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<Pushed, Full<T>> {
        if self.cached == NIL {
            match self.shared.pop_magazine() {
                Some(first) => self.cached = first,
                None => return Err(Full(value)),
            }
        }
        let index = self.cached;
        let node = self.shared.node(index);
        self.cached = node.next.load(Ordering::Relaxed);
        node.value.with_mut(|slot| {
            // SAFETY: the node was in our cache, so nobody else accesses it, and it holds no value to leak (invariants).
            unsafe { (*slot).write(value) };
        });
        let mut newest = self.shared.pushed.load(Ordering::Relaxed);
        loop {
            node.next.store(newest, Ordering::Relaxed);
            // Release: pairs with the Acquire swap in Consumer::take_chain(): value and link are written. The pushes
            // below ours are covered too, since a read-modify-write continues their release sequence.
            match self.shared.pushed.compare_exchange_weak(
                newest,
                index,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Ok(Pushed {
                        was_empty: newest == NIL,
                    });
                }
                Err(actual) => newest = actual,
            }
        }
    }

    /// Whether the consumer was dropped. What is pushed after that is dropped with the queue.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release store in Consumer::drop().
        self.shared.consumer_is_gone.load(Ordering::Acquire)
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        // Relaxed: we hold a handle, so the count cannot reach zero meanwhile.
        self.shared.producers_count.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: Arc::clone(&self.shared),
            cached: NIL,
            not_sync: PhantomData,
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        if self.cached != NIL {
            self.shared.push_magazines(self.cached, self.cached);
        }
        // Release: pairs with the Acquire load in Consumer::is_closed(): who sees zero sees every push.
        self.shared.producers_count.fetch_sub(1, Ordering::Release);
    }
}

/// The reading half. Send, not Sync.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// Values of the last chain, oldest last. Never longer than the node array, so it never grows.
    taken: Vec<T>,
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Consumer<T> {
    /// Takes the oldest value.
    #[inline]
    pub fn try_take(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            self.take_chain();
        }
        self.taken.pop()
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        // Acquire: as in take_chain(); callers use this as the recheck before sleep.
        self.taken.is_empty() && self.shared.pushed.load(Ordering::Acquire) == NIL
    }

    /// Whether all producers were dropped. Their last values may still be here: when this is true and
    /// [`try_take`](Self::try_take) says None *afterwards*, that was all.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release decrement in Producer::drop().
        self.shared.producers_count.load(Ordering::Acquire) == 0
    }

    fn take_chain(&mut self) {
        // A poll of an empty queue must not take the cache line away from the producers.
        if self.shared.pushed.load(Ordering::Relaxed) == NIL {
            return;
        }
        // Acquire: pairs with the Release in Producer::push().
        let mut index = self.shared.pushed.swap(NIL, Ordering::Acquire);
        // Only the consumer empties the chain, so it is not empty: the loop below runs at least once.
        let first_magazine = index;
        let mut last_magazine = index;
        loop {
            let magazine = index;
            index = self.empty_one_magazine(magazine);
            if magazine != first_magazine {
                self.shared
                    .node(last_magazine)
                    .next_magazine
                    .store(magazine, Ordering::Relaxed);
                last_magazine = magazine;
            }
            if index == NIL {
                break;
            }
        }
        self.shared.push_magazines(first_magazine, last_magazine);
    }

    /// Moves out the values of up to a magazine of nodes from `index` on, ends the magazine there, and returns the
    /// node after it. The chain's own links serve as the magazine's: only its last node is written.
    fn empty_one_magazine(&mut self, mut index: u32) -> u32 {
        let mut nodes_count = 0;
        loop {
            let node = self.shared.node(index);
            let value = node.value.with(|slot| {
                // SAFETY: the node came from the pushed chain, so it holds a value, written before our Acquire swap;
                // the node then goes to the free list as one without a value, so nobody reads it again.
                unsafe { (*slot).assume_init_read() }
            });
            self.taken.push(value);
            nodes_count += 1;
            let next = node.next.load(Ordering::Relaxed);
            if nodes_count == MAGAZINE_NODES_MAX || next == NIL {
                node.next.store(NIL, Ordering::Relaxed);
                return next;
            }
            index = next;
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire load in Producer::is_closed().
        self.shared.consumer_is_gone.store(true, Ordering::Release);
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
