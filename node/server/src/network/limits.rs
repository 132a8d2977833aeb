//! How many connections the node may hold, and the open files they need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Error;

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

    /// Relaxed throughout: a count, it guards no other memory.
    pub(super) fn try_enter(&self) -> bool {
        if self.count.fetch_add(1, Ordering::Relaxed) < self.max {
            return true;
        }
        self.leave();
        false
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
