//! Rename within one partition.
//!
//! Moving a directory to another parent is never done here, even if all of it is local: that needs the
//! cluster-wide rename lease and a walk of the ancestors, so that no loop can form.
//!
//! Invariants:
//! - Source and target change together; a replaced file loses one link, a replaced directory was empty.
//! - Whatever was moved has a new time of change.
//! - Renaming a file onto another name of the same file does nothing and succeeds (POSIX).

use bark_schema::ids::InodeId;
use bark_schema::operation::{Entry, Failure, FileKind, Refusal, RenameMode, Reply};

use super::State;
use super::dentry::{Dentry, check_name, no_such_entry};
use super::inode::is_at_home;

impl State {
    pub(super) fn rename(&mut self, from: &Entry, to: &Entry, mode: RenameMode) -> Result<Reply, Failure> {
        check_name(&from.name)?;
        check_name(&to.name)?;
        if !is_at_home(from.directory, self.partition) || !is_at_home(to.directory, self.partition) {
            return Err(Failure::CrossPartition);
        }
        self.directory(from.directory)?;
        self.directory(to.directory)?;
        self.check_entry_unlocked(from.directory, &from.name)?;
        self.check_entry_unlocked(to.directory, &to.name)?;
        let source = self
            .dentry(from.directory, &from.name)
            .ok_or_else(no_such_entry)?;
        let target = self.dentry(to.directory, &to.name);
        self.check_same_quota(from.directory, to.directory)?;
        let is_same = target.is_some_and(|target| target.inode == source.inode);
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => {
                return Err(Failure::refused(Refusal::Exists, "file exists"));
            }
            (RenameMode::Exchange, None) => return Err(no_such_entry()),
            _ if is_same => return Ok(Reply::Done),
            (RenameMode::Exchange, Some(target)) => {
                self.check_movable(source, from, to)?;
                self.check_movable(target, to, from)?;
                self.put_dentry(from.directory, &from.name, target);
                self.settle_in(target, to.directory, from.directory);
            }
            (RenameMode::Replace, Some(target)) => {
                self.check_replaceable(source, target)?;
                self.check_movable(source, from, to)?;
                self.remove_dentry(from.directory, &from.name);
                match target.kind {
                    FileKind::Directory => self.orphan_directory(target.inode),
                    _ => self.drop_link(target.inode, to.directory),
                }
            }
            (_, None) => {
                self.check_movable(source, from, to)?;
                self.check_room_for(to.directory, &to.name)?;
                self.remove_dentry(from.directory, &from.name);
            }
        }
        self.put_dentry(to.directory, &to.name, source);
        self.settle_in(source, from.directory, to.directory);
        Ok(Reply::Done)
    }

    /// Whether an entry can go from one directory to another by one log entry: its inode, which changes
    /// too, is here, and no directory gets another parent.
    fn check_movable(&self, moved: Dentry, from: &Entry, to: &Entry) -> Result<(), Failure> {
        let changes_parent = moved.kind == FileKind::Directory && from.directory != to.directory;
        if changes_parent || !is_at_home(moved.inode, self.partition) {
            return Err(Failure::CrossPartition);
        }
        self.check_inode_unlocked(moved.inode)
    }

    /// The inode's own part of its move.
    fn settle_in(&mut self, moved: Dentry, from: InodeId, to: InodeId) {
        if moved.kind == FileKind::Directory {
            let time = self.moment();
            self.change_inode(moved.inode, |row| row.changed = time);
        } else {
            self.change_names(moved.inode, Some(to), Some(from));
        }
    }

    /// Whether `source` may take the place of `target`, by kind, home, content and locks.
    fn check_replaceable(&self, source: Dentry, target: Dentry) -> Result<(), Failure> {
        check_kinds(source.kind, target.kind)?;
        if !is_at_home(target.inode, self.partition) {
            return Err(Failure::CrossPartition);
        }
        self.check_inode_unlocked(target.inode)?;
        if target.kind == FileKind::Directory {
            self.check_entries_held_by(target.inode, None)?;
            self.check_empty(target.inode)?;
        }
        Ok(())
    }

    pub(super) fn check_empty(&self, directory: InodeId) -> Result<(), Failure> {
        let (_, children) = self.directory(directory)?;
        if children > 0 {
            return Err(Failure::refused(Refusal::NotEmpty, "directory not empty"));
        }
        Ok(())
    }
}

/// A directory replaces a directory, anything else replaces anything else.
pub(super) fn check_kinds(source: FileKind, target: FileKind) -> Result<(), Failure> {
    match (source == FileKind::Directory, target == FileKind::Directory) {
        (true, false) => Err(Failure::refused(Refusal::NotDirectory, "not a directory")),
        (false, true) => Err(Failure::refused(Refusal::IsDirectory, "is a directory")),
        _ => Ok(()),
    }
}
