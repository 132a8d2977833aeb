//! Answers from the table, and what the table learns from the cluster's answers.

use std::sync::Arc;

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, Failure, FileKind, Refusal};
use bytes::Bytes;

use super::{Delegations, Name, Phase, Table};

/// What is known here of something that is asked for.
pub(crate) enum Known {
    Attributes(Box<Attributes>),
    /// It is not there.
    Nothing,
    /// A name leads to something whose attributes are to be asked for.
    Inode(InodeId),
    /// The cluster must be asked.
    Unknown,
}

impl Delegations {
    /// What a name leads to.
    pub(crate) async fn lookup(self: &Arc<Self>, directory: InodeId, name: &Bytes) -> Known {
        self.wait_until_ready(directory).await;
        if let Some(known) = self.lock().lookup(directory, name) {
            return known;
        }
        self.note_interest(directory, super::take::LOOKUP);
        // What was decided in it before is on its way if it has just been given back.
        self.settle_changes_of(directory).await;
        Known::Unknown
    }

    pub(crate) async fn attributes(&self, inode: InodeId) -> Option<Attributes> {
        self.wait_until_ready(inode).await;
        let mut table = self.lock();
        if let Some(directory) = table.ready(inode) {
            return directory.attributes.clone();
        }
        let member = table.files.get(&inode)?;
        let (directory, attributes) = (member.directory, member.attributes.clone());
        table.ready(directory)?;
        attributes
    }

    /// Whether the table may learn what the cluster says of a name or an inode that is asked for from now on.
    pub(crate) fn ask(&self, inode: InodeId) -> Asked {
        Asked {
            changes: self.lock().changes_of(inode),
        }
    }

    /// What the cluster said of a name.
    pub(crate) fn learn_name(
        &self,
        (directory, name): (InodeId, Bytes),
        asked: Asked,
        answer: &Result<Attributes, Failure>,
    ) {
        let mut table = self.lock();
        if table.changes_of(directory) != asked.changes {
            return;
        }
        let Some(found) = table.ready(directory) else {
            return;
        };
        if found.name(&name) != (Name::Unknown { touched: 0 }) {
            return;
        }
        match answer {
            Err(Failure::Refused(Refusal::NotFound, _)) => found.set(name, Name::Nothing),
            Err(_) => {}
            Ok(attributes) => table.learn_name(directory, name, attributes),
        }
    }

    /// What the cluster said of an inode, after it was asked.
    pub(crate) fn learn(&self, asked: Asked, attributes: &Attributes) {
        let mut table = self.lock();
        let inode = attributes.inode;
        if table.changes_of(inode) != asked.changes {
            return;
        }
        if table.is_pending(inode) {
            return;
        }
        if let Some(directory) = table.ready(inode) {
            directory.attributes = Some(attributes.clone());
        } else if let Some(member) = table.files.get_mut(&inode)
            && is_decided_here(attributes)
        {
            member.attributes = Some(attributes.clone());
        }
    }

    /// Waits until a directory that is asked for or read is ready.
    pub(super) async fn wait_until_ready(&self, directory: InodeId) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let table = self.lock();
                match table.directories.get(&directory) {
                    Some(found) if found.phase == Phase::Loading => {}
                    _ => return,
                }
            }
            progress.await;
        }
    }
}

/// A moment at which the cluster was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    changes: u64,
}

/// Whether the table can tell what becomes of it: it has one name, and that in a directory of its own partition.
pub(super) fn is_decided_here(attributes: &Attributes) -> bool {
    attributes.link_count == 1 && attributes.kind != FileKind::Directory
}

impl Table {
    /// None if the directory is not delegated.
    fn lookup(&mut self, directory: InodeId, name: &Bytes) -> Option<Known> {
        let leads_to = self.ready(directory)?.name(name);
        let attributes = |inode| self.files.get(&inode)?.attributes.clone();
        Some(match leads_to {
            Name::Nothing => Known::Nothing,
            Name::Unknown { .. } => Known::Unknown,
            Name::Elsewhere(inode, _) => Known::Inode(inode),
            Name::Member(inode) => match attributes(inode) {
                Some(attributes) => Known::Attributes(Box::new(attributes)),
                None => Known::Inode(inode),
            },
        })
    }

    pub(super) fn changes_of(&self, inode: InodeId) -> u64 {
        self.lines.get(&inode.home()).map_or(0, |line| line.changes)
    }

    /// Takes what the cluster said of a name nothing is known of.
    pub(super) fn learn_name(&mut self, directory: InodeId, name: Bytes, attributes: &Attributes) {
        let unknown = Name::Unknown { touched: 0 };
        if self
            .ready(directory)
            .is_none_or(|found| found.name(&name) != unknown)
        {
            return;
        }
        let known = self.add(directory, attributes);
        if let Some(found) = self.ready(directory) {
            found.set(name, known);
        }
    }

    /// Takes what a name of a directory leads to into the table.
    pub(super) fn add(&mut self, directory: InodeId, attributes: &Attributes) -> Name {
        let inode = attributes.inode;
        if inode.home() != directory.home() || !is_decided_here(attributes) {
            return Name::Elsewhere(inode, attributes.kind);
        }
        let is_pending = self.is_pending(inode);
        let member = self.files.entry(inode).or_insert(super::Member {
            directory,
            attributes: None,
            is_unlocked_elsewhere: false,
        });
        member.directory = directory;
        if !is_pending {
            member.attributes = Some(attributes.clone());
        }
        Name::Member(inode)
    }
}
