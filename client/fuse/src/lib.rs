//! The mount: a BarkFS cluster as a file system of the kernel, through FUSE.
//!
//! Reading order, in the direction of a request: `filesystem` takes it from the kernel, `volume` says what it
//! means, `cluster` asks; but first `delegations`, where what happens in directories that only this mount uses is decided
//! without asking. The content of open files takes a longer way: `open_file` keeps what was written,
//! `publish` and `append` make it part of the file, `read` puts both together; `range_buffer`, `extent_map` and `layout`
//! are what they count with.
//!
//! The kernel's page cache is the only cache of content, and the kernel does not write back late: a write
//! reaches this process before it returns, so that sizes come from one place. Coherence is close-to-open: an
//! open asks the cluster, and the kernel's pages stay only if the version is the one they were read at; close
//! and fsync publish. Price: a small write costs a request, where the kernel's own write-back would
//! gather several.
//!
//! Invariants:
//! - Acknowledged names and attributes are in the cluster, or on their way to it and with the kernel, so that they arrive
//!   when this process is killed; acknowledged bytes, and the attributes of a file that was just made here, after close
//!   or fsync, or a second later. After fsync they are as durable as the cluster makes things.
//! - An error of a write in the background is told by the next fsync or close of the file.
//! - A request waits in a task, never on a thread that others need.

mod access_times;
mod append;
mod attributes;
mod block_cache;
mod capabilities;
mod capacity;
mod cluster;
mod delegations;
mod directories;
mod directory;
mod errno;
mod extent_map;
mod filesystem;
mod handles;
mod inheritance;
mod kept_attributes;
mod layout;
mod leases;
mod lock_keeper;
mod lock_ranges;
mod lock_table;
mod locks;
mod memory;
mod mount;
mod mount_table;
mod notices;
mod open_file;
mod open_files;
mod pages;
mod publication_failure;
mod publish;
mod range_buffer;
mod ranges;
mod read;
mod show;
mod task;
mod told_names;
mod volume;
mod xattr;

pub use cluster::Patience;
pub use mount::{Consistency, Error, Mount, MountOptions, Trust, remount, unmount};
