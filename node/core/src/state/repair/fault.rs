//! What to do about rows of one partition that do not agree with each other.
//!
//! A count is set to what is there. What is there and belongs to nothing is given a name in the quarantine, or put
//! aside in the journal. Of two that contradict each other without either being the count of the other, such as extents
//! that overlap, neither is touched: nobody knows which one is right.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::audit::{AuditCheck, AuditFault, AuditName, AuditPart, AuditPosition};
use bark_schema::ids::{BlockId, ClientId, InodeId};
use bark_schema::limits::{AUDIT_SUM_ROWS_MAX, FILE_SIZE_MAX, INLINE_SIZE_MAX, REPAIR_EDITS_MAX};
use bark_schema::operation::{Failure, FileKind, NewInode};
use bark_schema::policy::Policy;
use bark_schema::repair::{RepairTable, RowEdit};
use bark_schema::usage::Usage;

use super::super::State;
use super::super::extent::ExtentRow;
use super::super::inode::{Body, Inode};
use super::super::lock::LockKey;
use super::super::open::LeaseRow;
use super::super::usage::UsageRow;
use super::plan::{Plan, inode_edit, no_longer, one};
use super::{FILE_BYTES, NEXT_INODE, edit_of};

impl State {
    pub(super) fn plan_fault(&self, fault: &AuditFault, quarantine: InodeId) -> Result<Plan, Failure> {
        if !self.is_still(fault) {
            return Err(no_longer());
        }
        let (inode, found) = (fault.inode, fault.found);
        let of_inode = |change: &dyn Fn(&mut Inode)| {
            let row = self.inodes.get(&inode);
            rows(row.and_then(|row| inode_edit(inode, row, |row| change(row))))
        };
        Ok(match fault.check {
            AuditCheck::EntryCount => of_inode(&|row| {
                if let Body::Directory { children, .. } = &mut row.body {
                    *children = found;
                }
            }),
            AuditCheck::DirectoryLinks => {
                of_inode(&|row| row.link_count = u32::try_from(found).unwrap_or(row.link_count))
            }
            AuditCheck::EntriesOfNothing => self.directory_of_nothing(inode, quarantine),
            AuditCheck::EntriesOfGone => Plan {
                names: vec![name(inode, quarantine, FileKind::Directory)],
                ..rows(self.directory_found(inode, quarantine))
            },
            AuditCheck::NameCount => rows(self.names_of_rows(inode)),
            AuditCheck::CountedName => match self.inodes.get(&inode) {
                Some(row) => rows(self.names_edits(inode, row, &self.name_rows(inode))),
                None => Plan::default(),
            },
            AuditCheck::OrphanStays => self.orphan_kept(inode, quarantine),
            AuditCheck::InodeNumber => one(counter(NEXT_INODE, fault.kept, found.saturating_add(1))),
            AuditCheck::XattrCount => {
                of_inode(&|row| row.xattr_count = u8::try_from(found).unwrap_or(row.xattr_count))
            }
            AuditCheck::XattrsOfNothing => {
                let of_it = self.xattrs.range((inode, Box::default())..);
                let of_it = of_it
                    .take_while(|((of, _), _)| *of == inode)
                    .take(REPAIR_EDITS_MAX);
                rows(of_it.map(|(key, value)| edit_of(RepairTable::Attributes, key, Some(value), None)))
            }
            AuditCheck::ContentLength if found <= INLINE_SIZE_MAX as u64 => {
                of_inode(&|row| row.size = row.size.max(found))
            }
            AuditCheck::ExtentBeyondEnd if found <= FILE_SIZE_MAX => {
                of_inode(&|row| row.size = row.size.max(found))
            }
            AuditCheck::ExtentOfNothing => self.file_of_nothing(inode, quarantine),
            AuditCheck::ExtentCount | AuditCheck::ExtentBytes => {
                let (count, allocated, _) = self.extents_counted(inode);
                of_inode(&|row| {
                    if matches!(row.body, Body::Extents { .. }) {
                        row.body = Body::Extents { count, allocated };
                    }
                })
            }
            AuditCheck::BlockReferences => match fault.block {
                Some(block) if found == 0 => self.block_of_nothing(block, quarantine),
                Some(block) => self.references_counted(block, found),
                None => Plan::default(),
            },
            AuditCheck::BlockInLedger => {
                let row = fault
                    .block
                    .and_then(|block| Some((block, self.garbage.get(&block)?)));
                rows(row.map(|(block, row)| edit_of(RepairTable::Ledger, &block, Some(row), None)))
            }
            AuditCheck::FileBytes => one(counter(FILE_BYTES, fault.kept, found)),
            AuditCheck::AllocatedBytes
            | AuditCheck::BlockBytes
            | AuditCheck::GarbageBytes
            | AuditCheck::PatchBytes
            | AuditCheck::OrphanCount => Plan {
                recount: true,
                ..Plan::default()
            },
            AuditCheck::UsageOwn | AuditCheck::UsageBelow => self.usage_counted(inode),
            AuditCheck::QuotaUsed => self.quota_counted(inode),
            AuditCheck::OpenIndex => self.opens_paired(),
            AuditCheck::OpenCount => self.opens_counted(ClientId(inode.0), found),
            AuditCheck::OrphanDue => self.orphans_paired(),
            AuditCheck::SessionReplies => {
                let client = ClientId(inode.0);
                let row = self.sessions.get(&client);
                rows(row.and_then(|row| {
                    let mut right = row.clone();
                    right.replies = u32::try_from(found).ok()?;
                    Some(edit_of(RepairTable::Sessions, &client, Some(row), Some(&right)))
                }))
            }
            AuditCheck::LockHolder => self.locks_of_prepared(),
            AuditCheck::Delegation => self.delegations_paired(inode),
            AuditCheck::FileLock => self.file_locks_counted(),
            AuditCheck::ContentLength
            | AuditCheck::ExtentBeyondEnd
            | AuditCheck::ExtentOverlap
            | AuditCheck::ExtentBlock
            | AuditCheck::BlockSize => Plan::default(),
        })
    }

    /// Looks again, at the page the fault was on.
    fn is_still(&self, fault: &AuditFault) -> bool {
        let block = fault.block.unwrap_or(BlockId {
            client: ClientId(0),
            counter: 0,
        });
        let (part, high, low) = match part_of(fault.check) {
            AuditPart::Files => (AuditPart::Files, fault.inode.0, 0),
            AuditPart::Blocks => (AuditPart::Blocks, block.client.0, block.counter),
            part => (part, 0, 0),
        };
        let page = self.audit_page(part, AuditPosition { high, low }, 1, AUDIT_SUM_ROWS_MAX);
        page.faults.contains(fault)
    }

    /// Entries whose directory is not there: it comes back, in the quarantine.
    fn directory_of_nothing(&self, inode: InodeId, quarantine: InodeId) -> Plan {
        if self.inodes.contains(&inode) {
            return Plan::default();
        }
        let (children, directories) = self.entries_counted(inode);
        let body = Body::Directory {
            parent: quarantine,
            children,
        };
        let mut row = self.found(body, inode);
        row.link_count = row.link_count.saturating_add(directories);
        Plan {
            names: vec![name(inode, quarantine, FileKind::Directory)],
            ..one(edit_of(RepairTable::Inodes, &inode, None, Some(&row)))
        }
    }

    /// Extents whose file is not there: it comes back, in the quarantine.
    fn file_of_nothing(&self, inode: InodeId, quarantine: InodeId) -> Plan {
        let (count, allocated, end) = self.extents_counted(inode);
        let mut row = self.found(Body::Extents { count, allocated }, quarantine);
        row.size = end;
        Plan {
            names: vec![name(inode, quarantine, FileKind::Regular)],
            ..one(edit_of(RepairTable::Inodes, &inode, None, Some(&row)))
        }
    }

    /// A block nothing points into becomes a file of its own: whoever removes that removes the block as ever.
    fn block_of_nothing(&self, block: BlockId, quarantine: InodeId) -> Plan {
        let (Some(row), Ok(inode)) = (self.blocks.get(&block), self.next_inode()) else {
            return Plan::default();
        };
        let allocated = u64::from(row.size);
        if allocated == 0 {
            return Plan::default();
        }
        let mut file = self.found(Body::Extents { count: 1, allocated }, quarantine);
        file.size = allocated;
        let extent = ExtentRow::Block {
            length: row.size,
            block_offset: 0,
            block,
        };
        let mut plan = self.references_counted(block, 1);
        plan.edits
            .push(edit_of(RepairTable::Extents, &(inode, 0u64), None, Some(&extent)));
        plan.edits
            .push(edit_of(RepairTable::Inodes, &inode, None, Some(&file)));
        plan.names.push(name(inode, quarantine, FileKind::Regular));
        plan
    }

    fn references_counted(&self, block: BlockId, found: u64) -> Plan {
        let row = self.blocks.get(&block);
        rows(row.and_then(|row| {
            let mut right = row.clone();
            right.references = u32::try_from(found).ok()?;
            (*row != right).then(|| edit_of(RepairTable::Blocks, &block, Some(row), Some(&right)))
        }))
    }

    /// An inode nobody would ever drop is what somebody may miss.
    fn orphan_kept(&self, inode: InodeId, quarantine: InodeId) -> Plan {
        let Some(row) = self.inodes.get(&inode) else {
            return Plan::default();
        };
        let kind = row.kind();
        let edits = match kind {
            FileKind::Directory => self.directory_found(inode, quarantine),
            _ => self.names_edits(inode, row, &[(quarantine, 1)].into()),
        };
        Plan {
            names: vec![name(inode, quarantine, kind)],
            ..rows(edits)
        }
    }

    /// The rows that say where the names are count for more than the number of them.
    fn names_of_rows(&self, inode: InodeId) -> Vec<RowEdit> {
        let kept = self.name_rows(inode);
        match self.inodes.get(&inode) {
            Some(row) if row.kind() != FileKind::Directory => match kept.is_empty() {
                true => self.names_edits(inode, row, &[(row.directory, 1)].into()),
                false => self.names_edits(inode, row, &kept),
            },
            _ => {
                let gone = |(place, count): (&InodeId, &u32)| {
                    edit_of(RepairTable::Names, &(inode, *place), Some(count), None)
                };
                kept.iter().map(gone).collect()
            }
        }
    }

    /// A row for something that has lost its own: nobody but the owner of the cluster may look into it.
    fn found(&self, body: Body, directory: InodeId) -> Inode {
        let attributes = NewInode {
            mode: 0o700,
            ..NewInode::default()
        };
        Inode::new(&attributes, Policy::default(), body, directory, self.time)
    }

    /// How many extents an inode has, their bytes, and where the last ends.
    fn extents_counted(&self, inode: InodeId) -> (u64, u64, u64) {
        let of_it = self.extents.range((inode, 0)..=(inode, u64::MAX));
        of_it.fold((0, 0, 0), |(count, bytes, end), ((_, offset), row)| {
            let length = row.length();
            (count + 1, bytes + length, end.max(offset.saturating_add(length)))
        })
    }

    fn usage_counted(&self, directory: InodeId) -> Plan {
        let mut right = UsageRow {
            own: Usage::default(),
            below: Usage::default(),
            ..self.usages.get(&directory).copied().unwrap_or_default()
        };
        for (_, row) in self.inodes.iter() {
            let counted = row.counted();
            if counted.orphans == 0 && counted.directory == directory {
                right.own = right.own.plus(counted.usage);
            }
        }
        let told = self
            .contributions
            .range((directory, InodeId(0))..=(directory, InodeId(u64::MAX)));
        for (_, row) in told {
            right.below = right.below.plus(row.usage);
        }
        let before = self.usages.get(&directory);
        one(edit_of(RepairTable::Usages, &directory, before, Some(&right)))
    }

    fn quota_counted(&self, quota: InodeId) -> Plan {
        let mut used = self.births_prepared().remove(&quota).unwrap_or_default();
        for (_, row) in self.usages.iter().filter(|(_, row)| row.quota == Some(quota)) {
            used.0 = used.0.wrapping_add(row.own.stored);
            used.1 = used.1.wrapping_add(row.own.inodes);
        }
        let before = self.allowances.get(&quota);
        let mut right = before.copied().unwrap_or_default();
        (right.used_bytes, right.used_inodes) = used;
        one(edit_of(RepairTable::Allowances, &quota, before, Some(&right)))
    }

    /// What either side knows to be open is open: it ends with the client's lease.
    fn opens_paired(&self) -> Plan {
        let by_file = self.opens.iter().map(|((inode, client), ())| (*client, *inode));
        let missing = by_file.filter(|key| !self.opens_by_client.contains(key));
        let missing = missing.map(|key| edit_of(RepairTable::OpensByClient, &key, None, Some(&())));
        let by_client = self
            .opens_by_client
            .iter()
            .map(|((client, inode), ())| (*inode, *client));
        let lost = by_client.filter(|key| !self.opens.contains(key));
        let lost = lost.map(|key| edit_of(RepairTable::Opens, &key, None, Some(&())));
        rows(missing.chain(lost))
    }

    fn opens_counted(&self, client: ClientId, found: u64) -> Plan {
        let before = self.leases.get(&client);
        // One that is over already releases what it holds.
        let mut right = before.copied().unwrap_or(LeaseRow {
            expires: self.time,
            opens: 0,
            is_over: false,
            ordered: 0,
        });
        right.opens = u32::try_from(found).unwrap_or(u32::MAX);
        one(edit_of(RepairTable::Leases, &client, before, Some(&right)))
    }

    /// When an inode goes is what its own row says.
    fn orphans_paired(&self) -> Plan {
        let due = self.orphans.iter().map(|(inode, due)| (*due, *inode));
        let missing = due.filter(|key| !self.due_orphans.contains(key));
        let missing = missing.map(|key| edit_of(RepairTable::DueOrphans, &key, None, Some(&())));
        let extra = self.due_orphans.iter();
        let extra = extra.filter(|((due, inode), ())| self.orphans.get(inode) != Some(due));
        let extra = extra.map(|(key, row)| edit_of(RepairTable::DueOrphans, key, Some(row), None));
        rows(missing.chain(extra))
    }

    fn locks_of_prepared(&self) -> Plan {
        let mut held = BTreeMap::new();
        for (transaction, prepared) in self.prepared.iter() {
            for step in &prepared.steps {
                held.insert(LockKey::of_step(step), *transaction);
            }
        }
        let wrong = self
            .locks
            .iter()
            .filter(|(key, holder)| held.get(key) != Some(holder));
        let wrong = wrong
            .map(|(key, holder)| edit_of(RepairTable::TransactionLocks, key, Some(holder), held.get(key)));
        let missing = held.iter().filter(|(key, _)| !self.locks.contains(key));
        let missing =
            missing.map(|(key, holder)| edit_of(RepairTable::TransactionLocks, key, None, Some(holder)));
        rows(wrong.chain(missing))
    }

    /// A delegation that cannot be is over on both sides.
    fn delegations_paired(&self, directory: InodeId) -> Plan {
        let kept = self.delegations.get(&directory);
        let kept = kept.map(|client| edit_of(RepairTable::Delegations, &directory, Some(client), None));
        let by_client = self
            .delegations_by_client
            .iter()
            .filter(|((client, of), ())| *of == directory || self.delegations.get(of) != Some(client));
        let by_client =
            by_client.map(|(key, row)| edit_of(RepairTable::DelegationsByClient, key, Some(row), None));
        rows(kept.into_iter().chain(by_client))
    }

    /// Counts of locks; the locks themselves are left.
    fn file_locks_counted(&self) -> Plan {
        let mut files: BTreeMap<(ClientId, InodeId), u32> = BTreeMap::new();
        let mut clients: BTreeMap<ClientId, u32> = BTreeMap::new();
        for lock in self.locks_and_waits() {
            *files.entry((lock.owner.client, lock.inode)).or_default() += 1;
            *clients.entry(lock.owner.client).or_default() += 1;
        }
        let keys: BTreeSet<_> = files
            .keys()
            .copied()
            .chain(self.lock_files.iter().map(|(key, _)| *key))
            .collect();
        let wrong = keys
            .iter()
            .filter(|key| files.get(key) != self.lock_files.get(key));
        let wrong = wrong.map(|key| {
            edit_of(
                RepairTable::LockFiles,
                key,
                self.lock_files.get(key),
                files.get(key),
            )
        });
        let leases = self.lock_leases.iter().filter_map(|(client, lease)| {
            let mut right = *lease;
            right.locks = clients.get(client).copied().unwrap_or(0);
            (right.locks != lease.locks)
                .then(|| edit_of(RepairTable::LockLeases, client, Some(lease), Some(&right)))
        });
        rows(wrong.chain(leases))
    }
}

fn part_of(check: AuditCheck) -> AuditPart {
    match check {
        AuditCheck::EntryCount
        | AuditCheck::DirectoryLinks
        | AuditCheck::EntriesOfNothing
        | AuditCheck::EntriesOfGone
        | AuditCheck::NameCount
        | AuditCheck::CountedName
        | AuditCheck::OrphanStays
        | AuditCheck::InodeNumber
        | AuditCheck::XattrCount
        | AuditCheck::XattrsOfNothing
        | AuditCheck::ContentLength
        | AuditCheck::ExtentOverlap
        | AuditCheck::ExtentBeyondEnd
        | AuditCheck::ExtentOfNothing
        | AuditCheck::ExtentCount
        | AuditCheck::ExtentBytes
        | AuditCheck::ExtentBlock => AuditPart::Files,
        AuditCheck::BlockInLedger | AuditCheck::BlockSize => AuditPart::Blocks,
        AuditCheck::BlockReferences
        | AuditCheck::AllocatedBytes
        | AuditCheck::BlockBytes
        | AuditCheck::GarbageBytes
        | AuditCheck::PatchBytes
        | AuditCheck::FileBytes
        | AuditCheck::OrphanCount
        | AuditCheck::UsageOwn
        | AuditCheck::UsageBelow
        | AuditCheck::QuotaUsed => AuditPart::Counters,
        AuditCheck::OpenIndex
        | AuditCheck::OpenCount
        | AuditCheck::OrphanDue
        | AuditCheck::SessionReplies
        | AuditCheck::Delegation
        | AuditCheck::FileLock => AuditPart::Clients,
        AuditCheck::LockHolder => AuditPart::Locks,
    }
}

fn rows(edits: impl IntoIterator<Item = RowEdit>) -> Plan {
    Plan {
        edits: edits.into_iter().take(REPAIR_EDITS_MAX).collect(),
        ..Plan::default()
    }
}

fn counter(key: u8, before: u64, after: u64) -> RowEdit {
    edit_of(RepairTable::Counters, &key, Some(&before), Some(&after))
}

fn name(inode: InodeId, directory: InodeId, kind: FileKind) -> AuditName {
    AuditName {
        inode,
        directory,
        kind,
        count: 1,
        cookie: 0,
    }
}
