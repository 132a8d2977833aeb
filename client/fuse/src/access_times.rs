//! When programs read something, told to the cluster once a second.
//!
//! Only reads that move the time of access are kept, by the rule the nodes have too (`bark_schema::access_time`), and
//! shown as soon as the kernel asks. What it reads out of pages it has is not heard of here; so where it keeps them at an
//! open for reading, the open counts as the read.
//!
//! Invariants:
//! - A read that was followed by a change of the inode is not told: it would undo a time that was set since.
//! - They are the one thing a mount may lose: with so many that the cluster does not take, newer ones are not kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bark_schema::access_time::{Access, Times};
use bark_schema::ids::InodeId;
use bark_schema::limits::ACCESSES_PER_COMMAND_MAX;
use bark_schema::operation::{Attributes, UnixNanos};

use crate::attributes::unix_nanos;
use crate::volume::Volume;

const PERIOD: Duration = Duration::from_secs(1);
/// About 3 MiB.
const KEPT_MAX: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct AccessTimes {
    is_on: bool,
    kept: Mutex<HashMap<InodeId, UnixNanos>>,
}

impl AccessTimes {
    pub(crate) fn new(is_on: bool) -> AccessTimes {
        AccessTimes {
            is_on,
            kept: Mutex::default(),
        }
    }

    /// A program read an inode that has these times.
    pub(crate) fn read(&self, inode: InodeId, times: Times) {
        let now = now();
        if !(self.is_on && times.move_with(now)) {
            return;
        }
        let mut kept = self.lock();
        let has_room = kept.len() < KEPT_MAX;
        match kept.get_mut(&inode) {
            // One that does not count any more makes room for one that does.
            Some(at) if !times.move_with(*at) => *at = now,
            None if has_room => {
                kept.insert(inode, now);
            }
            _ => {}
        }
    }

    /// The cluster's attributes as of the last read here.
    pub(crate) fn show_in(&self, attributes: &mut Attributes) {
        if let Some(at) = self.lock().get(&attributes.inode)
            && Times::from(&*attributes).move_with(*at)
        {
            attributes.accessed = *at;
        }
    }

    /// Its time of access was set.
    pub(crate) fn forget(&self, inode: InodeId) {
        self.lock().remove(&inode);
    }

    fn forget_told(&self, told: &[Access]) {
        let mut kept = self.lock();
        for access in told {
            if kept.get(&access.inode) == Some(&access.at) {
                kept.remove(&access.inode);
            }
        }
    }

    /// In the order of their partitions.
    fn kept(&self) -> Vec<Access> {
        let kept = self.lock();
        let accesses = kept.iter().map(|(inode, at)| Access {
            inode: *inode,
            at: *at,
        });
        let mut accesses: Vec<Access> = accesses.collect();
        accesses.sort_unstable_by_key(|access| (access.inode.home(), access.inode));
        accesses
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InodeId, UnixNanos>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// Tells the cluster for as long as the mount lives.
    pub(crate) async fn tell_access_times(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell_kept_access_times().await;
        }
    }

    /// What the cluster does not take is kept.
    pub(crate) async fn tell_kept_access_times(&self) {
        let kept = self.access_times.kept();
        for of_partition in kept.chunk_by(|one, other| one.inode.home() == other.inode.home()) {
            for batch in of_partition.chunks(ACCESSES_PER_COMMAND_MAX) {
                let partition = batch[0].inode.home();
                match self.cluster.move_access_times(partition, batch.to_vec()).await {
                    Ok(()) => {
                        self.files.were_read(batch);
                        self.access_times.forget_told(batch);
                    }
                    Err(failure) => tracing::debug!(%failure, "times of access not told"),
                }
            }
        }
    }
}

fn now() -> UnixNanos {
    unix_nanos(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(7);

    fn times(accessed: UnixNanos, changed: UnixNanos) -> Times {
        Times {
            accessed,
            modified: changed,
            changed,
        }
    }

    #[test]
    fn the_first_read_after_a_change_is_kept() {
        // Goal: what is told is when relatime moves the time. Method: reads before and after a change, and a mount
        // that does not tell.
        let kept = AccessTimes::new(true);
        let before = now();
        kept.read(FILE, times(10, 10));
        let [first] = kept.kept()[..] else {
            panic!("one is kept")
        };
        assert!(first.at >= before);
        kept.read(FILE, times(10, 10));
        assert_eq!(kept.kept(), [first]);
        kept.read(FILE, times(10, first.at + 1));
        assert!(kept.kept()[0].at > first.at);
        kept.forget_told(&[first]);
        assert_eq!(kept.kept().len(), 1, "another one was told");
        kept.forget(FILE);
        assert!(kept.kept().is_empty());
        let off = AccessTimes::new(false);
        off.read(FILE, times(10, 10));
        assert!(off.kept().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        // Goal: a scan of a huge tree while the cluster is away takes no more memory. Method: one file too many.
        let kept = AccessTimes::new(true);
        for inode in 0..=KEPT_MAX as u64 {
            kept.read(InodeId(inode), times(10, 10));
        }
        assert_eq!(kept.kept().len(), KEPT_MAX);
    }
}
