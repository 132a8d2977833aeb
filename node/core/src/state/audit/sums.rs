//! Everything a partition keeps that is a sum of rows: its counters, the references to blocks, what directories
//! take and what is used of quotas.

use std::collections::BTreeMap;

use bark_schema::audit::{AuditCheck, AuditPage};
use bark_schema::ids::{BlockId, InodeId};
use bark_schema::operation::Step;
use bark_schema::usage::Usage;

use super::super::State;
use super::super::counters::SpaceCounters;
use super::super::extent::ExtentRow;
use super::{agree, fault_in};

/// Stands for the partition where a fault is of no inode.
const PARTITION: InodeId = InodeId(0);

impl State {
    pub(super) fn summed_rows(&self) -> u64 {
        self.inodes.len()
            + self.extents.len()
            + self.blocks.len()
            + self.garbage.len()
            + self.usages.len()
            + self.contributions.len()
    }

    pub(super) fn audit_sums(&self, page: &mut AuditPage) {
        let mut counted = SpaceCounters::default();
        let (mut file_bytes, mut orphans) = (0u64, 0u64);
        let mut own: BTreeMap<InodeId, Usage> = BTreeMap::new();
        for (_, row) in self.inodes.iter() {
            let inode = row.counted();
            counted.allocated_bytes = counted.allocated_bytes.wrapping_add(inode.allocated_bytes);
            file_bytes = file_bytes.wrapping_add(inode.file_bytes);
            orphans += inode.orphans;
            if inode.orphans == 0 {
                let sum = own.entry(inode.directory).or_default();
                *sum = sum.plus(inode.usage);
            }
        }
        counted.block_bytes = self.blocks.iter().map(|(_, row)| u64::from(row.size)).sum();
        counted.garbage_bytes = self.garbage.iter().map(|(_, row)| u64::from(row.size)).sum();
        counted.patch_bytes = self.audit_references(page);
        let kept = self.space();
        let pairs = [
            (
                AuditCheck::AllocatedBytes,
                kept.allocated_bytes,
                counted.allocated_bytes,
            ),
            (AuditCheck::BlockBytes, kept.block_bytes, counted.block_bytes),
            (
                AuditCheck::GarbageBytes,
                kept.garbage_bytes,
                counted.garbage_bytes,
            ),
            (AuditCheck::PatchBytes, kept.patch_bytes, counted.patch_bytes),
            (AuditCheck::FileBytes, self.file_bytes, file_bytes),
            (AuditCheck::OrphanCount, self.orphan_count, orphans),
        ];
        for (check, kept, found) in pairs {
            agree(page, check, PARTITION, kept, found);
        }
        self.audit_usage_sums(own, page);
    }

    /// Counts what points into each block; answers the bytes that are in no block.
    fn audit_references(&self, page: &mut AuditPage) -> u64 {
        let mut references: BTreeMap<BlockId, u64> = BTreeMap::new();
        let mut patch_bytes = 0;
        for (_, row) in self.extents.iter() {
            match row {
                ExtentRow::Block { block, .. } => *references.entry(*block).or_default() += 1,
                ExtentRow::Patch { bytes, .. } => patch_bytes += bytes.len() as u64,
            }
        }
        for (block, row) in self.blocks.iter() {
            let found = references.remove(block).unwrap_or(0);
            let kept = u64::from(row.references);
            if kept != found {
                page.faults
                    .push(fault_in(AuditCheck::BlockReferences, *block, kept, found));
            }
        }
        // What is left is pointed into and not recorded: the extents themselves say so.
        patch_bytes
    }

    fn audit_usage_sums(&self, mut own: BTreeMap<InodeId, Usage>, page: &mut AuditPage) {
        let mut below: BTreeMap<InodeId, Usage> = BTreeMap::new();
        for ((directory, _), row) in self.contributions.iter() {
            let sum = below.entry(*directory).or_default();
            *sum = sum.plus(row.usage);
        }
        let mut used: BTreeMap<InodeId, (u64, u64)> = self.births_prepared();
        for (directory, row) in self.usages.iter() {
            let found = own.remove(directory).unwrap_or_default();
            if row.own != found {
                agree_usage(page, AuditCheck::UsageOwn, *directory, row.own, found);
            }
            let found = below.remove(directory).unwrap_or_default();
            if row.below != found {
                agree_usage(page, AuditCheck::UsageBelow, *directory, row.below, found);
            }
            if let Some(quota) = row.quota {
                let sum = used.entry(quota).or_default();
                sum.0 = sum.0.wrapping_add(row.own.stored);
                sum.1 = sum.1.wrapping_add(row.own.inodes);
            }
        }
        own.retain(|_, usage| *usage != Usage::default());
        below.retain(|_, usage| *usage != Usage::default());
        for (directory, found) in own {
            agree_usage(page, AuditCheck::UsageOwn, directory, Usage::default(), found);
        }
        for (directory, found) in below {
            agree_usage(page, AuditCheck::UsageBelow, directory, Usage::default(), found);
        }
        for (quota, row) in self.allowances.iter() {
            let (bytes, inodes) = used.remove(quota).unwrap_or_default();
            agree(page, AuditCheck::QuotaUsed, *quota, row.used_bytes, bytes);
            agree(page, AuditCheck::QuotaUsed, *quota, row.used_inodes, inodes);
        }
        for (quota, (bytes, inodes)) in used {
            agree(page, AuditCheck::QuotaUsed, quota, 0, bytes);
            agree(page, AuditCheck::QuotaUsed, quota, 0, inodes);
        }
    }

    /// Directories that are prepared to be born have their place in a quota already.
    pub(in super::super) fn births_prepared(&self) -> BTreeMap<InodeId, (u64, u64)> {
        let mut used: BTreeMap<InodeId, (u64, u64)> = BTreeMap::new();
        for (_, prepared) in self.prepared.iter() {
            for step in &prepared.steps {
                if let Step::CreateDirectory {
                    quota: Some(quota), ..
                } = step
                {
                    used.entry(*quota).or_default().1 += 1;
                }
            }
        }
        used
    }
}

/// Of two usages that differ, the numbers that do.
fn agree_usage(page: &mut AuditPage, check: AuditCheck, directory: InodeId, kept: Usage, found: Usage) {
    agree(page, check, directory, kept.bytes, found.bytes);
    agree(page, check, directory, kept.stored, found.stored);
    agree(page, check, directory, kept.inodes, found.inodes);
}
