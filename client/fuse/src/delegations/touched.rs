//! Keeping the table out of the way of a change that goes to the cluster.
//!
//! While it is under way nothing is taken for itself in its partitions, what it touches is unknown to the table, and what was
//! decided here before has arrived; when it has ended, whoever needs what it touched asks.

use std::sync::Arc;

use bark_schema::data::DataCommand;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Attributes, Command, Entry, Namespace};
use bytes::Bytes;
use tokio::sync::OwnedRwLockReadGuard;

use super::read::is_decided_here;
use super::{Delegations, Name, Phase, Table};

/// What a change touches: names, directories and files.
#[derive(Debug, Default)]
struct Things {
    names: Vec<(InodeId, Bytes)>,
    inodes: Vec<InodeId>,
    /// A directory may get another parent.
    may_move: bool,
}

/// As long as it lives the change is under way.
pub(crate) struct Touched {
    delegations: Arc<Delegations>,
    things: Things,
    /// What the cluster said the one file or name is now.
    answer: Option<Attributes>,
    /// Of its partition, when the change began: if it is the same at the end, nothing else happened meanwhile.
    changes: u64,
    _gates: Vec<OwnedRwLockReadGuard<()>>,
}

impl Drop for Touched {
    fn drop(&mut self) {
        let mut table = self.delegations.lock();
        table.moves += u64::from(self.things.may_move);
        for (directory, name) in &self.things.names {
            if let Some(directory) = table.directories.get_mut(directory)
                && let Some(Name::Unknown { touched }) = directory.names.get_mut(name)
            {
                *touched = touched.saturating_sub(1);
            }
        }
        let answer = self.answer.take();
        let answer = answer.filter(|_| self.things.changes(&table) == self.changes);
        table.make_unknown(&self.things);
        let Some(attributes) = answer else { return };
        if let [(directory, name)] = &self.things.names[..] {
            table.learn_name(*directory, name.clone(), &attributes);
        } else if is_decided_here(&attributes)
            && !table.is_pending(attributes.inode)
            && let Some(member) = table.files.get_mut(&attributes.inode)
        {
            member.attributes = Some(attributes);
        }
    }
}

impl Touched {
    /// The change is done, and this is what it made of the one file or name it touched.
    pub(crate) fn answered(mut self, attributes: &Attributes) {
        let is_of_it = match (&self.things.inodes[..], &self.things.names[..]) {
            ([inode], []) => *inode == attributes.inode,
            ([], [_]) => true,
            _ => false,
        };
        self.answer = is_of_it.then(|| attributes.clone());
    }
}

impl Delegations {
    pub(crate) async fn touch_by_command(self: &Arc<Self>, command: &Command) -> Option<Touched> {
        let things = Things::of_command(command)?;
        Some(self.touch(things).await)
    }

    pub(crate) async fn touch_by_operation(self: &Arc<Self>, operation: &Namespace) -> Option<Touched> {
        let things = Things::of_operation(operation)?;
        Some(self.touch(things).await)
    }

    /// A directory is about to be removed: nothing more is decided in it.
    pub(crate) async fn removes(&self, directory: InodeId) {
        self.wait_until_ready(directory).await;
        let was_held = {
            let mut table = self.lock();
            let held = table.directories.get(&directory);
            let was_held = held.is_some_and(|held| held.phase == Phase::Ready);
            if was_held {
                table.forget(directory);
            }
            was_held
        };
        if was_held {
            self.settle(directory.home()).await;
        }
    }

    /// Whether anything is held.
    pub(crate) fn has_any(&self) -> bool {
        !self.lock().directories.is_empty()
    }

    async fn touch(self: &Arc<Self>, things: Things) -> Touched {
        let mut partitions: Vec<PartitionId> = things.directories().map(InodeId::home).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut gates = Vec::new();
        for partition in &partitions {
            gates.push(self.gate(*partition).read_owned().await);
        }
        {
            let mut table = self.lock();
            table.moves += u64::from(things.may_move);
            table.make_unknown(&things);
            for (directory, name) in &things.names {
                let Some(directory) = table.directories.get_mut(directory) else {
                    continue;
                };
                let touched = match directory.name(name) {
                    Name::Unknown { touched } => touched + 1,
                    _ => 1,
                };
                directory.names.insert(name.clone(), Name::Unknown { touched });
            }
        }
        for partition in partitions {
            self.settle(partition).await;
        }
        let changes = things.changes(&self.lock());
        Touched {
            delegations: self.clone(),
            things,
            answer: None,
            changes,
            _gates: gates,
        }
    }
}

impl Table {
    fn make_unknown(&mut self, things: &Things) {
        for inode in things.directories() {
            if let Some(line) = self.lines.get_mut(&inode.home()) {
                line.changes += 1;
            }
            if let Some(directory) = self.directories.get_mut(&inode) {
                directory.attributes = None;
            }
            if let Some(member) = self.files.get_mut(&inode) {
                member.attributes = None;
            }
        }
        for (directory, name) in &things.names {
            let Some(found) = self.directories.get_mut(directory) else {
                continue;
            };
            if let Name::Member(inode) = found.name(name) {
                self.files.remove(&inode);
            }
            if !matches!(found.name(name), Name::Unknown { .. }) {
                found.names.insert(name.clone(), Name::Unknown { touched: 0 });
            }
        }
    }
}

impl Things {
    /// The directories of names, and the inodes.
    fn directories(&self) -> impl Iterator<Item = InodeId> {
        let names = self.names.iter().map(|(directory, _)| *directory);
        names.chain(self.inodes.iter().copied())
    }

    /// How much has happened in the partition of the one thing it is.
    fn changes(&self, table: &Table) -> u64 {
        let mut directories = self.directories();
        match (directories.next(), directories.next()) {
            (Some(inode), None) => table.changes_of(inode),
            _ => 0,
        }
    }

    fn inode(inode: InodeId) -> Things {
        Things {
            inodes: vec![inode],
            ..Things::default()
        }
    }

    fn names<const N: usize>(names: [(InodeId, &Bytes); N]) -> Things {
        Things {
            names: names.map(|(directory, name)| (directory, name.clone())).to_vec(),
            ..Things::default()
        }
    }

    fn of_command(command: &Command) -> Option<Things> {
        Some(match command {
            Command::Create { directory, name, .. } => Things::names([(*directory, name)]),
            Command::SetAttributes { inode, .. }
            | Command::Publish { inode, .. }
            | Command::XattrSet { inode, .. }
            | Command::XattrRemove { inode, .. }
            | Command::Data(DataCommand::Write { inode, .. } | DataCommand::Allocate { inode, .. }) => {
                Things::inode(*inode)
            }
            Command::Data(DataCommand::Update(update)) => Things::inode(update.inode),
            Command::Data(DataCommand::CopyRange { from, to, .. }) => Things {
                inodes: vec![*from, *to],
                ..Things::default()
            },
            _ => return None,
        })
    }

    fn of_operation(operation: &Namespace) -> Option<Things> {
        let of = |entry: &Entry| (entry.directory, entry.name.clone());
        Some(match operation {
            Namespace::MakeDirectory { directory, name, .. } | Namespace::Unlink { directory, name } => {
                Things::names([(*directory, name)])
            }
            Namespace::RemoveDirectory { directory, name } => Things::names([(*directory, name)]),
            Namespace::Rename { from, to, .. } => Things {
                names: vec![of(from), of(to)],
                may_move: true,
                ..Things::default()
            },
            Namespace::Link { inode, to } => Things {
                names: vec![of(to)],
                inodes: vec![*inode],
                ..Things::default()
            },
            Namespace::KeySetMany { .. } | Namespace::KeyDeleteMany { .. } => return None,
        })
    }
}
