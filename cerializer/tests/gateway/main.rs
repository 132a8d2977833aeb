//! The gateway as a process of its own, before a cluster of real sockets and frames.

// The cluster belongs to the client's own tests; both must mean the same frames.
#[path = "../../../client/lib/tests/fake/mod.rs"]
mod fake;
mod process;

mod cluster;
mod description;
mod files;
mod keys;
mod names;
mod rough;
mod rpc;
