//! The deterministic machine of a node: no sockets, files, threads, clocks or hidden randomness.
//!
//! One write's way: `worker` takes it in and routes it, `request` coordinates what needs several
//! partitions, `partition` orders it through `consensus`, `log` makes it durable, `state` applies it.

pub mod block_store;
pub mod checksum;
pub mod consensus;
pub mod disk;
pub mod identity;
pub mod log;
pub mod members;
pub mod open;
mod paged_map;
pub mod partition;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod random;
pub mod request;
pub mod snapshot_file;
pub mod state;
pub mod storage;
pub mod time;
pub mod worker;
