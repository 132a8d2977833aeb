//! Whether the rows of a partition agree with each other and with its counters, page by page or all at once.
//!
//! Every module here promises that of its own rows; this looks at them anew, at any moment. `bark doctor` asks
//! leaders for pages: each is made at one log entry, so what a page calls a fault is one, whatever goes on
//! meanwhile. Most rows hang on an inode and are ordered by it, so a page of inodes walks all these tables side
//! by side ([`files`]), at the price of a comparison a row. What is a sum over a whole table ([`sums`]) or small
//! ([`clients`]) is one page, refused when it would take too long. What lies in several partitions, as an entry
//! and its inode may, is told, not judged. The simulator and tests look at every page of every replica.
//!
//! Invariants:
//! - Looking changes nothing. A page looks at `limit` rows, at those of one directory more, or at
//!   AUDIT_SUM_ROWS_MAX.
//! - The pages of a part together look at every row of its tables.

mod blocks;
mod clients;
mod file_locks;
mod files;
mod sums;
#[cfg(test)]
mod tests;
mod usages;

use bark_schema::audit::{AuditCheck, AuditFault, AuditPage, AuditPart, AuditPosition, AuditQuery};
use bark_schema::ids::{BlockId, InodeId};
use bark_schema::limits::{AUDIT_ROWS_MAX, AUDIT_SUM_ROWS_MAX};
use bark_schema::operation::{Failure, Reply, UnixMillis};

use super::State;

pub(super) const PARTS: [AuditPart; 6] = [
    AuditPart::Files,
    AuditPart::Blocks,
    AuditPart::Usages,
    AuditPart::Counters,
    AuditPart::Clients,
    AuditPart::Locks,
];

impl State {
    pub(super) fn query_audit(&self, now_ms: UnixMillis, query: &AuditQuery) -> Result<Reply, Failure> {
        let mut page = match *query {
            AuditQuery::Page { part, from, limit } => {
                let limit = u64::from(limit.clamp(1, AUDIT_ROWS_MAX));
                self.audit_page(part, from, limit, AUDIT_SUM_ROWS_MAX)
            }
            AuditQuery::Entries { directory, inode } => self.audit_entries(directory, inode)?,
            AuditQuery::Names { inode } => self.names_of(inode)?,
            AuditQuery::Plan(step) => self.plan_repair(&step)?,
        };
        page.now_ms = now_ms;
        Ok(Reply::Audit(Box::new(page)))
    }

    /// Looks at everything. Errors: the first thing that does not agree. One of them is a defect, whatever was
    /// asked of the partition.
    pub fn audit(&self) -> Result<(), String> {
        for part in PARTS {
            let mut from = Some(AuditPosition::default());
            while let Some(position) = from {
                let page = self.audit_page(part, position, u64::from(AUDIT_ROWS_MAX), u64::MAX);
                if let Some(fault) = page.faults.first() {
                    return Err(format!("{fault:?}"));
                }
                from = page.next;
            }
        }
        self.audit_indexes()
    }

    pub(super) fn audit_page(
        &self,
        part: AuditPart,
        from: AuditPosition,
        limit: u64,
        sum_rows_max: u64,
    ) -> AuditPage {
        let mut page = AuditPage {
            applied: self.applied,
            ..AuditPage::default()
        };
        let summed = match part {
            AuditPart::Counters => self.summed_rows(),
            AuditPart::Clients => self.client_rows(),
            AuditPart::Locks => self.transaction_rows(),
            AuditPart::Files | AuditPart::Blocks | AuditPart::Usages => 0,
        };
        if summed > sum_rows_max {
            page.too_many = true;
            page.rows = summed;
            return page;
        }
        match part {
            AuditPart::Files => self.audit_files(from, limit, &mut page),
            AuditPart::Blocks => self.audit_blocks(from, limit, &mut page),
            AuditPart::Usages => self.audit_usages(from, limit, &mut page),
            AuditPart::Counters => self.audit_sums(&mut page),
            AuditPart::Clients => self.audit_clients(&mut page),
            AuditPart::Locks => self.audit_locks(&mut page),
        }
        page.rows += summed;
        page
    }
}

/// A fault of an inode, to which more may be added.
fn fault_of(check: AuditCheck, inode: InodeId, kept: u64, found: u64) -> AuditFault {
    AuditFault {
        check,
        inode,
        offset: 0,
        block: None,
        kept,
        found,
    }
}

fn fault_in(check: AuditCheck, block: BlockId, kept: u64, found: u64) -> AuditFault {
    AuditFault {
        block: Some(block),
        ..fault_of(check, InodeId(0), kept, found)
    }
}

/// Adds a fault unless both numbers are the same.
fn agree(page: &mut AuditPage, check: AuditCheck, inode: InodeId, kept: u64, found: u64) {
    if kept != found {
        page.faults.push(fault_of(check, inode, kept, found));
    }
}
