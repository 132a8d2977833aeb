//! What must hold of the file tree when nothing is under way: looked up in the replicas' states themselves.
//!
//! Invariants checked:
//! - Every entry's inode exists and is of the entry's kind.
//! - A directory has one entry, and names the directory of that entry as its parent.
//! - A file's link count is the number of its entries; a directory's is 2 and one for each subdirectory.
//! - Every inode is reached from the root: no orphan, no loop.

use std::collections::{BTreeMap, BTreeSet};

use bark_core::state::State;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Attributes, DirectoryEntry, FileKind, ListPosition, Query, Reply};

const PAGE_ENTRIES: u32 = 100;

pub fn check(states: &BTreeMap<PartitionId, &State>) -> Result<(), String> {
    let tree = Tree { states };
    let mut links: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut directories: BTreeSet<InodeId> = BTreeSet::from([InodeId::ROOT]);
    let mut waiting = vec![InodeId::ROOT];
    while let Some(directory) = waiting.pop() {
        let entries = tree.entries(directory)?;
        let mut subdirectories = 0;
        for entry in entries {
            let name = format!("{directory}/{}", String::from_utf8_lossy(&entry.name));
            let attributes = tree
                .attributes(entry.inode)
                .map_err(|reason| format!("{name}: {reason}"))?;
            if attributes.kind != entry.kind {
                return Err(format!(
                    "{name} says {:?}, {} is {:?}",
                    entry.kind, entry.inode, attributes.kind
                ));
            }
            if entry.kind != FileKind::Directory {
                *links.entry(entry.inode).or_default() += 1;
                continue;
            }
            subdirectories += 1;
            if !directories.insert(entry.inode) {
                return Err(format!("{name}: the directory has a second entry"));
            }
            let parent = tree.parent(entry.inode)?;
            if parent != directory {
                return Err(format!("{name}: the directory says its parent is {parent}"));
            }
            waiting.push(entry.inode);
        }
        let attributes = tree.attributes(directory)?;
        if attributes.link_count != 2 + subdirectories {
            return Err(format!(
                "{directory} has link count {} and {subdirectories} subdirectories",
                attributes.link_count
            ));
        }
    }
    for (inode, count) in &links {
        let attributes = tree.attributes(*inode)?;
        if attributes.link_count != *count {
            return Err(format!(
                "{inode} has link count {} and {count} entries",
                attributes.link_count
            ));
        }
    }
    let reached = (links.len() + directories.len()) as u64;
    let mut present = 0;
    for partition in states.keys() {
        match tree.ask(*partition, &Query::PartitionStatus)? {
            Reply::Partition(status) => present += status.inodes,
            other => return Err(format!("status of {partition} is {other:?}")),
        }
    }
    if present != reached {
        return Err(format!(
            "{present} inodes exist and {reached} are reached from the root"
        ));
    }
    Ok(())
}

pub struct Tree<'a> {
    pub states: &'a BTreeMap<PartitionId, &'a State>,
}

impl Tree<'_> {
    pub fn ask(&self, partition: PartitionId, query: &Query) -> Result<Reply, String> {
        let state = self
            .states
            .get(&partition)
            .ok_or_else(|| format!("{partition} is nowhere"))?;
        state
            .query(0, query)
            .map_err(|failure| format!("{query:?}: {failure}"))
    }

    pub fn attributes(&self, inode: InodeId) -> Result<Attributes, String> {
        match self.ask(inode.home(), &Query::Attributes { inode })? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(format!("attributes of {inode} are {other:?}")),
        }
    }

    fn page(
        &self,
        directory: InodeId,
        after: ListPosition,
    ) -> Result<(Vec<DirectoryEntry>, bool, InodeId), String> {
        let query = Query::ReadDirectory {
            directory,
            after,
            limit: PAGE_ENTRIES,
        };
        match self.ask(directory.home(), &query)? {
            Reply::Directory {
                entries,
                more,
                parent,
            } => Ok((entries, more, parent)),
            other => Err(format!("entries of {directory} are {other:?}")),
        }
    }

    fn parent(&self, directory: InodeId) -> Result<InodeId, String> {
        Ok(self.page(directory, ListPosition::Start)?.2)
    }

    pub fn entries(&self, directory: InodeId) -> Result<Vec<DirectoryEntry>, String> {
        let mut all: Vec<DirectoryEntry> = Vec::new();
        loop {
            let after = all.last().map_or(ListPosition::Start, |entry| {
                ListPosition::AfterCookie(entry.cookie)
            });
            let (entries, more, _) = self.page(directory, after)?;
            all.extend(entries);
            if !more {
                return Ok(all);
            }
        }
    }
}
