//! The deterministic machine of a node: no sockets, files, threads, clocks or hidden randomness.

pub mod block_store;
pub mod checksum;
pub mod disk;
pub mod identity;
pub mod log;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod random;
pub mod snapshot_file;
pub mod state;
pub mod time;
