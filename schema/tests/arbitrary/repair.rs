//! Repairs and their plans.

use bark_schema::repair::*;

use super::Generator;
use super::audit::CHECKS;

impl Generator {
    pub(super) fn repair_command(&mut self) -> RepairCommand {
        RepairCommand {
            format: self.number() as u16,
            edits: RepairTable::ALL
                .map(|table| RowEdit {
                    table,
                    key: self.data(),
                    before: self.option(Self::data),
                    after: self.option(Self::data),
                })
                .into(),
            recount: self.flag(),
        }
    }

    pub(super) fn repair_step(&mut self) -> RepairStep {
        let (directory, inode, cookie) = (self.inode(), self.inode(), self.number());
        match self.next() % 7 {
            0 => {
                let check = CHECKS[self.number() as usize % CHECKS.len()];
                RepairStep::Fault {
                    fault: self.audit_fault(check),
                    quarantine: directory,
                }
            }
            1 => RepairStep::DropEntry {
                directory,
                cookie,
                inode,
            },
            2 => RepairStep::EntryKind {
                directory,
                cookie,
                inode,
                kind: self.kind(),
            },
            3 => RepairStep::NumberEntry {
                directory,
                inode,
                kind: self.kind(),
            },
            4 => RepairStep::Names {
                inode,
                directory,
                count: self.u32(),
            },
            5 => RepairStep::Tell { directory },
            _ => RepairStep::Contribution {
                directory,
                contributor: inode,
                stays: self.flag(),
            },
        }
    }
}
