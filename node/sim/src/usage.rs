//! What directories take when nothing is under way, against a full scan of the replicas' states.
//!
//! Previous in the flow: `tree`, which has made sure that entries, inodes and link counts agree.
//!
//! Invariants checked:
//! - What a directory takes is the sum of what the inodes below it take, itself included.
//! - A file with several names counts once; so does everything below the root.

use std::collections::{BTreeMap, BTreeSet};

use bark_core::state::State;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{FileKind, Query, Reply};
use bark_schema::usage::{Usage, UsageQuery};

use crate::tree::Tree;

pub fn check(states: &BTreeMap<PartitionId, &State>) -> Result<(), String> {
    let tree = Tree { states };
    let mut directories = vec![(InodeId::ROOT, InodeId::ROOT)];
    let mut totals: BTreeMap<InodeId, Usage> = BTreeMap::new();
    // Directories with a file below that counts in one place of several: only their sum is certain.
    let mut uncertain: BTreeSet<InodeId> = BTreeSet::new();
    let mut shared: BTreeSet<InodeId> = BTreeSet::new();
    let itself = Usage {
        inodes: 1,
        ..Usage::default()
    };
    let mut at = 0;
    while let Some((directory, _)) = directories.get(at).copied() {
        at += 1;
        let mut total = itself;
        for entry in tree.entries(directory)? {
            if entry.kind == FileKind::Directory {
                directories.push((entry.inode, directory));
            } else if tree.attributes(entry.inode)?.link_count > 1 {
                uncertain.insert(directory);
                shared.insert(entry.inode);
            } else {
                total = total.plus(taken(&tree, entry.inode)?);
            }
        }
        totals.insert(directory, total);
    }
    for (directory, parent) in directories.iter().rev() {
        let total = totals[directory];
        let found = taken(&tree, *directory)?;
        let expected = match *directory == InodeId::ROOT {
            true => shared.iter().try_fold(total, |sum, inode| {
                Ok::<_, String>(sum.plus(taken(&tree, *inode)?))
            })?,
            false => total,
        };
        let is_certain = *directory == InodeId::ROOT || !uncertain.contains(directory);
        if is_certain && found != expected {
            return Err(format!("{directory} takes {expected:?} and says {found:?}"));
        }
        if *directory != InodeId::ROOT {
            let above = totals[parent].plus(total);
            totals.insert(*parent, above);
            if uncertain.contains(directory) {
                uncertain.insert(*parent);
            }
        }
    }
    Ok(())
}

fn taken(tree: &Tree<'_>, directory: InodeId) -> Result<Usage, String> {
    match tree.ask(directory.home(), &Query::Usage(UsageQuery::Total { directory }))? {
        Reply::Usage(usage) => Ok(usage),
        other => Err(format!("what {directory} takes is {other:?}")),
    }
}
