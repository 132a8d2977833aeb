//! One row of a repair: whether it is what it was, and what changes with it.

use bark_schema::ids::{BlockId, InodeId};
use bark_schema::operation::Failure;
use bark_schema::repair::{RepairTable, RowEdit};

use super::super::State;
use super::super::block::{BlockRow, GarbageRow};
use super::super::codec::Row;
use super::super::dentry::{Dentry, DentryKey, check_name};
use super::super::extent::ExtentRow;
use super::super::inode::{Body, Counted, Inode, is_at_home};
use super::super::table::Table;
use super::super::usage::{ContributionRow, UsageRow};
use super::{
    FILE_BYTES, NEXT_INODE, changed_meanwhile, encoded, invalid, not_a_row, skeleton, whole, whole_or_none,
};

impl State {
    pub(super) fn check_edit(&self, edit: &RowEdit) -> Result<(), Failure> {
        match edit.table {
            RepairTable::Inodes => self.check_inode_edit(edit),
            RepairTable::Entries => self.check_entry_edit(edit),
            RepairTable::Usages => self.check_usage_edit(edit),
            RepairTable::Counters => self.check_counter_edit(edit),
            RepairTable::Names => check_row(&self.names, edit),
            RepairTable::Extents => check_row(&self.extents, edit),
            RepairTable::Attributes => check_row(&self.xattrs, edit),
            RepairTable::Blocks => check_row(&self.blocks, edit),
            RepairTable::Ledger => check_row(&self.garbage, edit),
            RepairTable::Sessions => check_row(&self.sessions, edit),
            RepairTable::Contributions => check_row(&self.contributions, edit),
            RepairTable::Allowances => check_row(&self.allowances, edit),
            RepairTable::Opens => check_row(&self.opens, edit),
            RepairTable::OpensByClient => check_row(&self.opens_by_client, edit),
            RepairTable::Leases => check_row(&self.leases, edit),
            RepairTable::Orphans => check_row(&self.orphans, edit),
            RepairTable::DueOrphans => check_row(&self.due_orphans, edit),
            RepairTable::TransactionLocks => check_row(&self.locks, edit),
            RepairTable::Delegations => check_row(&self.delegations, edit),
            RepairTable::DelegationsByClient => check_row(&self.delegations_by_client, edit),
            RepairTable::LockFiles => check_row(&self.lock_files, edit),
            RepairTable::LockLeases => check_row(&self.lock_leases, edit),
        }
    }

    /// Changes a row that was checked.
    pub(super) fn apply_edit(&mut self, edit: &RowEdit) {
        match edit.table {
            RepairTable::Inodes => self.edit_inode(edit),
            RepairTable::Entries => self.edit_entry(edit),
            RepairTable::Usages => self.edit_usage(edit),
            RepairTable::Counters => self.edit_counter(edit),
            RepairTable::Names => drop(put_row(&mut self.names, edit)),
            RepairTable::Extents => self.edit_extent(edit),
            RepairTable::Attributes => drop(put_row(&mut self.xattrs, edit)),
            RepairTable::Blocks => self.edit_block(edit),
            RepairTable::Ledger => self.edit_ledger(edit),
            RepairTable::Sessions => drop(put_row(&mut self.sessions, edit)),
            RepairTable::Contributions => self.edit_contribution(edit),
            RepairTable::Allowances => drop(put_row(&mut self.allowances, edit)),
            RepairTable::Opens => drop(put_row(&mut self.opens, edit)),
            RepairTable::OpensByClient => drop(put_row(&mut self.opens_by_client, edit)),
            RepairTable::Leases => drop(put_row(&mut self.leases, edit)),
            RepairTable::Orphans => drop(put_row(&mut self.orphans, edit)),
            RepairTable::DueOrphans => drop(put_row(&mut self.due_orphans, edit)),
            RepairTable::TransactionLocks => drop(put_row(&mut self.locks, edit)),
            RepairTable::Delegations => drop(put_row(&mut self.delegations, edit)),
            RepairTable::DelegationsByClient => drop(put_row(&mut self.delegations_by_client, edit)),
            RepairTable::LockFiles => drop(put_row(&mut self.lock_files, edit)),
            RepairTable::LockLeases => drop(put_row(&mut self.lock_leases, edit)),
        }
    }

    fn check_inode_edit(&self, edit: &RowEdit) -> Result<(), Failure> {
        let inode: InodeId = whole(&edit.key)?;
        let counter = inode.0 & InodeId::COUNTER_MAX;
        if !is_at_home(inode, self.partition) || counter == 0 || counter == InodeId::COUNTER_MAX {
            return Err(invalid("not an inode of this partition"));
        }
        self.check_inode_unlocked(inode)?;
        let before: Option<Inode> = whole_or_none(edit.before.as_deref())?;
        whole_or_none::<Inode>(edit.after.as_deref())?;
        same(
            self.inodes.get(&inode).map(skeleton),
            before.as_ref().map(skeleton),
        )
    }

    fn edit_inode(&mut self, edit: &RowEdit) {
        let (Ok(inode), Ok(after)) = (
            whole::<InodeId>(&edit.key),
            whole_or_none::<Inode>(edit.after.as_deref()),
        ) else {
            return;
        };
        let Some(after) = after else {
            if let Some(row) = self.inodes.remove(&inode) {
                self.count(row.counted(), Counted::NOTHING);
            }
            return;
        };
        if !self.inodes.contains(&inode) {
            return self.bear(inode, after);
        }
        let mut is_moved = false;
        let time = self.moment();
        self.change_inode(inode, |row| {
            (row.link_count, row.directory) = (after.link_count, after.directory);
            (row.size, row.xattr_count) = (after.size, after.xattr_count);
            is_moved = is_other_parent(&row.body, &after.body);
            // Bytes inside an inode stay what they are.
            if !matches!((&row.body, &after.body), (Body::Inline(_), Body::Inline(_))) {
                row.body = after.body;
            }
            row.touch_content(time);
        });
        if is_moved {
            self.note_move(inode);
        }
    }

    fn check_entry_edit(&self, edit: &RowEdit) -> Result<(), Failure> {
        let DentryKey { directory, name, .. } = whole(&edit.key)?;
        check_name(&name)?;
        if !is_at_home(directory, self.partition) {
            return Err(invalid("not a directory of this partition"));
        }
        self.check_entry_unlocked(directory, &name)?;
        let before: Option<Dentry> = whole_or_none(edit.before.as_deref())?;
        if whole_or_none::<Dentry>(edit.after.as_deref())?.is_some() {
            // Nothing comes into a directory that is gone.
            self.directory(directory)?;
            if before.is_none() {
                self.check_room_for(directory, &name)?;
            }
        }
        same(self.dentry(directory, &name), before)
    }

    fn edit_entry(&mut self, edit: &RowEdit) {
        let (Ok(DentryKey { directory, name, .. }), Ok(after)) =
            (whole(&edit.key), whole_or_none(edit.after.as_deref()))
        else {
            return;
        };
        match after {
            Some(entry) => self.put_dentry(directory, &name, entry),
            None => self.remove_dentry(directory, &name),
        }
    }

    fn check_usage_edit(&self, edit: &RowEdit) -> Result<(), Failure> {
        let directory: InodeId = whole(&edit.key)?;
        whole_or_none::<UsageRow>(edit.after.as_deref())?;
        let before: Option<UsageRow> = whole_or_none(edit.before.as_deref())?;
        let sums = |row: &UsageRow| (row.own, row.below, row.quota);
        same(self.usages.get(&directory).map(sums), before.as_ref().map(sums))
    }

    fn edit_usage(&mut self, edit: &RowEdit) {
        let (Ok(directory), Ok(after)) = (
            whole::<InodeId>(&edit.key),
            whole_or_none::<UsageRow>(edit.after.as_deref()),
        ) else {
            return;
        };
        let before = self.usages.get(&directory).copied();
        if let Some(row) = before
            && let Some(quota) = row.quota
        {
            self.use_quota(quota, row.own, Default::default());
        }
        let Some(after) = after else {
            self.usages.remove(&directory);
            self.unreported.remove(&directory);
            return;
        };
        if let Some(quota) = after.quota {
            self.use_quota(quota, Default::default(), after.own);
        }
        let mut row = UsageRow {
            version: self.applied,
            reported: before.map_or(0, |row| row.reported),
            ..after
        };
        if directory == InodeId::ROOT {
            row.reported = row.version;
        } else {
            self.unreported.insert(directory);
        }
        self.usages.insert(directory, row);
    }

    fn edit_contribution(&mut self, edit: &RowEdit) {
        let Ok((directory, _)) = whole::<(InodeId, InodeId)>(&edit.key) else {
            return;
        };
        let (old, new) = put_row(&mut self.contributions, edit);
        let usage = |row: Option<ContributionRow>| row.unwrap_or_default().usage;
        self.note_contribution(directory, usage(old), usage(new));
    }

    fn edit_extent(&mut self, edit: &RowEdit) {
        let Ok(place) = whole::<(InodeId, u64)>(&edit.key) else {
            return;
        };
        let (old, new) = put_row(&mut self.extents, edit);
        let patch_bytes = |row: &Option<ExtentRow>| match row {
            Some(ExtentRow::Patch { bytes, .. }) => Some(bytes.len() as u64),
            _ => None,
        };
        if let Some(bytes) = patch_bytes(&old) {
            self.patches.remove(&place);
            self.patch_bytes = self.patch_bytes.wrapping_sub(bytes);
        }
        if let Some(bytes) = patch_bytes(&new) {
            self.patches.insert(place);
            self.patch_bytes = self.patch_bytes.wrapping_add(bytes);
        }
    }

    fn edit_block(&mut self, edit: &RowEdit) {
        let Ok(block) = whole::<BlockId>(&edit.key) else {
            return;
        };
        let (old, new) = put_row(&mut self.blocks, edit);
        let size = |row: &Option<BlockRow>| row.as_ref().map_or(0, |row| u64::from(row.size));
        self.block_bytes = self.block_bytes.wrapping_sub(size(&old)).wrapping_add(size(&new));
        match new {
            None => self.forget_copies(block),
            // Whose file it is of is not known here: as many copies as the cluster has.
            Some(row) if old.is_none() => self.count_copies(block, row.nodes.len(), InodeId(0)),
            Some(_) => {}
        }
    }

    fn edit_ledger(&mut self, edit: &RowEdit) {
        let (old, new) = put_row(&mut self.garbage, edit);
        let size = |row: &Option<GarbageRow>| row.as_ref().map_or(0, |row| u64::from(row.size));
        self.garbage_bytes = self
            .garbage_bytes
            .wrapping_sub(size(&old))
            .wrapping_add(size(&new));
    }

    fn check_counter_edit(&self, edit: &RowEdit) -> Result<(), Failure> {
        let before: Option<u64> = whole_or_none(edit.before.as_deref())?;
        let after: Option<u64> = whole_or_none(edit.after.as_deref())?;
        let now = match whole::<u8>(&edit.key)? {
            // Never back: no number is given twice.
            NEXT_INODE
                if after
                    .is_some_and(|next| (self.inode_counter_next..=InodeId::COUNTER_MAX).contains(&next)) =>
            {
                self.inode_counter_next
            }
            FILE_BYTES if after.is_some() => self.file_bytes,
            _ => return Err(not_a_row()),
        };
        same(Some(now), before)
    }

    fn edit_counter(&mut self, edit: &RowEdit) {
        match (
            whole::<u8>(&edit.key),
            whole_or_none::<u64>(edit.after.as_deref()),
        ) {
            (Ok(NEXT_INODE), Ok(Some(next))) => self.inode_counter_next = next,
            (Ok(FILE_BYTES), Ok(Some(bytes))) => self.file_bytes = bytes,
            _ => {}
        }
    }
}

fn is_other_parent(old: &Body, new: &Body) -> bool {
    match (old, new) {
        (Body::Directory { parent: old, .. }, Body::Directory { parent: new, .. }) => old != new,
        _ => false,
    }
}

fn same<T: PartialEq>(now: T, before: T) -> Result<(), Failure> {
    match now == before {
        true => Ok(()),
        false => Err(changed_meanwhile()),
    }
}

fn check_row<K: Row + Ord + Clone, V: Row + Clone>(
    table: &Table<K, V>,
    edit: &RowEdit,
) -> Result<(), Failure> {
    let key: K = whole(&edit.key)?;
    whole_or_none::<V>(edit.before.as_deref())?;
    whole_or_none::<V>(edit.after.as_deref())?;
    same(table.get(&key).map(encoded), edit.before.clone())
}

/// The row as it was, and as it is now.
fn put_row<K: Row + Ord + Clone, V: Row + Clone>(
    table: &mut Table<K, V>,
    edit: &RowEdit,
) -> (Option<V>, Option<V>) {
    let (Ok(key), Ok(after)) = (whole::<K>(&edit.key), whole_or_none::<V>(edit.after.as_deref())) else {
        return (None, None);
    };
    let before = table.get(&key).cloned();
    match &after {
        Some(row) => table.insert(key, row.clone()),
        None => drop(table.remove(&key)),
    }
    (before, after)
}
