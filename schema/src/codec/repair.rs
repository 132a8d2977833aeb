//! Repairs: rows that are to change, and what is to be planned.

use super::Result;
use super::audit::{read_fault, same_variants, write_fault};
use super::inode::{read_kind, write_kind};
use super::read::{self, Source};
use crate::generated::common_capnp as wire;
use crate::ids::InodeId;
use crate::inode::FileKind;
use crate::repair::{RepairCommand, RepairStep, RepairTable, RowEdit};

same_variants!(write_table, read_table, RepairTable {
    Inodes Entries Names Extents Attributes Blocks Ledger Sessions Usages Contributions Allowances Opens
    OpensByClient Leases Orphans DueOrphans TransactionLocks Delegations DelegationsByClient LockFiles
    LockLeases Counters
});

pub(super) fn write_repair(repair: &RepairCommand, mut builder: wire::repair_command::Builder<'_>) {
    builder.set_format(repair.format);
    builder.set_recount(repair.recount);
    let mut list = builder.init_edits(repair.edits.len() as u32);
    for (index, edit) in repair.edits.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        builder.set_table(write_table(edit.table));
        builder.set_key(&edit.key);
        builder.set_has_before(edit.before.is_some());
        builder.set_has_after(edit.after.is_some());
        builder.set_before(edit.before.as_deref().unwrap_or_default());
        builder.set_after(edit.after.as_deref().unwrap_or_default());
    }
}

pub(super) fn read_repair(
    reader: wire::repair_command::Reader<'_>,
    source: Source<'_>,
) -> Result<RepairCommand> {
    Ok(RepairCommand {
        format: reader.get_format(),
        recount: reader.get_recount(),
        edits: read::list(reader.get_edits(), |edit| {
            let bytes = |is_there: bool, data| is_there.then(|| source.bytes(data)).transpose();
            Ok(RowEdit {
                table: read_table(edit.get_table())?,
                key: source.bytes(edit.get_key())?,
                before: bytes(edit.get_has_before(), edit.get_before())?,
                after: bytes(edit.get_has_after(), edit.get_after())?,
            })
        })?,
    })
}

pub(super) fn write_step(step: &RepairStep, mut builder: wire::repair_step::Builder<'_>) {
    match step {
        RepairStep::Fault { fault, quarantine } => {
            builder.set_directory(quarantine.0);
            write_fault(fault, builder.init_fault());
        }
        RepairStep::DropEntry {
            directory,
            cookie,
            inode,
        } => {
            write_entry_place(&mut builder, *directory, *cookie, *inode);
            builder.set_drop_entry(());
        }
        RepairStep::EntryKind {
            directory,
            cookie,
            inode,
            kind,
        } => {
            write_entry_place(&mut builder, *directory, *cookie, *inode);
            builder.set_kind(write_kind(*kind));
            builder.set_entry_kind(());
        }
        RepairStep::NumberEntry {
            directory,
            inode,
            kind,
        } => {
            write_entry_place(&mut builder, *directory, 0, *inode);
            builder.set_kind(write_kind(*kind));
            builder.set_number_entry(());
        }
        RepairStep::Names {
            inode,
            directory,
            count,
        } => {
            write_entry_place(&mut builder, *directory, 0, *inode);
            builder.set_names(*count);
        }
        RepairStep::Tell { directory } => {
            builder.set_directory(directory.0);
            builder.set_tell(());
        }
        RepairStep::Contribution {
            directory,
            contributor,
            stays,
        } => {
            write_entry_place(&mut builder, *directory, 0, *contributor);
            builder.set_contribution(*stays);
        }
    }
}

fn write_entry_place(
    builder: &mut wire::repair_step::Builder<'_>,
    directory: InodeId,
    cookie: u64,
    inode: InodeId,
) {
    builder.set_directory(directory.0);
    builder.set_cookie(cookie);
    builder.set_inode(inode.0);
}

pub(super) fn read_step(reader: wire::repair_step::Reader<'_>) -> Result<RepairStep> {
    let (directory, inode) = (InodeId(reader.get_directory()), InodeId(reader.get_inode()));
    let cookie = reader.get_cookie();
    let kind: Result<FileKind> = read_kind(reader.get_kind());
    Ok(match reader.which()? {
        wire::repair_step::Fault(fault) => RepairStep::Fault {
            fault: read_fault(fault?)?,
            quarantine: directory,
        },
        wire::repair_step::DropEntry(()) => RepairStep::DropEntry {
            directory,
            cookie,
            inode,
        },
        wire::repair_step::EntryKind(()) => RepairStep::EntryKind {
            directory,
            cookie,
            inode,
            kind: kind?,
        },
        wire::repair_step::NumberEntry(()) => RepairStep::NumberEntry {
            directory,
            inode,
            kind: kind?,
        },
        wire::repair_step::Names(count) => RepairStep::Names {
            inode,
            directory,
            count,
        },
        wire::repair_step::Tell(()) => RepairStep::Tell { directory },
        wire::repair_step::Contribution(stays) => RepairStep::Contribution {
            directory,
            contributor: inode,
            stays,
        },
    })
}
