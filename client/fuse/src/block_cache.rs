//! Blocks that are read in small pieces here and there, whole.
//!
//! What is read in order the kernel asks for in large pieces and keeps itself. Small reads at random would each be a
//! round trip for as long as the kernel has little of the file, so a block that gets several of them is fetched whole, once,
//! and the rest of them are answered from memory. A block never changes, so nothing here can be out of date.
//!
//! Invariants:
//! - The blocks here take at most `capacity` bytes, and one more block while it replaces others.
//! - Of one block there is at most one whole fetch at a time; whoever comes meanwhile waits for it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bark_schema::ids::BlockId;
use bark_schema::limits::{KIB, MIB};
use bytes::Bytes;
use lru::LruCache;
use tokio::sync::OnceCell;

/// A thirty-second of the machine's memory, between these.
const CAPACITY_SHARE: u64 = 32;
const CAPACITY_MIN: usize = 32 * MIB;
const CAPACITY_MAX: usize = 512 * MIB;
/// Reads up to this size are small; what the kernel reads ahead is larger.
const SMALL_READ_MAX: u32 = 64 * KIB as u32;
/// A block is fetched whole with this small read of it.
const READS_MAX: u8 = 3;
/// Blocks whose small reads are counted. In a file with many more than that, hardly any comes to be fetched whole, which
/// would be a waste there.
const COUNTED_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("more than none");

type Cell = Arc<OnceCell<Bytes>>;

#[derive(Debug)]
pub(crate) struct BlockCache {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blocks: LruCache<BlockId, Held>,
    held_bytes: usize,
    reads: LruCache<BlockId, u8>,
}

#[derive(Debug)]
struct Held {
    cell: Cell,
    size: usize,
}

impl BlockCache {
    pub(crate) fn new() -> BlockCache {
        let share = rustix::system::sysinfo().totalram as u64 / CAPACITY_SHARE;
        let share = usize::try_from(share).unwrap_or(CAPACITY_MAX);
        BlockCache::with_capacity(share.clamp(CAPACITY_MIN, CAPACITY_MAX))
    }

    fn with_capacity(capacity: usize) -> BlockCache {
        BlockCache {
            capacity,
            state: Mutex::new(State {
                blocks: LruCache::unbounded(),
                held_bytes: 0,
                reads: LruCache::new(COUNTED_MAX),
            }),
        }
    }

    /// `length` bytes of a block of `size` bytes are to be read: where the whole block is, or is to be put by the first who
    /// comes. None: the bytes asked for are enough.
    pub(crate) fn whole(&self, block: BlockId, size: u32, length: u32) -> Option<Cell> {
        let mut state = self.lock();
        if let Some(held) = state.blocks.get(&block) {
            return Some(held.cell.clone());
        }
        if length > SMALL_READ_MAX || length == size {
            return None;
        }
        let reads = state.reads.get_or_insert_mut(block, || 0);
        *reads += 1;
        if *reads < READS_MAX {
            return None;
        }
        state.reads.pop(&block);
        let cell = Cell::default();
        let size = size as usize;
        state.held_bytes += size;
        let held = Held {
            cell: cell.clone(),
            size,
        };
        state.blocks.put(block, held);
        while state.held_bytes > self.capacity
            && state.blocks.len() > 1
            && let Some((_, oldest)) = state.blocks.pop_lru()
        {
            state.held_bytes -= oldest.size;
        }
        Some(cell)
    }

    /// It cannot be fetched whole.
    pub(crate) fn forget(&self, block: BlockId) {
        let mut state = self.lock();
        if let Some(held) = state.blocks.pop(&block) {
            state.held_bytes -= held.size;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // State changes by whole steps that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bark_schema::ids::ClientId;

    const SIZE: u32 = MIB as u32;

    fn block(counter: u64) -> BlockId {
        BlockId {
            client: ClientId(1),
            counter,
        }
    }

    fn is_whole(cache: &BlockCache, counter: u64, length: u32) -> bool {
        cache.whole(block(counter), SIZE, length).is_some()
    }

    #[test]
    fn a_block_is_fetched_whole_with_its_third_small_read() {
        // Goal: neither one read nor reading in order costs a whole block. Method: small reads, then large ones.
        let cache = BlockCache::with_capacity(10 * MIB);
        let reads: Vec<bool> = (0..4).map(|_| is_whole(&cache, 1, 4096)).collect();
        assert_eq!(reads, [false, false, true, true]);
        assert!((0..9).all(|_| !is_whole(&cache, 2, 256 * 1024)));
        assert!(is_whole(&cache, 1, 256 * 1024), "what is here is used");
    }

    #[test]
    fn the_blocks_that_were_used_longest_ago_go_first_and_the_bound_holds() {
        // Goal: memory stays bounded. Method: one block more than there is room for, after the first was used again.
        let cache = BlockCache::with_capacity(3 * MIB);
        for counter in [1, 2, 3] {
            assert!((0..3).any(|_| is_whole(&cache, counter, 4096)));
        }
        assert!(is_whole(&cache, 1, 4096));
        assert!((0..3).any(|_| is_whole(&cache, 4, 4096)));
        let held = |counter| cache.lock().blocks.contains(&block(counter));
        assert_eq!([1, 2, 3, 4].map(held), [true, false, true, true]);
        assert_eq!(cache.lock().held_bytes, 3 * MIB);
        cache.forget(block(3));
        assert_eq!(cache.lock().held_bytes, 2 * MIB);
    }

    #[test]
    fn counting_the_reads_of_a_huge_file_takes_bounded_memory() {
        let cache = BlockCache::with_capacity(10 * MIB);
        assert!((0..10_000).all(|counter| !is_whole(&cache, counter, 4096)));
        assert_eq!(cache.lock().reads.len(), COUNTED_MAX.get());
    }
}
