//! Questions about all rows, and pages of them.

use bark_schema::audit::*;

use super::Generator;

pub(super) const CHECKS: [AuditCheck; 36] = [
    AuditCheck::EntryCount,
    AuditCheck::DirectoryLinks,
    AuditCheck::EntriesOfNothing,
    AuditCheck::EntriesOfGone,
    AuditCheck::NameCount,
    AuditCheck::CountedName,
    AuditCheck::OrphanStays,
    AuditCheck::InodeNumber,
    AuditCheck::XattrCount,
    AuditCheck::XattrsOfNothing,
    AuditCheck::ContentLength,
    AuditCheck::ExtentOverlap,
    AuditCheck::ExtentBeyondEnd,
    AuditCheck::ExtentOfNothing,
    AuditCheck::ExtentCount,
    AuditCheck::ExtentBytes,
    AuditCheck::ExtentBlock,
    AuditCheck::BlockReferences,
    AuditCheck::BlockInLedger,
    AuditCheck::BlockSize,
    AuditCheck::AllocatedBytes,
    AuditCheck::BlockBytes,
    AuditCheck::GarbageBytes,
    AuditCheck::PatchBytes,
    AuditCheck::FileBytes,
    AuditCheck::OrphanCount,
    AuditCheck::UsageOwn,
    AuditCheck::UsageBelow,
    AuditCheck::QuotaUsed,
    AuditCheck::OpenIndex,
    AuditCheck::OpenCount,
    AuditCheck::OrphanDue,
    AuditCheck::SessionReplies,
    AuditCheck::LockHolder,
    AuditCheck::Delegation,
    AuditCheck::FileLock,
];

impl Generator {
    pub(super) fn audit_query(&mut self) -> AuditQuery {
        let part = match self.choose("AuditQuery", 9) {
            0 => AuditPart::Files,
            1 => AuditPart::Blocks,
            2 => AuditPart::Usages,
            3 => AuditPart::Counters,
            4 => AuditPart::Clients,
            5 => AuditPart::Locks,
            7 => return AuditQuery::Plan(self.repair_step()),
            6 => return AuditQuery::Names { inode: self.inode() },
            _ => {
                return AuditQuery::Entries {
                    directory: self.inode(),
                    inode: self.inode(),
                };
            }
        };
        AuditQuery::Page {
            part,
            from: self.audit_position(),
            limit: self.u32(),
        }
    }

    pub(super) fn audit_page(&mut self) -> AuditPage {
        AuditPage {
            applied: self.number(),
            now_ms: self.number(),
            rows: self.number(),
            next: self.option(Self::audit_position),
            too_many: self.flag(),
            faults: CHECKS.map(|check| self.audit_fault(check)).into(),
            entries: self.list(Self::audit_name),
            names: self.list(Self::audit_name),
            blocks: self.list(|generator| AuditBlock {
                block: generator.block(),
                size: generator.u32(),
                checksum: generator.u32(),
                nodes: generator.list(Self::node),
            }),
            told: self.list(Self::usage_report),
            taken: self.list(Self::usage_report),
            transactions: self.list(|generator| AuditTransaction {
                transaction: generator.transaction(),
                primary: generator.partition(),
                since: generator.i64(),
            }),
            repair: self.repair_command(),
        }
    }

    fn audit_position(&mut self) -> AuditPosition {
        AuditPosition {
            high: self.number(),
            low: self.number(),
        }
    }

    fn audit_name(&mut self) -> AuditName {
        AuditName {
            inode: self.inode(),
            directory: self.inode(),
            kind: self.kind(),
            count: self.u32(),
            cookie: self.number(),
        }
    }

    pub(super) fn audit_fault(&mut self, check: AuditCheck) -> AuditFault {
        AuditFault {
            check,
            inode: self.inode(),
            offset: self.number(),
            block: self.option(Self::block),
            kept: self.number(),
            found: self.number(),
        }
    }
}
