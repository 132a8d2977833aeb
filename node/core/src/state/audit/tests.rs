//! Rows that do not agree are found, each kind where it is, whatever the size of pages.

use bark_schema::audit::AuditCheck;
use bark_schema::ids::{BlockId, ClientId, NodeNumber, PartitionId, TransactionId};
use bark_schema::operation::FileKind;
use bark_schema::usage::Usage;

use super::super::block::BlockRow;
use super::super::dentry::{Dentry, DentryKey};
use super::super::extent::ExtentRow;
use super::super::inode::Body;
use super::super::lock::LockKey;
use super::super::node_list::NodeList;
use super::super::repair::check_repair;
use super::super::session::SessionRow;
use super::*;

/// Every fault, met in pages of `limit` rows.
fn faults(state: &State, limit: u64) -> Vec<AuditCheck> {
    let mut found = Vec::new();
    for part in PARTS {
        let mut from = Some(AuditPosition::default());
        while let Some(position) = from {
            let page = state.audit_page(part, position, limit, u64::MAX);
            found.extend(page.faults.iter().map(|fault| fault.check));
            assert!(page.next.is_none_or(|next| next > position), "a page goes on");
            from = page.next;
        }
    }
    found
}

fn check(expected: AuditCheck, harm: impl Fn(&mut State)) {
    let mut state = State::new(PartitionId(0), 4);
    assert_eq!(state.audit(), Ok(()));
    harm(&mut state);
    for limit in [1, 2, 1000] {
        let found = faults(&state, limit);
        assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
    }
    assert!(state.audit().is_err());
    check_repair(&mut state, expected);
}

fn inode(counter: u64) -> InodeId {
    InodeId::new(PartitionId(0), counter)
}

fn block(counter: u64) -> BlockId {
    BlockId::new(ClientId(7), PartitionId(0), counter)
}

fn root(state: &mut State, change: impl FnOnce(&mut super::super::inode::Inode)) {
    assert!(state.change_inode(InodeId::ROOT, change));
}

/// A file without a name in the table, so that faults of files can be planted.
fn file(state: &mut State, body: Body) {
    let mut row = super::super::inode::Inode::root();
    (row.body, row.link_count, row.size) = (body, 1, 10);
    state.bear(inode(2), row);
    state.settle_usage();
}

/// Goal: an audit that never fails is none. Method: harm a state in one place, each time another.
#[test]
fn rows_that_do_not_agree_are_found() {
    let entry = |directory, kind| {
        let key = DentryKey::new(directory, b"name");
        (
            key,
            Dentry {
                inode: inode(9),
                kind,
            },
        )
    };
    check(AuditCheck::EntryCount, |state| {
        let (key, entry) = entry(InodeId::ROOT, FileKind::Regular);
        state.dentries.insert(key, entry);
    });
    check(AuditCheck::DirectoryLinks, |state| {
        let (key, entry) = entry(InodeId::ROOT, FileKind::Directory);
        state.dentries.insert(key, entry);
    });
    check(AuditCheck::EntriesOfNothing, |state| {
        let (key, entry) = entry(inode(5), FileKind::Regular);
        state.dentries.insert(key, entry);
    });
    check(AuditCheck::EntriesOfGone, |state| {
        let (key, entry) = entry(InodeId::ROOT, FileKind::Regular);
        state.dentries.insert(key, entry);
        root(state, |row| row.link_count = 0);
    });
    check(AuditCheck::NameCount, |state| {
        state.names.insert((InodeId::ROOT, InodeId::ROOT), 1);
    });
    check(AuditCheck::CountedName, |state| {
        file(state, Body::Inline(Box::default()));
        state.change_inode(inode(2), |row| row.link_count = 2);
        state.names.insert((inode(2), inode(3)), 2);
    });
    check(AuditCheck::OrphanStays, |state| {
        root(state, |row| row.link_count = 0)
    });
    check(AuditCheck::InodeNumber, |state| state.inode_counter_next = 1);
    check(AuditCheck::XattrCount, |state| {
        root(state, |row| row.xattr_count += 1)
    });
    check(AuditCheck::XattrsOfNothing, |state| {
        let key = (inode(5), Box::from(*b"user.name"));
        state.xattrs.insert(key, Box::default());
    });
    check(AuditCheck::ContentLength, |state| {
        file(state, Body::Inline(Box::from([0; 11])));
    });
}

/// Goal: faults of the bytes of files and of blocks. Method: as above.
#[test]
fn extents_and_blocks_that_do_not_agree_are_found() {
    let patch = |length: usize| ExtentRow::Patch {
        written: 1,
        bytes: vec![1; length].into(),
    };
    let mapped = |state: &mut State| {
        file(
            state,
            Body::Extents {
                count: 1,
                allocated: 4,
            },
        );
    };
    check(AuditCheck::ExtentOverlap, |state| {
        mapped(state);
        state.extents.insert((inode(2), 0), patch(4));
        state.extents.insert((inode(2), 2), patch(4));
    });
    check(AuditCheck::ExtentBeyondEnd, |state| {
        mapped(state);
        state.extents.insert((inode(2), 8), patch(4));
    });
    check(AuditCheck::ExtentOfNothing, |state| {
        state.extents.insert((inode(2), 8), patch(4));
    });
    check(AuditCheck::ExtentCount, |state| {
        file(
            state,
            Body::Extents {
                count: 2,
                allocated: 4,
            },
        );
        state.extents.insert((inode(2), 0), patch(4));
    });
    check(AuditCheck::ExtentBytes, |state| {
        mapped(state);
        state.extents.insert((inode(2), 0), patch(3));
    });
    check(AuditCheck::PatchBytes, |state| state.patch_bytes += 1);
    let pointing = |state: &mut State, recorded: u32| {
        mapped(state);
        let row = ExtentRow::Block {
            length: 4,
            block_offset: 0,
            block: block(1),
        };
        state.extents.insert((inode(2), 0), row);
        let row = BlockRow {
            references: 1,
            size: recorded,
            checksum: 0,
            nodes: NodeList::new(&[NodeNumber(1)]),
        };
        state.blocks.insert(block(1), row);
        state.block_bytes += u64::from(recorded);
    };
    check(AuditCheck::ExtentBlock, |state| pointing(state, 3));
    check(AuditCheck::BlockReferences, |state| {
        pointing(state, 4);
        state.blocks.update(&block(1), |row| row.references = 2);
    });
    check(AuditCheck::BlockInLedger, |state| {
        pointing(state, 4);
        state.discard(block(1), 4, NodeList::new(&[NodeNumber(1)]), false);
    });
    check(AuditCheck::BlockSize, |state| pointing(state, u32::MAX));
    check(AuditCheck::BlockBytes, |state| state.block_bytes += 1);
    check(AuditCheck::GarbageBytes, |state| state.garbage_bytes += 1);
}

/// Goal: sums, and what clients have. Method: as above.
#[test]
fn counters_and_clients_that_do_not_agree_are_found() {
    check(AuditCheck::FileBytes, |state| state.file_bytes += 1);
    check(AuditCheck::AllocatedBytes, |state| state.allocated_bytes += 1);
    check(AuditCheck::OrphanCount, |state| state.orphan_count += 1);
    let one = Usage {
        inodes: 1,
        ..Usage::default()
    };
    check(AuditCheck::UsageOwn, |state| {
        state
            .usages
            .update(&InodeId::ROOT, |row| row.own = row.own.plus(one));
    });
    check(AuditCheck::UsageBelow, |state| {
        state
            .usages
            .update(&InodeId::ROOT, |row| row.below = row.below.plus(one));
    });
    check(AuditCheck::QuotaUsed, |state| {
        state.use_quota(inode(9), Usage::default(), one);
    });
    check(AuditCheck::OpenIndex, |state| {
        state.opens.insert((InodeId::ROOT, ClientId(1)), ());
    });
    check(AuditCheck::OpenCount, |state| {
        state.opens.insert((InodeId::ROOT, ClientId(1)), ());
        state.opens_by_client.insert((ClientId(1), InodeId::ROOT), ());
    });
    check(AuditCheck::OrphanDue, |state| state.orphans.insert(inode(1), 5));
    check(AuditCheck::SessionReplies, |state| {
        state.replies.insert((ClientId(1), 1), Box::default());
    });
    check(AuditCheck::SessionReplies, |state| {
        let row = SessionRow {
            acknowledged_below: 0,
            last_used: 0,
            replies: 1,
        };
        state.sessions.insert(ClientId(1), row);
    });
    check(AuditCheck::Delegation, |state| {
        state.delegations.insert(InodeId::ROOT, ClientId(1));
        state
            .delegations_by_client
            .insert((ClientId(1), InodeId::ROOT), ());
    });
    check(AuditCheck::FileLock, |state| {
        state.lock_files.insert((ClientId(1), InodeId::ROOT), 1);
    });
    check(AuditCheck::LockHolder, |state| {
        let transaction = TransactionId {
            client: ClientId(1),
            sequence: 1,
            attempt: 1,
        };
        state.locks.insert(LockKey::RenameLease, transaction);
    });
}

/// Goal: pages tell every entry once. Method: a directory larger than a page, in pages of several sizes.
#[test]
fn entries_of_a_large_directory_are_told_once_in_any_pages() {
    let mut state = State::new(PartitionId(0), 4);
    for number in 0..50u64 {
        let key = DentryKey::new(InodeId::ROOT, number.to_string().as_bytes());
        let entry = Dentry {
            inode: inode(100 + number),
            kind: FileKind::Regular,
        };
        state.dentries.insert(key, entry);
    }
    for limit in [1, 7, 49, 50, 51, 1000] {
        let mut told = Vec::new();
        let mut from = Some(AuditPosition::default());
        while let Some(position) = from {
            let page = state.audit_page(AuditPart::Files, position, limit, 0);
            told.extend(
                page.entries
                    .iter()
                    .map(|entry| entry.inode.0 & InodeId::COUNTER_MAX),
            );
            from = page.next;
        }
        told.sort_unstable();
        assert_eq!(told, (100..150).collect::<Vec<_>>(), "in pages of {limit}");
    }
}

/// Goal: what was never told to a directory is not said to have been. Method: a file of a directory with a quota was to be
/// made here and was not, so that all that is left is the quota's number.
#[test]
fn a_row_that_only_names_a_quota_was_told_to_nobody() {
    let mut state = State::new(PartitionId(0), 4);
    let elsewhere = InodeId::new(PartitionId(1), 5);
    state.put_under_quota(elsewhere, Some(inode(9)));
    let page = state.audit_page(AuditPart::Usages, AuditPosition::default(), 1000, u64::MAX);
    assert!(page.rows > 0);
    assert_eq!(page.told, []);
}
