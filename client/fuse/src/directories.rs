//! Attributes of directories this mount makes files in.
//!
//! A new file changes its directory, so the kernel, which checks permissions, asks for the directory's attributes
//! before each further file. What a new file changes of them is known from the file itself: both have the time of the
//! log entry. So they are asked for no more often than the kernel would for a directory that nobody changes.
//!
//! Invariants:
//! - What is known here is younger than [`VALID`], the new files of this mount included.
//! - Whatever else this mount changes of directories makes it forget them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, FileKind, UnixNanos};

use crate::open_files::VALID;

#[derive(Debug, Default)]
pub(crate) struct Directories {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<InodeId, Known>,
    /// Counts what this mount changed.
    changes: u64,
}

#[derive(Debug)]
struct Known {
    attributes: Attributes,
    at: Instant,
    /// A file was made in it since the kernel was told.
    has_new_files: bool,
}

/// The moment something was asked of the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl Directories {
    pub(crate) fn ask(&self) -> Asked {
        Asked(self.lock().changes)
    }

    /// Takes what the cluster answered, unless this mount changed something meanwhile.
    pub(crate) fn learn(&self, attributes: &Attributes, asked: Asked) {
        let mut table = self.lock();
        if attributes.kind == FileKind::Directory && table.changes == asked.0 {
            let known = Known {
                attributes: attributes.clone(),
                at: Instant::now(),
                has_new_files: false,
            };
            table.known.insert(attributes.inode, known);
        }
    }

    /// A file was made in it by the log entry of that time.
    pub(crate) fn made_file(&self, directory: InodeId, time: UnixNanos) {
        if let Some(known) = self.lock().known.get_mut(&directory) {
            known.attributes.modified = known.attributes.modified.max(time);
            known.attributes.changed = known.attributes.changed.max(time);
            known.has_new_files = true;
        }
    }

    /// Attributes of a directory the kernel asks for because of a new file, and for how long they still count.
    pub(crate) fn with_new_files(&self, directory: InodeId) -> Option<(Attributes, Duration)> {
        let mut table = self.lock();
        let known = table.known.get_mut(&directory)?;
        let left = VALID.checked_sub(known.at.elapsed())?;
        std::mem::take(&mut known.has_new_files).then(|| (known.attributes.clone(), left))
    }

    /// This mount changed names or attributes of directories.
    pub(crate) fn changed(&self) {
        let mut table = self.lock();
        table.changes += 1;
        table.known.clear();
    }

    /// The kernel has dropped the inode.
    pub(crate) fn forget(&self, directory: InodeId) {
        self.lock().known.remove(&directory);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::policy::Policy;

    use super::*;

    fn directory(changed: UnixNanos) -> Attributes {
        Attributes {
            inode: InodeId(5),
            kind: FileKind::Directory,
            mode: 0o755,
            owner: 0,
            group: 0,
            size: 0,
            link_count: 2,
            accessed: 0,
            modified: changed,
            changed,
            version: 1,
            device: 0,
            blocks: 0,
            policy: Policy::default(),
            xattr_count: 0,
        }
    }

    fn times(directories: &Directories) -> Option<(UnixNanos, UnixNanos)> {
        let (attributes, left) = directories.with_new_files(InodeId(5))?;
        assert!(left <= VALID);
        Some((attributes.modified, attributes.changed))
    }

    #[test]
    fn a_new_file_moves_the_times_of_its_directory() {
        // Goal: the kernel is told what it would hear from the cluster, once for each new file. Method: files, in and
        // out of order, and questions in between.
        let directories = Directories::default();
        directories.made_file(InodeId(5), 15);
        assert_eq!(times(&directories), None, "nothing is known of it");
        directories.learn(&directory(10), directories.ask());
        assert_eq!(times(&directories), None, "nothing was made in it");
        directories.made_file(InodeId(5), 30);
        directories.made_file(InodeId(5), 20);
        assert_eq!(times(&directories), Some((30, 30)));
        assert_eq!(times(&directories), None, "asked for another reason");
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_not_believed() {
        // Goal: no question asked before an unlink hides it. Method: an answer that comes after the change.
        let directories = Directories::default();
        let asked = directories.ask();
        directories.changed();
        directories.learn(&directory(10), asked);
        directories.made_file(InodeId(5), 20);
        assert_eq!(times(&directories), None);
        directories.learn(&directory(10), directories.ask());
        directories.changed();
        directories.made_file(InodeId(5), 20);
        assert_eq!(times(&directories), None);
    }
}
