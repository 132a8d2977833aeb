//! What operators ask of the blocks on nodes.

use super::Result;
use super::read;
use super::write::{write_block_id, write_nodes};
use crate::generated::common_capnp as wire;
use crate::ids::{InodeId, NodeNumber};
use crate::upkeep::{BadCopy, BlockFiles, CopyHealth, LedgerRow, Orphan, Orphans, ScrubStatus};

pub fn write_scrub_status(status: &ScrubStatus, mut builder: wire::scrub_status::Builder<'_>) {
    builder.set_node(status.node.0);
    builder.set_cycle(status.cycle);
    builder.set_running(status.running);
    builder.set_checked_blocks(status.checked_blocks);
    builder.set_checked_bytes(status.checked_bytes);
    builder.set_total_bytes(status.total_bytes);
    builder.set_bad_count(status.bad_count);
    let mut list = builder.init_bad(status.bad.len() as u32);
    for (index, bad) in status.bad.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        write_block_id(&bad.block, builder.reborrow().init_block());
        builder.set_segment(bad.segment);
        builder.set_offset(bad.offset);
        builder.set_inode(bad.inode.map_or(0, |inode| inode.0));
        builder.set_health(match bad.health {
            CopyHealth::Waiting => wire::CopyHealth::Waiting,
            CopyHealth::Healed => wire::CopyHealth::Healed,
            CopyHealth::Unneeded => wire::CopyHealth::Unneeded,
        });
    }
}

pub(super) fn read_scrub_status(reader: wire::scrub_status::Reader<'_>) -> Result<ScrubStatus> {
    Ok(ScrubStatus {
        node: NodeNumber(reader.get_node()),
        cycle: reader.get_cycle(),
        running: reader.get_running(),
        checked_blocks: reader.get_checked_blocks(),
        checked_bytes: reader.get_checked_bytes(),
        total_bytes: reader.get_total_bytes(),
        bad_count: reader.get_bad_count(),
        bad: read::list(reader.get_bad(), |bad| {
            Ok(BadCopy {
                block: read::block_id(bad.get_block()?),
                segment: bad.get_segment(),
                offset: bad.get_offset(),
                inode: Some(InodeId(bad.get_inode())).filter(|inode| inode.0 != 0),
                health: match bad.get_health()? {
                    wire::CopyHealth::Waiting => CopyHealth::Waiting,
                    wire::CopyHealth::Healed => CopyHealth::Healed,
                    wire::CopyHealth::Unneeded => CopyHealth::Unneeded,
                },
            })
        })?,
    })
}

pub fn write_orphans(orphans: &Orphans, mut builder: wire::orphans::Builder<'_>) {
    builder.set_node(orphans.node.0);
    builder.set_count(orphans.count);
    builder.set_bytes(orphans.bytes);
    builder.set_given_up(orphans.given_up);
    let mut list = builder.init_orphans(orphans.orphans.len() as u32);
    for (index, orphan) in orphans.orphans.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        write_block_id(&orphan.block, builder.reborrow().init_block());
        builder.set_size(orphan.size);
        builder.set_age_ms(orphan.age_ms);
        builder.set_is_old(orphan.is_old);
    }
}

pub(super) fn read_orphans(reader: wire::orphans::Reader<'_>) -> Result<Orphans> {
    Ok(Orphans {
        node: NodeNumber(reader.get_node()),
        count: reader.get_count(),
        bytes: reader.get_bytes(),
        given_up: reader.get_given_up(),
        orphans: read::list(reader.get_orphans(), |orphan| {
            Ok(Orphan {
                block: read::block_id(orphan.get_block()?),
                size: orphan.get_size(),
                age_ms: orphan.get_age_ms(),
                is_old: orphan.get_is_old(),
            })
        })?,
    })
}

pub(super) fn write_ledger(rows: &[LedgerRow], more: bool, mut builder: wire::ledger::Builder<'_>) {
    builder.set_more(more);
    let mut list = builder.init_rows(rows.len() as u32);
    for (index, row) in rows.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        write_block_id(&row.block, builder.reborrow().init_block());
        builder.set_size(row.size);
        builder.set_since(row.since);
        builder.set_condemned(row.condemned);
        write_nodes(&row.nodes, builder.init_nodes(row.nodes.len() as u32));
    }
}

pub(super) fn read_ledger(reader: wire::ledger::Reader<'_>) -> Result<(Vec<LedgerRow>, bool)> {
    let rows = read::list(reader.get_rows(), |row| {
        Ok(LedgerRow {
            block: read::block_id(row.get_block()?),
            size: row.get_size(),
            since: row.get_since(),
            condemned: row.get_condemned(),
            nodes: read::nodes(row.get_nodes())?,
        })
    })?;
    Ok((rows, reader.get_more()))
}

pub(super) fn write_block_files(files: &BlockFiles, mut builder: wire::block_files::Builder<'_>) {
    builder.set_more(files.next.is_some());
    let (inode, offset) = files.next.unwrap_or((InodeId(0), 0));
    builder.set_inode(inode.0);
    builder.set_offset(offset);
    let mut list = builder.init_found(files.found.len() as u32);
    for (index, (block, inode)) in files.found.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        write_block_id(block, builder.reborrow().init_block());
        builder.set_inode(inode.0);
    }
}

pub(super) fn read_block_files(reader: wire::block_files::Reader<'_>) -> Result<BlockFiles> {
    let next = (InodeId(reader.get_inode()), reader.get_offset());
    Ok(BlockFiles {
        found: read::list(reader.get_found(), |found| {
            Ok((read::block_id(found.get_block()?), InodeId(found.get_inode())))
        })?,
        next: reader.get_more().then_some(next),
    })
}
