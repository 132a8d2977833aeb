//! Keeps a value alone on its cache lines, so that two threads' counters do not evict each other.

use std::ops::Deref;

/// 128 bytes: x86 fetches cache lines of 64 bytes in pairs, and several ARM cores have lines of 128.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
