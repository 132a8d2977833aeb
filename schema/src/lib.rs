//! The contract of BarkFS: ids, requests and replies, messages, framing and placement.
//!
//! Everything that two programs of different age must agree on lives here.

pub mod access_list;
pub mod access_time;
pub mod allocator;
pub mod audit;
pub mod cluster_file;
pub mod codec;
pub mod data;
pub mod delegation;
pub mod failure;
pub mod file_lock;
pub mod frame;
pub mod generated;
pub mod ids;
pub mod inode;
pub mod limits;
pub mod listing;
pub mod message;
pub mod mix;
pub mod node_request;
pub mod operation;
pub mod placement;
pub mod policy;
pub mod quota;
pub mod repair;
pub mod status;
pub mod step;
pub mod trace;
pub mod upkeep;
pub mod usage;
