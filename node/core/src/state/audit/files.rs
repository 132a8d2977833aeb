//! Inodes in order, and beside each the rows that hang on it: entries, extents, extended attributes, names.
//!
//! All these tables are ordered by the inode first, so one walk looks at all of them, and rows of an inode that
//! does not exist are met between two that do. The entries of a large directory are counted at once, which is
//! certain, but told in several pages.

use std::iter::Peekable;

use bark_schema::audit::{AuditCheck, AuditFault, AuditName, AuditPage, AuditPosition};
use bark_schema::ids::InodeId;
use bark_schema::limits::INLINE_SIZE_MAX;
use bark_schema::operation::{Failure, FileKind};

use super::super::State;
use super::super::dentry::{Dentry, DentryKey};
use super::super::extent::ExtentRow;
use super::super::inode::{Body, Inode};
use super::super::lock::LockKey;
use super::super::xattr::XattrKey;
use super::{agree, fault_in, fault_of};

/// The tables beside that of inodes, each where the walk is.
struct Beside<D: Iterator, E: Iterator, X: Iterator, N: Iterator> {
    entries: Peekable<D>,
    extents: Peekable<E>,
    xattrs: Peekable<X>,
    names: Peekable<N>,
}

impl State {
    /// Position: `high` is an inode; with `low` 0 the inode is still to be looked at, otherwise only its entries
    /// from that cookie on are to be told.
    pub(super) fn audit_files(&self, from: AuditPosition, limit: u64, page: &mut AuditPage) {
        let mut first = from.high;
        if from.low != 0 {
            match self.tell_entries(InodeId(from.high), from.low, limit, page) {
                Some(next) => return page.next = Some(next),
                None => first = first.saturating_add(1),
            }
        }
        let first = InodeId(first);
        let mut beside = Beside {
            entries: self.dentries.range(DentryKey::first(first, 0)..).peekable(),
            extents: self.extents.range((first, 0)..).peekable(),
            xattrs: self.xattrs.range(first_xattr(first)..).peekable(),
            names: self.names.range((first, InodeId(0))..).peekable(),
        };
        for (inode, row) in self.inodes.range(first..) {
            if page.rows >= limit {
                page.next = Some(AuditPosition {
                    high: inode.0,
                    low: 0,
                });
                return;
            }
            page.rows += 1;
            self.skip_to(*inode, &mut beside, page);
            self.audit_inode(*inode, row, page);
            self.audit_directory(*inode, row, &mut beside.entries, page);
            self.audit_extents(*inode, row, &mut beside.extents, page);
            self.audit_xattrs(*inode, row, &mut beside.xattrs, page);
            self.audit_names(*inode, row, &mut beside.names, page);
            if matches!(row.body, Body::Directory { .. })
                && let Some(next) = self.tell_entries(*inode, 0, limit, page)
            {
                page.next = Some(next);
                return;
            }
        }
        self.skip_to(InodeId(u64::MAX), &mut beside, page);
    }

    /// Rows of inodes before `inode` belong to none.
    fn skip_to<'a>(
        &self,
        inode: InodeId,
        beside: &mut Beside<
            impl Iterator<Item = (&'a DentryKey, &'a Dentry)>,
            impl Iterator<Item = (&'a (InodeId, u64), &'a ExtentRow)>,
            impl Iterator<Item = (&'a XattrKey, &'a Box<[u8]>)>,
            impl Iterator<Item = (&'a (InodeId, InodeId), &'a u32)>,
        >,
        page: &mut AuditPage,
    ) {
        let faults = &mut page.faults;
        let mut nothing = |check, of: InodeId| match faults.last_mut() {
            Some(last) if last.check == check && last.inode == of => last.found += 1,
            _ => faults.push(fault_of(check, of, 0, 1)),
        };
        while let Some((key, _)) = beside.entries.next_if(|(key, _)| key.directory < inode) {
            nothing(AuditCheck::EntriesOfNothing, key.directory);
        }
        while let Some(((of, _), _)) = beside.extents.next_if(|((of, _), _)| *of < inode) {
            nothing(AuditCheck::ExtentOfNothing, *of);
        }
        while let Some(((of, _), _)) = beside.xattrs.next_if(|((of, _), _)| *of < inode) {
            nothing(AuditCheck::XattrsOfNothing, *of);
        }
        while let Some(((of, _), _)) = beside.names.next_if(|((of, _), _)| *of < inode) {
            nothing(AuditCheck::NameCount, *of);
        }
    }

    fn audit_inode(&self, inode: InodeId, row: &Inode, page: &mut AuditPage) {
        if row.link_count == 0 && !self.orphans.contains(&inode) && !self.is_open(inode) {
            page.faults.push(fault_of(AuditCheck::OrphanStays, inode, 0, 0));
        }
        let counter = inode.0 & InodeId::COUNTER_MAX;
        if counter >= self.inode_counter_next {
            let fault = fault_of(AuditCheck::InodeNumber, inode, self.inode_counter_next, counter);
            page.faults.push(fault);
        }
        if let Body::Inline(bytes) = &row.body
            && bytes.len() as u64 > row.size.min(INLINE_SIZE_MAX as u64)
        {
            let fault = fault_of(AuditCheck::ContentLength, inode, row.size, bytes.len() as u64);
            page.faults.push(fault);
        }
    }

    fn audit_directory<'a>(
        &self,
        inode: InodeId,
        row: &Inode,
        rows: &mut Peekable<impl Iterator<Item = (&'a DentryKey, &'a Dentry)>>,
        page: &mut AuditPage,
    ) {
        let (mut entries, mut directories) = (0, 0);
        while let Some((_, entry)) = rows.next_if(|(key, _)| key.directory == inode) {
            entries += 1;
            directories += u64::from(entry.kind == FileKind::Directory);
        }
        page.rows += entries;
        let Body::Directory { parent, children } = row.body else {
            agree(page, AuditCheck::EntriesOfNothing, inode, 0, entries);
            return;
        };
        agree(page, AuditCheck::EntryCount, inode, children, entries);
        if row.link_count == 0 {
            agree(page, AuditCheck::EntriesOfGone, inode, 0, entries);
            return;
        }
        let links = u64::from(row.link_count);
        agree(page, AuditCheck::DirectoryLinks, inode, links, 2 + directories);
        if inode != InodeId::ROOT {
            page.names.push(name(inode, parent, FileKind::Directory, 1));
        }
    }

    fn audit_extents<'a>(
        &self,
        inode: InodeId,
        row: &Inode,
        rows: &mut Peekable<impl Iterator<Item = (&'a (InodeId, u64), &'a ExtentRow)>>,
        page: &mut AuditPage,
    ) {
        let (mut count, mut bytes, mut end_before) = (0, 0, 0);
        while let Some(((_, offset), extent)) = rows.next_if(|((of, _), _)| *of == inode) {
            let end = offset.saturating_add(extent.length());
            let found = AuditFault {
                offset: *offset,
                ..fault_of(AuditCheck::ExtentOverlap, inode, end_before, end)
            };
            if extent.length() == 0 || *offset < end_before {
                page.faults.push(found);
            }
            if end > row.size {
                page.faults.push(AuditFault {
                    check: AuditCheck::ExtentBeyondEnd,
                    kept: row.size,
                    ..found
                });
            }
            if let ExtentRow::Block {
                length,
                block_offset,
                block,
            } = extent
            {
                let size = self.blocks.get(block).map_or(0, |row| u64::from(row.size));
                let needed = u64::from(*block_offset) + u64::from(*length);
                if needed > size {
                    page.faults.push(AuditFault {
                        inode,
                        offset: *offset,
                        ..fault_in(AuditCheck::ExtentBlock, *block, size, needed)
                    });
                }
            }
            (count, bytes, end_before) = (count + 1, bytes + extent.length(), end);
        }
        page.rows += count;
        let kept = match row.body {
            Body::Extents { count, allocated } => (count, allocated),
            _ => (0, 0),
        };
        agree(page, AuditCheck::ExtentCount, inode, kept.0, count);
        agree(page, AuditCheck::ExtentBytes, inode, kept.1, bytes);
    }

    fn audit_xattrs<'a>(
        &self,
        inode: InodeId,
        row: &Inode,
        rows: &mut Peekable<impl Iterator<Item = (&'a XattrKey, &'a Box<[u8]>)>>,
        page: &mut AuditPage,
    ) {
        let mut count = 0;
        while rows.next_if(|((of, _), _)| *of == inode).is_some() {
            count += 1;
        }
        page.rows += count;
        agree(
            page,
            AuditCheck::XattrCount,
            inode,
            u64::from(row.xattr_count),
            count,
        );
    }

    /// An inode with several names has rows that say where they are; one with a single name says it itself.
    fn audit_names<'a>(
        &self,
        inode: InodeId,
        row: &Inode,
        rows: &mut Peekable<impl Iterator<Item = (&'a (InodeId, InodeId), &'a u32)>>,
        page: &mut AuditPage,
    ) {
        let (mut sum, mut counted_here) = (0, false);
        let links = u64::from(row.link_count);
        while let Some(((_, directory), count)) = rows.next_if(|((of, _), _)| *of == inode) {
            page.rows += 1;
            sum += u64::from(*count);
            counted_here |= *directory == row.directory;
            page.names.push(name(inode, *directory, row.kind(), *count));
        }
        if row.kind() == FileKind::Directory || links < 2 {
            agree(page, AuditCheck::NameCount, inode, 0, sum);
            if row.kind() != FileKind::Directory && links == 1 {
                page.names.push(name(inode, row.directory, row.kind(), 1));
            }
            return;
        }
        agree(page, AuditCheck::NameCount, inode, links, sum);
        if !counted_here {
            let fault = fault_of(AuditCheck::CountedName, inode, row.directory.0, 0);
            page.faults.push(fault);
        }
    }

    /// Tells of a directory's entries from a cookie on; where to go on if there are more than the page takes.
    fn tell_entries(
        &self,
        directory: InodeId,
        cookie: u64,
        limit: u64,
        page: &mut AuditPage,
    ) -> Option<AuditPosition> {
        let rows = self.dentries.range(DentryKey::first(directory, cookie)..);
        for (key, entry) in rows.take_while(|(key, _)| key.directory == directory) {
            let is_parted = page.entries.last().is_none_or(|last| last.cookie != key.cookie);
            if page.entries.len() as u64 >= limit && is_parted {
                return Some(AuditPosition {
                    high: directory.0,
                    low: key.cookie,
                });
            }
            page.entries.push(AuditName {
                cookie: key.cookie,
                ..name(entry.inode, directory, entry.kind, 1)
            });
        }
        None
    }

    /// The names an inode counts, while no transaction holds it.
    pub(super) fn names_of(&self, inode: InodeId) -> Result<AuditPage, Failure> {
        self.check_inode_unlocked(inode)?;
        let mut page = AuditPage {
            applied: self.applied,
            ..AuditPage::default()
        };
        let Some(row) = self.inodes.get(&inode) else {
            return Ok(page);
        };
        match row.body {
            Body::Directory { parent, .. } if row.link_count > 0 && inode != InodeId::ROOT => {
                page.names.push(name(inode, parent, FileKind::Directory, 1));
            }
            Body::Directory { .. } => {}
            _ => {
                let mut names = self.names.range((inode, InodeId(0))..).peekable();
                // What it finds wrong is found by the page of all inodes, too.
                self.audit_names(inode, row, &mut names, &mut page);
                page.faults.clear();
            }
        }
        page.rows = 1;
        Ok(page)
    }

    /// The entries of a directory that lead to an inode, while no transaction holds any.
    pub(super) fn audit_entries(&self, directory: InodeId, inode: InodeId) -> Result<AuditPage, Failure> {
        self.check_unlocked(&LockKey::Inode(directory))?;
        self.check_entries_held_by(directory, None)?;
        let mut page = AuditPage {
            applied: self.applied,
            ..AuditPage::default()
        };
        let rows = self.dentries.range(DentryKey::first(directory, 0)..);
        for (key, entry) in rows.take_while(|(key, _)| key.directory == directory) {
            page.rows += 1;
            if entry.inode == inode {
                page.entries.push(AuditName {
                    cookie: key.cookie,
                    ..name(entry.inode, directory, entry.kind, 1)
                });
            }
        }
        Ok(page)
    }
}

fn name(inode: InodeId, directory: InodeId, kind: FileKind, count: u32) -> AuditName {
    AuditName {
        inode,
        directory,
        kind,
        count,
        cookie: 0,
    }
}

fn first_xattr(inode: InodeId) -> XattrKey {
    (inode, Box::default())
}
