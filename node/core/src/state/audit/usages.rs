//! What directories told of their sizes, and what directories here were told.
//!
//! A row that is known to have been taken is told with its version: the directory it went to must have the same. What only
//! says here which quota a directory of another partition is under was never told.

use bark_schema::audit::{AuditPage, AuditPosition};
use bark_schema::ids::InodeId;
use bark_schema::usage::UsageReport;

use super::super::State;
use super::super::inode::is_at_home;

impl State {
    /// Position: `high` is a directory, `low` a contributor to it; 0: its own row comes first.
    pub(super) fn audit_usages(&self, from: AuditPosition, limit: u64, page: &mut AuditPage) {
        let first = InodeId(from.high);
        let mut own = self.usages.range(first..).peekable();
        let mut taken = self.contributions.range((first, InodeId(from.low))..).peekable();
        if from.low != 0 {
            own.next_if(|(directory, _)| **directory == first);
        }
        loop {
            let next_taken = taken.peek().map(|(key, _)| **key);
            let next_own = own.peek().map(|(directory, _)| (**directory, InodeId(0)));
            let Some(next) = next_taken.into_iter().chain(next_own).min() else {
                return;
            };
            if page.rows >= limit {
                page.next = Some(AuditPosition {
                    high: next.0.0,
                    low: next.1.0,
                });
                return;
            }
            page.rows += 1;
            if Some(next) == next_own {
                if let Some((directory, row)) = own.next()
                    && row.version == row.reported
                    && (row.version != 0 || is_at_home(*directory, self.partition))
                    && let Some(report) = self.usage_told(*directory, row)
                {
                    page.told.push(report);
                }
            } else if let Some(((directory, contributor), row)) = taken.next() {
                page.taken.push(UsageReport {
                    directory: *directory,
                    contributor: *contributor,
                    usage: row.usage,
                    version: row.version,
                    quota: None,
                });
            }
        }
    }
}
