//! Which rows a repair would change: for what a partition found among its own rows see [`super::fault`], for what was
//! found by putting several partitions side by side here.
//!
//! A plan changes nothing. What it says is true of this moment; the command made of it finds out whether it still is.

use std::collections::BTreeMap;

use bark_schema::audit::{AuditName, AuditPage};
use bark_schema::ids::InodeId;
use bark_schema::limits::REPAIR_EDITS_MAX;
use bark_schema::operation::{Failure, FileKind, Refusal};
use bark_schema::repair::{RepairCommand, RepairStep, RepairTable, RowEdit};

use super::super::State;
use super::super::codec::FORMAT_VERSION;
use super::super::dentry::{Dentry, DentryKey};
use super::super::inode::{Body, Inode, is_at_home};
use super::super::usage::ContributionRow;
use super::{edit_of, skeleton};

/// What would change. Without rows nothing can be done.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<RowEdit>,
    pub(super) recount: bool,
    /// Entries the rows count on, which another partition may have to make.
    pub(super) names: Vec<AuditName>,
}

impl State {
    pub(in super::super) fn plan_repair(&self, step: &RepairStep) -> Result<AuditPage, Failure> {
        let mut plan = self.plan(step)?;
        plan.edits.truncate(REPAIR_EDITS_MAX);
        Ok(AuditPage {
            applied: self.applied,
            names: plan.names,
            repair: RepairCommand {
                format: FORMAT_VERSION,
                edits: plan.edits,
                recount: plan.recount,
            },
            ..AuditPage::default()
        })
    }

    fn plan(&self, step: &RepairStep) -> Result<Plan, Failure> {
        match *step {
            RepairStep::Fault { fault, quarantine } => self.plan_fault(&fault, quarantine),
            RepairStep::DropEntry {
                directory,
                cookie,
                inode,
            } => {
                let (key, entry) = self.entry_at(directory, cookie, inode)?;
                Ok(one(edit_of(RepairTable::Entries, &key, Some(&entry), None)))
            }
            RepairStep::EntryKind {
                directory,
                cookie,
                inode,
                kind,
            } => {
                let (key, entry) = self.entry_at(directory, cookie, inode)?;
                let right = Dentry { inode, kind };
                match entry.kind == kind {
                    true => Err(no_longer()),
                    false => Ok(one(edit_of(
                        RepairTable::Entries,
                        &key,
                        Some(&entry),
                        Some(&right),
                    ))),
                }
            }
            RepairStep::NumberEntry {
                directory,
                inode,
                kind,
            } => {
                self.directory(directory)?;
                let key = DentryKey::new(directory, number_name(inode).as_bytes());
                match self.dentries.get(&key) {
                    Some(_) => Err(no_longer()),
                    None => {
                        let entry = Dentry { inode, kind };
                        Ok(one(edit_of(RepairTable::Entries, &key, None, Some(&entry))))
                    }
                }
            }
            RepairStep::Names {
                inode,
                directory,
                count,
            } => self.plan_names(inode, directory, count),
            RepairStep::Tell { directory } => match self.usages.get(&directory) {
                Some(row) => Ok(one(edit_of(
                    RepairTable::Usages,
                    &directory,
                    Some(row),
                    Some(row),
                ))),
                None => Err(no_longer()),
            },
            RepairStep::Contribution {
                directory,
                contributor,
                stays,
            } => {
                let key = (directory, contributor);
                let nothing = ContributionRow::default();
                let (before, after) = (self.contributions.get(&key), stays.then_some(&nothing));
                match before == after {
                    true => Err(no_longer()),
                    false => Ok(one(edit_of(RepairTable::Contributions, &key, before, after))),
                }
            }
        }
    }

    fn entry_at(
        &self,
        directory: InodeId,
        cookie: u64,
        inode: InodeId,
    ) -> Result<(DentryKey, Dentry), Failure> {
        let same = DentryKey::first(directory, cookie)..DentryKey::first(directory, cookie.saturating_add(1));
        let mut entries = self.dentries.range(same);
        let found = entries.find(|(_, entry)| entry.inode == inode);
        found
            .map(|(key, entry)| (key.clone(), *entry))
            .ok_or_else(no_longer)
    }

    fn plan_names(&self, inode: InodeId, directory: InodeId, count: u32) -> Result<Plan, Failure> {
        let Some(row) = self
            .inodes
            .get(&inode)
            .filter(|_| is_at_home(inode, self.partition))
        else {
            return Err(no_longer());
        };
        if row.kind() == FileKind::Directory {
            let is_there = matches!(row.body, Body::Directory { parent, .. } if parent == directory);
            return match row.link_count > 0 && is_there {
                true => Err(no_longer()),
                false => Ok(Plan {
                    edits: self.directory_found(inode, directory),
                    ..Plan::default()
                }),
            };
        }
        let mut names = self.names_counted(inode, row);
        match count {
            0 => names.remove(&directory),
            count => names.insert(directory, count),
        };
        let edits = self.names_edits(inode, row, &names);
        match edits.is_empty() {
            true => Err(no_longer()),
            false => Ok(Plan {
                edits,
                ..Plan::default()
            }),
        }
    }

    /// Where a non-directory says its names are.
    pub(super) fn names_counted(&self, inode: InodeId, row: &Inode) -> BTreeMap<InodeId, u32> {
        match row.link_count {
            0 => BTreeMap::new(),
            1 => [(row.directory, 1)].into(),
            _ => self.name_rows(inode),
        }
    }

    pub(super) fn name_rows(&self, inode: InodeId) -> BTreeMap<InodeId, u32> {
        let rows = self.names.range((inode, InodeId(0))..=(inode, InodeId(u64::MAX)));
        rows.map(|((_, directory), count)| (*directory, *count)).collect()
    }

    /// Has a non-directory say that these are its names.
    pub(super) fn names_edits(
        &self,
        inode: InodeId,
        row: &Inode,
        names: &BTreeMap<InodeId, u32>,
    ) -> Vec<RowEdit> {
        let sum = names.values().fold(0u32, |sum, count| sum.saturating_add(*count));
        let directory = match names.contains_key(&row.directory) {
            true => row.directory,
            false => names.keys().next().copied().unwrap_or(row.directory),
        };
        let kept = self.name_rows(inode);
        let none = BTreeMap::new();
        let right = if sum > 1 { names } else { &none };
        let mut edits = Vec::new();
        let directories: std::collections::BTreeSet<InodeId> =
            kept.keys().chain(right.keys()).copied().collect();
        for place in directories {
            let (before, after) = (kept.get(&place), right.get(&place));
            if before != after {
                edits.push(edit_of(RepairTable::Names, &(inode, place), before, after));
            }
        }
        edits.extend(inode_edit(inode, row, |row| {
            (row.link_count, row.directory) = (sum, directory);
        }));
        edits
    }

    /// Has a directory without a name, or with another, say that its name is in `parent`.
    pub(super) fn directory_found(&self, inode: InodeId, parent: InodeId) -> Vec<RowEdit> {
        let (entries, directories) = self.entries_counted(inode);
        let Some(row) = self.inodes.get(&inode) else {
            return Vec::new();
        };
        let edit = inode_edit(inode, row, |row| {
            row.link_count = 2u32.saturating_add(directories);
            row.body = Body::Directory {
                parent,
                children: entries,
            };
        });
        let mut edits: Vec<RowEdit> = edit.into_iter().collect();
        if let Some(due) = self.orphans.get(&inode) {
            edits.push(edit_of(RepairTable::Orphans, &inode, Some(due), None));
            let place = (*due, inode);
            if let Some(row) = self.due_orphans.get(&place) {
                edits.push(edit_of(RepairTable::DueOrphans, &place, Some(row), None));
            }
        }
        edits
    }

    /// How many entries a directory has, and how many of them are directories.
    pub(super) fn entries_counted(&self, directory: InodeId) -> (u64, u32) {
        let rows = self.dentries.range(DentryKey::first(directory, 0)..);
        let rows = rows.take_while(|(key, _)| key.directory == directory);
        rows.fold((0, 0), |(entries, directories), (_, entry)| {
            let is_directory = entry.kind == FileKind::Directory;
            (entries + 1, directories + u32::from(is_directory))
        })
    }
}

/// What a change makes of an inode, unless it changes nothing.
pub(super) fn inode_edit(inode: InodeId, row: &Inode, change: impl FnOnce(&mut Inode)) -> Option<RowEdit> {
    let before = skeleton(row);
    let mut after = before.clone();
    change(&mut after);
    (before != after).then(|| edit_of(RepairTable::Inodes, &inode, Some(&before), Some(&after)))
}

/// How something is called that has lost its name.
fn number_name(inode: InodeId) -> String {
    format!("inode-{}-{}", inode.home().0, inode.0 & InodeId::COUNTER_MAX)
}

pub(super) fn one(edit: RowEdit) -> Plan {
    Plan {
        edits: vec![edit],
        ..Plan::default()
    }
}

pub(super) fn no_longer() -> Failure {
    Failure::refused(Refusal::Conflict, "what was found is no longer so")
}
