//! The threads, sockets and files of one BarkFS node.

pub mod reactor;
