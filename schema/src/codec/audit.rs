//! Looking at all rows: questions about pages of them, and the pages.

use super::inode::{read_kind, write_kind};
use super::read::Source;
use super::repair::{read_repair, read_step, write_repair, write_step};
use super::usage::{read_reports, write_reports};
use super::write::{write_block_id, write_nodes, write_transaction_id};
use super::{Result, read};
use crate::audit::{
    AuditBlock, AuditCheck, AuditFault, AuditName, AuditPage, AuditPart, AuditPosition, AuditQuery,
    AuditTransaction,
};
use crate::generated::common_capnp as wire;
use crate::ids::{InodeId, PartitionId};

type NameList<'a> = capnp::struct_list::Builder<'a, wire::audit_name::Owned>;
type NameListReader<'a> = capnp::struct_list::Reader<'a, wire::audit_name::Owned>;

/// The same variants on both sides.
macro_rules! same_variants {
    ($write:ident, $read:ident, $name:ident { $($variant:ident)* }) => {
        fn $write(value: $name) -> wire::$name {
            match value {
                $( $name::$variant => wire::$name::$variant, )*
            }
        }
        fn $read(value: std::result::Result<wire::$name, capnp::NotInSchema>) -> Result<$name> {
            Ok(match value? {
                $( wire::$name::$variant => $name::$variant, )*
            })
        }
    };
}
pub(super) use same_variants;

same_variants!(write_part, read_part, AuditPart { Files Blocks Usages Counters Clients Locks });
same_variants!(write_check, read_check, AuditCheck {
    EntryCount DirectoryLinks EntriesOfNothing EntriesOfGone NameCount CountedName OrphanStays InodeNumber
    XattrCount XattrsOfNothing ContentLength ExtentOverlap ExtentBeyondEnd ExtentOfNothing ExtentCount
    ExtentBytes ExtentBlock BlockReferences BlockInLedger BlockSize AllocatedBytes BlockBytes GarbageBytes
    PatchBytes FileBytes OrphanCount UsageOwn UsageBelow QuotaUsed OpenIndex OpenCount OrphanDue
    SessionReplies LockHolder Delegation FileLock
});

pub fn write_audit_query(query: &AuditQuery, mut builder: wire::audit_query::Builder<'_>) {
    match query {
        AuditQuery::Page { part, from, limit } => {
            let mut group = builder.init_page();
            group.set_part(write_part(*part));
            group.set_from_high(from.high);
            group.set_from_low(from.low);
            group.set_limit(*limit);
        }
        AuditQuery::Names { inode } => builder.set_names(inode.0),
        AuditQuery::Entries { directory, inode } => {
            let mut group = builder.init_entries();
            group.set_directory(directory.0);
            group.set_inode(inode.0);
        }
        AuditQuery::Plan(step) => write_step(step, builder.init_plan()),
    }
}

pub fn read_audit_query(reader: wire::audit_query::Reader<'_>) -> Result<AuditQuery> {
    Ok(match reader.which()? {
        wire::audit_query::Page(group) => AuditQuery::Page {
            part: read_part(group.get_part())?,
            from: AuditPosition {
                high: group.get_from_high(),
                low: group.get_from_low(),
            },
            limit: group.get_limit(),
        },
        wire::audit_query::Names(inode) => AuditQuery::Names {
            inode: InodeId(inode),
        },
        wire::audit_query::Entries(group) => AuditQuery::Entries {
            directory: InodeId(group.get_directory()),
            inode: InodeId(group.get_inode()),
        },
        wire::audit_query::Plan(step) => AuditQuery::Plan(read_step(step?)?),
    })
}

pub(super) fn write_audit_page(page: &AuditPage, mut builder: wire::audit_page::Builder<'_>) {
    builder.set_applied(page.applied);
    builder.set_now_ms(page.now_ms);
    builder.set_rows(page.rows);
    builder.set_has_next(page.next.is_some());
    let next = page.next.unwrap_or_default();
    builder.set_next_high(next.high);
    builder.set_next_low(next.low);
    builder.set_too_many(page.too_many);
    let mut faults = builder.reborrow().init_faults(page.faults.len() as u32);
    for (index, fault) in page.faults.iter().enumerate() {
        write_fault(fault, faults.reborrow().get(index as u32));
    }
    write_names(
        &page.entries,
        builder.reborrow().init_entries(page.entries.len() as u32),
    );
    write_names(
        &page.names,
        builder.reborrow().init_names(page.names.len() as u32),
    );
    let mut blocks = builder.reborrow().init_blocks(page.blocks.len() as u32);
    for (index, block) in page.blocks.iter().enumerate() {
        let mut builder = blocks.reborrow().get(index as u32);
        write_block_id(&block.block, builder.reborrow().init_block());
        builder.set_size(block.size);
        builder.set_checksum(block.checksum);
        write_nodes(&block.nodes, builder.init_nodes(block.nodes.len() as u32));
    }
    write_reports(&page.told, builder.reborrow().init_told(page.told.len() as u32));
    write_reports(
        &page.taken,
        builder.reborrow().init_taken(page.taken.len() as u32),
    );
    write_repair(&page.repair, builder.reborrow().init_repair());
    let mut transactions = builder.init_transactions(page.transactions.len() as u32);
    for (index, transaction) in page.transactions.iter().enumerate() {
        let mut builder = transactions.reborrow().get(index as u32);
        builder.set_primary(transaction.primary.0);
        builder.set_since(transaction.since);
        write_transaction_id(&transaction.transaction, builder.init_transaction());
    }
}

pub(super) fn read_audit_page(reader: wire::audit_page::Reader<'_>) -> Result<AuditPage> {
    Ok(AuditPage {
        applied: reader.get_applied(),
        now_ms: reader.get_now_ms(),
        rows: reader.get_rows(),
        next: reader.get_has_next().then(|| AuditPosition {
            high: reader.get_next_high(),
            low: reader.get_next_low(),
        }),
        too_many: reader.get_too_many(),
        faults: read::list(reader.get_faults(), read_fault)?,
        entries: read_names(reader.get_entries())?,
        names: read_names(reader.get_names())?,
        blocks: read::list(reader.get_blocks(), |block| {
            Ok(AuditBlock {
                block: read::block_id(block.get_block()?),
                size: block.get_size(),
                checksum: block.get_checksum(),
                nodes: read::nodes(block.get_nodes())?,
            })
        })?,
        told: read_reports(reader.get_told())?,
        taken: read_reports(reader.get_taken())?,
        transactions: read::list(reader.get_transactions(), |transaction| {
            Ok(AuditTransaction {
                transaction: read::transaction_id(transaction.get_transaction())?,
                primary: PartitionId(transaction.get_primary()),
                since: transaction.get_since(),
            })
        })?,
        repair: read_repair(reader.get_repair()?, Source::Foreign)?,
    })
}

fn write_names(names: &[AuditName], mut list: NameList<'_>) {
    for (index, name) in names.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        builder.set_inode(name.inode.0);
        builder.set_directory(name.directory.0);
        builder.set_kind(write_kind(name.kind));
        builder.set_count(name.count);
        builder.set_cookie(name.cookie);
    }
}

fn read_names(list: capnp::Result<NameListReader<'_>>) -> Result<Vec<AuditName>> {
    read::list(list, |name| {
        Ok(AuditName {
            inode: InodeId(name.get_inode()),
            directory: InodeId(name.get_directory()),
            kind: read_kind(name.get_kind())?,
            count: name.get_count(),
            cookie: name.get_cookie(),
        })
    })
}

pub(super) fn write_fault(fault: &AuditFault, mut builder: wire::audit_fault::Builder<'_>) {
    builder.set_check(write_check(fault.check));
    builder.set_inode(fault.inode.0);
    builder.set_offset(fault.offset);
    builder.set_kept(fault.kept);
    builder.set_found(fault.found);
    if let Some(block) = &fault.block {
        write_block_id(block, builder.init_block());
    }
}

pub(super) fn read_fault(reader: wire::audit_fault::Reader<'_>) -> Result<AuditFault> {
    Ok(AuditFault {
        check: read_check(reader.get_check())?,
        inode: InodeId(reader.get_inode()),
        offset: reader.get_offset(),
        block: match reader.has_block() {
            true => Some(read::block_id(reader.get_block()?)),
            false => None,
        },
        kept: reader.get_kept(),
        found: reader.get_found(),
    })
}
