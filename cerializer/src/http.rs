//! The routes, one file a group.

pub mod cluster;
pub mod dirs;
pub mod files;
pub mod health;
pub mod keys;
pub mod meta;
pub mod page;
pub mod rpc;
