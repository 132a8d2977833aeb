//! The deterministic machine of a node: no sockets, files, threads, clocks or hidden randomness.

pub mod disk;
pub mod random;
pub mod time;
