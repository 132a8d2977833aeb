//! The threads, sockets and files of one BarkFS node.
//!
//! One request's way: `network` reads bytes, `pipeline` carries them to a worker, `worker_thread` hands them
//! to their `protocol`, which asks the core; `log_thread` and `storage_thread` make the answer durable.

pub mod config;
pub mod file_disk;
pub mod handover;
pub mod log_thread;
pub mod mailbox;
pub mod network;
pub mod peer_links;
pub mod pipeline;
pub mod protocol;
pub mod reactor;
pub mod signals;
pub mod startup;
pub mod storage_thread;
pub mod thread_waker;
pub mod worker_thread;
