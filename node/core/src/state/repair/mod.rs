//! Changing rows that an audit found wrong, if they still are what they were when the change was planned.
//!
//! Previous in the flow: [`plan`] says which rows would change, whoever repairs writes them into a journal, and sends
//! them back as a command. A command is as good as its plan: rows that changed meanwhile refuse it, whole. The same rows
//! the other way round take it back, under the same condition.
//!
//! What is a sum of rows follows them as it does for every other change, so that a plan names only what is wrong. Of an
//! inode and of what a directory takes, what others change all the time and nothing else depends on (times, versions)
//! is neither compared nor changed: otherwise nothing in use could be repaired.
//!
//! The price: whoever may repair may write any of these rows. It is for operators, like taking a node in.
//!
//! Invariants:
//! - Either all rows of a command change or none does, and a replica's answer depends on replicated state alone.
//! - What a transaction holds is not changed, nor what a client has for itself.
//! - Bytes of any kind are refused, never believed to be rows.

mod apply;
mod fault;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bark_schema::ids::InodeId;
use bark_schema::limits::REPAIR_EDITS_MAX;
use bark_schema::operation::{Failure, Refusal, Reply};
use bark_schema::repair::{RepairCommand, RepairTable, RowEdit};

use super::State;
use super::codec::{FORMAT_VERSION, Reader, Row};
use super::dentry::DentryKey;
use super::inode::{Body, Inode};
#[cfg(test)]
pub(super) use tests::check_repair;

/// The rows of the table of counters.
const NEXT_INODE: u8 = 0;
const FILE_BYTES: u8 = 1;

impl State {
    pub(super) fn repair(&mut self, command: &RepairCommand) -> Result<Reply, Failure> {
        if command.recount {
            // Of sums that replicas do not compare: they may be wrong on one node alone, so nothing is answered.
            self.recount();
        }
        if command.edits.is_empty() {
            return Ok(Reply::Done);
        }
        if command.format != FORMAT_VERSION {
            let sentence = format!(
                "the rows are of format {}, this program has format {FORMAT_VERSION}",
                command.format
            );
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        if command.edits.len() > REPAIR_EDITS_MAX {
            return Err(invalid("too many rows in one repair"));
        }
        let mut places = BTreeSet::new();
        for edit in &command.edits {
            if !places.insert((edit.table, &edit.key)) {
                return Err(invalid("a row is changed twice by one repair"));
            }
            self.check_edit(edit)?;
        }
        for edit in &command.edits {
            self.apply_edit(edit);
        }
        Ok(Reply::Done)
    }

    /// The directories whose delegations cover what a repair changes.
    pub(super) fn each_repaired(
        &self,
        command: &RepairCommand,
        check: &mut dyn FnMut(InodeId) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for edit in &command.edits {
            match edit.table {
                RepairTable::Inodes => self.each_cover(whole(&edit.key)?, check)?,
                RepairTable::Entries => {
                    let key: DentryKey = whole(&edit.key)?;
                    check(key.directory)?;
                }
                RepairTable::Names => {
                    let (inode, directory): (InodeId, InodeId) = whole(&edit.key)?;
                    check(directory)?;
                    self.each_cover(inode, check)?;
                }
                RepairTable::Extents | RepairTable::Attributes => {
                    let inode = InodeId::decode(&mut Reader::new(&edit.key)).map_err(|_| not_a_row())?;
                    self.each_cover(inode, check)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What others have to agree with about an inode.
fn skeleton(row: &Inode) -> Inode {
    let body = match &row.body {
        Body::Inline(_) => Body::Inline(Box::default()),
        body => body.clone(),
    };
    Inode {
        mode: 0,
        policy: Inode::root().policy,
        owner: 0,
        group: 0,
        accessed: 0,
        modified: 0,
        changed: 0,
        version: 0,
        body,
        ..*row
    }
}

/// A row that is all there is in these bytes.
fn whole<R: Row>(bytes: &[u8]) -> Result<R, Failure> {
    let mut reader = Reader::new(bytes);
    match R::decode(&mut reader) {
        Ok(row) if reader.is_empty() => Ok(row),
        _ => Err(not_a_row()),
    }
}

fn whole_or_none<R: Row>(bytes: Option<&[u8]>) -> Result<Option<R>, Failure> {
    bytes.map(whole).transpose()
}

fn encoded<R: Row>(row: &R) -> bytes::Bytes {
    let mut out = Vec::new();
    row.encode(&mut out);
    out.into()
}

fn edit_of<K: Row, V: Row>(table: RepairTable, key: &K, before: Option<&V>, after: Option<&V>) -> RowEdit {
    RowEdit {
        table,
        key: encoded(key),
        before: before.map(encoded),
        after: after.map(encoded),
    }
}

fn changed_meanwhile() -> Failure {
    Failure::refused(Refusal::Conflict, "a row is no longer what it was")
}

fn not_a_row() -> Failure {
    invalid("not the bytes of a row")
}

fn invalid(sentence: &str) -> Failure {
    Failure::refused(Refusal::InvalidArgument, sentence)
}
