//! Which directories have a name of an inode, and in which of them it counts.
//!
//! An inode counts in one directory, the one it was born in or moved to, though it may have names in several
//! and in other partitions. While it has one name, `Inode::directory` is all there is to know; from the second
//! name on the directories are rows of `names`, so that when the name it counts by goes, it counts by another.
//!
//! Invariants:
//! - An inode with several names has rows whose counts add up to its link count, one of them for the directory
//!   it counts in; any other inode has none.
//! - An inode without a name counts nowhere.

use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, FileKind, Refusal};

use super::State;
use super::inode::no_such_inode;

impl State {
    /// Whether a non-directory may get a name in `added`, lose the one in `removed`, or both.
    pub(super) fn check_names(
        &self,
        inode: InodeId,
        added: Option<InodeId>,
        removed: Option<InodeId>,
    ) -> Result<(), Failure> {
        let row = self.inode(inode)?;
        if row.kind() == FileKind::Directory {
            return Err(Failure::refused(Refusal::IsDirectory, "is a directory"));
        }
        if row.link_count == 0 && added.is_some() {
            return Err(no_such_inode());
        }
        if removed.is_some_and(|directory| !self.has_name_in(inode, directory)) {
            return Err(Failure::refused(
                Refusal::Conflict,
                "the file has no name in the directory",
            ));
        }
        if added.is_some() && removed.is_none() && row.link_count == u32::MAX {
            return Err(Failure::refused(Refusal::TooManyLinks, "too many links"));
        }
        Ok(())
    }

    fn has_name_in(&self, inode: InodeId, directory: InodeId) -> bool {
        match self.inodes.get(&inode) {
            Some(row) if row.link_count > 1 => self.names.contains(&(inode, directory)),
            Some(row) => row.link_count == 1 && row.directory == directory,
            None => false,
        }
    }

    /// Takes the name in `directory` from a non-directory; without one it is an orphan.
    pub(super) fn drop_link(&mut self, id: InodeId, directory: InodeId) {
        self.change_names(id, None, Some(directory));
    }

    /// Names changed: a directory got one, another or the same lost one.
    pub(super) fn change_names(&mut self, id: InodeId, added: Option<InodeId>, removed: Option<InodeId>) {
        let Some(row) = self.inodes.get(&id) else { return };
        let (old, mut directory) = (row.link_count, row.directory);
        let mut count = old;
        // A name goes from one place to another before it is counted, so that it never is the last one.
        if let Some(added) = added {
            let is_second = old == 1 && removed.is_none();
            if is_second {
                self.count_name(id, directory, 1);
            }
            if is_second || old > 1 {
                self.count_name(id, added, 1);
            }
            count = count.saturating_add(1);
        }
        if let Some(removed) = removed {
            if old > 1 {
                // Commands of one partition do not say so if another name went.
                let known = self.names.contains(&(id, removed));
                self.count_name(id, if known { removed } else { directory }, -1);
            }
            count = count.saturating_sub(1);
        }
        match (old, added) {
            (0 | 1, Some(added)) if count == 1 => directory = added,
            (0 | 1, _) => {}
            _ => directory = self.counting_name(id, directory),
        }
        if old > 1 && count == 1 {
            self.names.remove(&(id, directory));
        }
        let time = self.moment();
        self.change_inode(id, |inode| {
            inode.link_count = count;
            inode.directory = directory;
            inode.changed = time;
        });
        if count == 0 && old > 0 {
            self.make_due(id);
        }
    }

    fn count_name(&mut self, id: InodeId, directory: InodeId, by: i32) {
        let key = (id, directory);
        let count = self.names.get(&key).copied().unwrap_or(0);
        match count.saturating_add_signed(by) {
            0 => {
                self.names.remove(&key);
            }
            count => self.names.insert(key, count),
        }
    }

    /// The directory an inode with rows counts in: the one it did, if it has a name there still.
    fn counting_name(&self, id: InodeId, directory: InodeId) -> InodeId {
        if self.names.contains(&(id, directory)) {
            return directory;
        }
        let rows = (id, InodeId(0))..=(id, InodeId(u64::MAX));
        let first = self.names.range(rows).next();
        first.map_or(directory, |((_, first), _)| *first)
    }
}
