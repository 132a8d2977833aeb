//! The threads, sockets and files of one BarkFS node.

pub mod network;
pub mod pipeline;
pub mod reactor;
