//! Everything a state keeps count of, compared with a scan of its rows.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::state::each_table;
use crate::state::extent::ExtentRow;
use crate::state::inode::Body;
use bark_schema::usage::Usage;

/// The digest and every counter, recomputed by a full scan.
pub(super) fn check_everything(state: &mut State) {
    let mut digest = 0u64;
    each_table!(shared state, table, digest = digest.wrapping_add(table.digest_from_scratch()));
    assert_eq!(digest, state.tables_digest());

    let mut children = BTreeMap::<InodeId, (u64, u32)>::new();
    for (key, entry) in state.dentries.iter() {
        let counts = children.entry(key.directory).or_default();
        counts.0 += 1;
        counts.1 += u32::from(entry.kind == FileKind::Directory);
    }
    let mut references = BTreeMap::new();
    let mut runs = BTreeMap::<InodeId, (u64, u64, u64)>::new();
    for ((inode, offset), row) in state.extents.iter() {
        if let ExtentRow::Block { block, .. } = row {
            *references.entry(*block).or_insert(0) += 1;
        }
        let (count, bytes, end) = runs.entry(*inode).or_default();
        assert!(
            *end <= *offset && row.length() > 0,
            "extents overlap or are empty"
        );
        *count += 1;
        *bytes += row.length();
        *end = offset + row.length();
    }
    let mut xattrs = BTreeMap::<InodeId, u8>::new();
    for ((inode, _), _) in state.xattrs.iter() {
        *xattrs.entry(*inode).or_default() += 1;
    }
    check_usage(state);
    let due: BTreeSet<InodeId> = state.orphans.iter().map(|(inode, _)| *inode).collect();
    let open: BTreeSet<InodeId> = state.opens.iter().map(|((inode, _), ())| *inode).collect();
    let (mut file_bytes, mut allocated_bytes, mut orphans) = (0, 0, 0);
    for (inode, row) in state.inodes.iter() {
        let (count, bytes, end) = runs.remove(inode).unwrap_or_default();
        assert_eq!(row.xattr_count, xattrs.remove(inode).unwrap_or_default());
        match &row.body {
            Body::Directory {
                children: counted, ..
            } => {
                let (entries, directories) = children.remove(inode).unwrap_or_default();
                let links = if row.link_count == 0 { 0 } else { 2 + directories };
                assert_eq!((*counted, row.link_count), (entries, links));
            }
            Body::Inline(bytes) => assert!(bytes.len() as u64 <= row.size && count == 0),
            Body::Symlink(_) | Body::Special { .. } => assert_eq!(count, 0),
            Body::Extents {
                count: counted,
                allocated,
            } => assert_eq!((*counted, *allocated), (count, bytes)),
        }
        assert!(end <= row.size, "an extent beyond the end");
        if row.link_count == 0 {
            orphans += 1;
            assert!(due.contains(inode) || open.contains(inode), "an orphan for ever");
            continue;
        }
        allocated_bytes += row.allocated();
        file_bytes += if row.kind() == FileKind::Regular {
            row.size
        } else {
            0
        };
    }
    assert_eq!(
        (file_bytes, allocated_bytes, orphans),
        (state.file_bytes, state.allocated_bytes, state.orphan_count)
    );
    assert!(
        children.is_empty() && runs.is_empty() && xattrs.is_empty(),
        "entries, extents or attributes without inode"
    );
    let open_by_client: BTreeSet<_> = state.opens_by_client.iter().map(|(pair, ())| *pair).collect();
    let turned = state.opens.iter().map(|((inode, client), ())| (*client, *inode));
    assert_eq!(turned.collect::<BTreeSet<_>>(), open_by_client);
    let told: u32 = state.leases.iter().map(|(_, lease)| lease.opens).sum();
    assert_eq!(u64::from(told), state.opens.len());
    let counted: BTreeMap<_, _> = state
        .blocks
        .iter()
        .map(|(block, row)| (*block, row.references))
        .collect();
    assert_eq!(counted, references);
    assert!(
        state
            .garbage
            .iter()
            .all(|(block, _)| !references.contains_key(block))
    );
    let counted = state.space();
    let patches = state.patches.clone();
    state.recount();
    assert_eq!((counted, patches), (state.space(), state.patches.clone()));
    let expiring = state.keys.iter().filter(|(_, row)| row.expires.is_some()).count();
    assert_eq!(expiring as u64, state.expiries.len());
    let held: usize = state
        .prepared
        .iter()
        .map(|(_, prepared)| prepared.steps.len())
        .sum();
    assert_eq!(held as u64, state.locks.len());
    let recorded: u32 = state.sessions.iter().map(|(_, session)| session.replies).sum();
    assert_eq!(u64::from(recorded), state.replies.len());
    assert_eq!(state.audit(), Ok(()));
}

/// What directories take here, what was reported to them, and the names of files with several.
fn check_usage(state: &mut State) {
    let mut own = BTreeMap::<InodeId, Usage>::new();
    let mut links = BTreeMap::<InodeId, (u32, bool)>::new();
    for ((inode, directory), count) in state.names.iter() {
        let (links, counts) = links.entry(*inode).or_default();
        *links += count;
        *counts |= state
            .inodes
            .get(inode)
            .is_some_and(|row| row.directory == *directory);
    }
    for (inode, row) in state.inodes.iter() {
        let several = row.kind() != FileKind::Directory && row.link_count > 1;
        let expected = several.then_some((row.link_count, true));
        assert_eq!(links.remove(inode), expected, "names of {inode}");
        let sum = own.entry(row.directory).or_default();
        *sum = sum.plus(row.counted().usage);
    }
    assert!(links.is_empty(), "names without inode");
    let is_alive = |directory: &InodeId| state.directory(*directory).is_ok();
    own.retain(|directory, sum| is_alive(directory) && *sum != Usage::default());
    let mut below = BTreeMap::<InodeId, Usage>::new();
    for ((directory, contributor), row) in state.contributions.iter() {
        let is_here = state.dentries.iter().any(|(key, dentry)| {
            key.directory == *directory && dentry.inode == *contributor && dentry.kind == FileKind::Directory
        });
        assert!(is_here, "a contribution without entry");
        let sum = below.entry(*directory).or_default();
        *sum = sum.plus(row.usage);
    }
    for (directory, row) in state.usages.iter() {
        assert_eq!(row.own, own.remove(directory).unwrap_or_default());
        assert_eq!(row.below, below.remove(directory).unwrap_or_default());
    }
    assert!(own.is_empty() && below.values().all(|sum| *sum == Usage::default()));
    let unreported = state.unreported.clone();
    state.recount_unreported();
    assert_eq!(unreported, state.unreported);
}
