//! Names against inodes: every entry leads to an inode of its kind that counts it, and every name an inode counts
//! is there. And from every directory the parents lead to the root.
//!
//! Together these say all there is to say of the tree: each directory has exactly the one entry its parent pointer
//! says, so if no parents go round in a circle, everything is reached from the root.

use std::collections::{BTreeSet, HashMap};

use bark_schema::audit::{AuditName, AuditPage, AuditQuery};
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, FileKind, Query};

use super::faults::number;
use super::finding::{Finding, FindingKind, Looked};
use super::suspects::Look;
use super::{Examination, Source, audit_page};

/// The names of an inode in a directory, from both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sides {
    entries: u32,
    counted: u32,
    entry_kind: Option<FileKind>,
    inode_kind: Option<FileKind>,
}

/// What was met so far and does not fit yet.
#[derive(Default)]
pub(super) struct Names {
    open: HashMap<(InodeId, InodeId), Sides>,
    parents: HashMap<InodeId, InodeId>,
}

impl Names {
    pub(super) fn take(&mut self, page: &AuditPage, looked: &mut Looked) {
        looked.entries += page.entries.len() as u64;
        for entry in &page.entries {
            self.change(entry, |sides| {
                sides.entries += 1;
                sides.entry_kind = Some(entry.kind);
            });
        }
        for name in &page.names {
            looked.names += u64::from(name.count);
            if name.kind == FileKind::Directory {
                self.parents.insert(name.inode, name.directory);
            }
            self.change(name, |sides| {
                sides.counted += name.count;
                sides.inode_kind = Some(name.kind);
            });
        }
    }

    fn change(&mut self, name: &AuditName, change: impl FnOnce(&mut Sides)) {
        let key = (name.inode, name.directory);
        let sides = self.open.entry(key).or_default();
        change(sides);
        if sides.fit() {
            self.open.remove(&key);
        }
    }

    /// Directories from which the parents do not lead to the root, as far as was seen.
    fn astray(&self) -> Vec<InodeId> {
        // What is known to lead to the root; what does not is met again only once.
        let mut known: HashMap<InodeId, bool> = HashMap::from([(InodeId::ROOT, true)]);
        let mut astray = Vec::new();
        let mut walked: Vec<InodeId> = Vec::new();
        for directory in self.parents.keys() {
            let mut at = *directory;
            let leads = loop {
                if let Some(leads) = known.get(&at) {
                    break *leads;
                }
                // Until the walk is over: who comes here again goes in a circle.
                known.insert(at, false);
                walked.push(at);
                match self.parents.get(&at) {
                    Some(parent) => at = *parent,
                    None => break false,
                }
            };
            for directory in walked.drain(..) {
                known.insert(directory, leads);
                if !leads {
                    astray.push(directory);
                }
            }
        }
        astray.sort_unstable();
        astray
    }
}

impl Sides {
    fn fit(&self) -> bool {
        self.entries == self.counted && self.entry_kind == self.inode_kind
    }
}

/// What an inode says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    pub(super) exists: bool,
    pub(super) names: Vec<AuditName>,
}

impl<S: Source> Examination<'_, S> {
    pub(super) async fn settle_names(&mut self, names: Names) {
        let astray = names.astray();
        let mut suspects: Vec<(InodeId, InodeId)> = names.open.into_keys().collect();
        suspects.sort_unstable();
        let home = |suspect: &(InodeId, InodeId)| suspect.0.home();
        let look = async |this: &Self, suspect: &(InodeId, InodeId)| this.look_at_name(*suspect).await;
        for ((inode, directory), seen) in self.settle(suspects, home, look).await {
            let finding = self.name_finding(inode, directory, &seen).await;
            self.report.add(finding);
        }
        let home = |directory: &InodeId| directory.home();
        let look = async |this: &Self, directory: &InodeId| this.look_at_parents(*directory).await;
        for (directory, round) in self.settle(astray, home, look).await {
            self.report.add(loop_finding(directory, &round));
        }
    }

    /// Both sides of the names of an inode in a directory, as they are now.
    async fn look_at_name(
        &self,
        (inode, directory): (InodeId, InodeId),
    ) -> Result<Look<(Said, Vec<AuditName>)>, Failure> {
        let said = self.said(inode).await?;
        let query = Query::Audit(AuditQuery::Entries { directory, inode });
        let entries = audit_page(self.source.query(directory.home(), query).await?)?.entries;
        if said != self.said(inode).await? {
            return Ok(Look::Moves);
        }
        let counted = said.names.iter().find(|name| name.directory == directory);
        let same_count = counted.map_or(0, |name| name.count) as usize == entries.len();
        let same_kind = entries
            .iter()
            .all(|entry| counted.is_some_and(|name| name.kind == entry.kind));
        match same_count && same_kind {
            true => Ok(Look::Fits),
            false => Ok(Look::Differs((said, entries))),
        }
    }

    pub(super) async fn said(&self, inode: InodeId) -> Result<Said, Failure> {
        let query = Query::Audit(AuditQuery::Names { inode });
        let page = audit_page(self.source.query(inode.home(), query).await?)?;
        Ok(Said {
            exists: page.rows > 0,
            names: page.names,
        })
    }

    async fn name_finding(
        &self,
        inode: InodeId,
        directory: InodeId,
        (said, entries): &(Said, Vec<AuditName>),
    ) -> Finding {
        let number = number(inode);
        let counted = said.names.iter().find(|name| name.directory == directory);
        let finding = match (entries.first(), counted) {
            (None, _) => {
                let directory = self.place_of(directory).await;
                let sentence = format!("it counts a name in the directory {directory}, which has none of it");
                Finding::new(FindingKind::NameMissing, number, sentence)
            }
            (Some(entry), counted) => {
                let place = self.place_of_entry(directory, entry.cookie).await;
                let count = counted.map_or(0, |name| name.count);
                match counted {
                    _ if !said.exists => {
                        let sentence = format!("the entry leads to {number}, which does not exist");
                        Finding::new(FindingKind::EntryWithoutInode, place, sentence)
                    }
                    Some(name) if count as usize == entries.len() => {
                        let (says, is) = (kind_name(entry.kind), kind_name(name.kind));
                        let sentence = format!("the entry says {says}, {number} is a {is}");
                        Finding::new(FindingKind::EntryKind, place, sentence)
                    }
                    _ => {
                        let found = entries.len();
                        let links: u32 = said.names.iter().map(|name| name.count).sum();
                        let sentence = format!(
                            "{found} entries here lead to {number}, which counts {count} of them among its {links} names"
                        );
                        Finding::new(FindingKind::EntryNotCounted, place, sentence)
                    }
                }
            }
        };
        Finding {
            partition: Some(directory.home()),
            inode: Some(inode),
            directory: Some(directory),
            ..finding
        }
    }

    /// Follows the parents of a directory as they are now; differs if they do not come to an end.
    async fn look_at_parents(&self, directory: InodeId) -> Result<Look<Vec<InodeId>>, Failure> {
        let mut walked: BTreeSet<InodeId> = BTreeSet::new();
        let mut at = directory;
        while at != InodeId::ROOT && walked.insert(at) {
            // Ending at a directory that is gone: whose entry leads nowhere is for the names to say.
            match self.parent(at).await? {
                Some(parent) => at = parent,
                None => return Ok(Look::Fits),
            }
        }
        match at == InodeId::ROOT {
            true => Ok(Look::Fits),
            false => Ok(Look::Differs(walked.into_iter().collect())),
        }
    }

    /// None of a directory that is gone.
    pub(super) async fn parent(&self, directory: InodeId) -> Result<Option<InodeId>, Failure> {
        let said = self.said(directory).await?;
        Ok(said.names.first().map(|name| name.directory))
    }
}

fn loop_finding(directory: InodeId, walked: &[InodeId]) -> Finding {
    let walked: Vec<String> = walked.iter().take(8).map(|inode| number(*inode)).collect();
    let sentence = format!(
        "its parents never lead to the root; on the way are {}",
        walked.join(", ")
    );
    Finding {
        partition: Some(directory.home()),
        inode: Some(directory),
        ..Finding::new(FindingKind::DirectoryLoop, number(directory), sentence)
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharacterDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}
