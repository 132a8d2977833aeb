//! The names on a simulated disk, and the changes of them that a directory's sync makes durable.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) files: BTreeMap<String, usize>,
    pub(super) directories: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Link { path: String, inode: usize },
    Unlink { path: String },
    Rename { from: String, to: String, inode: usize },
    MakeDirectory { path: String },
}

impl Tree {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { path, inode } => {
                self.files.insert(path.clone(), *inode);
            }
            Change::Unlink { path } => {
                self.files.remove(path);
            }
            Change::Rename { from, to, inode } => {
                if self.files.get(from) == Some(inode) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *inode);
            }
            Change::MakeDirectory { path } => {
                self.directories.insert(path.clone());
            }
        }
    }

    /// Removes what lies in directories that did not survive.
    pub(super) fn drop_orphans(&mut self) {
        let all = self.directories.clone();
        self.directories.retain(|path| {
            let mut ancestor = parent(path);
            while !ancestor.is_empty() {
                if !all.contains(ancestor) {
                    return false;
                }
                ancestor = parent(ancestor);
            }
            true
        });
        let Tree { files, directories } = self;
        files.retain(|path, _| parent(path).is_empty() || directories.contains(parent(path)));
    }
}

impl Change {
    pub(super) fn directory(&self) -> &str {
        match self {
            Change::Link { path, .. } | Change::Unlink { path } | Change::MakeDirectory { path } => {
                parent(path)
            }
            Change::Rename { to, .. } => parent(to),
        }
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
