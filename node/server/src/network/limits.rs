//! How many connections the node may hold, and the open files they need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Error;
use crate::pipeline::ConnectionKind;

/// Files a node opens beside its connections: segments, logs, listeners, event loops.
const OTHER_FILES_MAX: u64 = 512;

/// Counts the connections of all network threads together.
#[derive(Clone, Debug)]
pub struct ConnectionCount {
    // Shared: the limit is the node's, the threads are many.
    count: Arc<AtomicUsize>,
    max: usize,
}

impl ConnectionCount {
    pub fn new(max: usize) -> Self {
        Self {
            count: Arc::default(),
            max,
        }
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// For a connection from outside. Relaxed throughout: a count, it guards no other memory.
    pub(super) fn try_enter(&self, kind: ConnectionKind) -> bool {
        // Other nodes come to the Cap'n Proto port: clients of the others do not take the last places.
        let max = match kind {
            ConnectionKind::Capnp => self.max,
            ConnectionKind::Resp | ConnectionKind::Http => self.max - self.max / 16,
        };
        if self.count.fetch_add(1, Ordering::Relaxed) < max {
            return true;
        }
        self.leave();
        false
    }

    /// For a connection from here to another node: there are few, and the cluster needs them.
    pub(super) fn enter(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Raises the soft limit of open files as far as `connections_max` needs.
/// Errors: `OpenFiles` if the hard limit is too low.
pub fn raise_open_files_limit(connections_max: usize) -> Result<(), Error> {
    let needed = connections_max as u64 + OTHER_FILES_MAX;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(|_| Error::OpenFiles {
        limit: limit.maximum.unwrap_or(u64::MAX),
        needed,
    })
}
