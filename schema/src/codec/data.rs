//! Changes of and questions about the bytes of files, and what a file's map carries.

use super::Result;
use super::inode::{read_attribute_change, write_attribute_change};
use super::read::{self, Source, required};
use super::reply::{read_extent, write_extents};
use super::write::{write_block_id, write_nodes};
use crate::data::{
    Allocation, CopyChange, DataCommand, DataQuery, FileMap, FileUpdate, NewBytes, NewPiece, PackedBlock,
    PackedFrom, PackedPiece, Patch, SeekTarget,
};
use crate::generated::common_capnp as wire;
use crate::ids::{BlockId, InodeId, NodeNumber};
use crate::operation::{AttributeChange, Content};

pub fn write_data_command(command: &DataCommand, builder: wire::data_command::Builder<'_>) {
    match command {
        DataCommand::Write { inode, offset, data } => {
            let mut group = builder.init_write();
            group.set_inode(inode.0);
            group.set_offset(offset.unwrap_or(0));
            group.set_append(offset.is_none());
            group.set_data(data);
        }
        DataCommand::Allocate {
            inode,
            offset,
            length,
            how,
            keep_size,
        } => {
            let mut group = builder.init_allocate();
            group.set_inode(inode.0);
            group.set_offset(*offset);
            group.set_length(*length);
            group.set_how(match how {
                Allocation::Reserve => wire::Allocation::Reserve,
                Allocation::PunchHole => wire::Allocation::PunchHole,
                Allocation::ZeroRange => wire::Allocation::ZeroRange,
            });
            group.set_keep_size(*keep_size);
        }
        DataCommand::CopyRange {
            from,
            from_offset,
            to,
            to_offset,
            length,
        } => {
            let mut group = builder.init_copy_range();
            group.set_from(from.0);
            group.set_from_offset(*from_offset);
            group.set_to(to.0);
            group.set_to_offset(*to_offset);
            group.set_length(*length);
        }
        DataCommand::Repack { block, pieces } => {
            let mut group = builder.init_repack();
            write_packed_block(block, group.reborrow().init_block());
            let mut list = group.init_pieces(pieces.len() as u32);
            for (index, piece) in pieces.iter().enumerate() {
                write_packed_piece(piece, list.reborrow().get(index as u32));
            }
        }
        DataCommand::CondemnBlocks { node, blocks } => {
            let mut group = builder.init_condemn_blocks();
            group.set_node(node.0);
            write_block_ids(blocks, group.init_blocks(blocks.len() as u32));
        }
        DataCommand::AbandonBlocks { blocks, nodes } => {
            let mut group = builder.init_abandon_blocks();
            write_block_ids(blocks, group.reborrow().init_blocks(blocks.len() as u32));
            write_nodes(nodes, group.init_nodes(nodes.len() as u32));
        }
        DataCommand::ForgetBlocks { blocks } => {
            write_block_ids(blocks, builder.init_forget_blocks(blocks.len() as u32));
        }
        DataCommand::RecordCopies { changes } => {
            let mut list = builder.init_record_copies(changes.len() as u32);
            for (index, change) in changes.iter().enumerate() {
                let mut builder = list.reborrow().get(index as u32);
                write_block_id(&change.block, builder.reborrow().init_block());
                builder.set_node(change.node.0);
                builder.set_has(change.has);
            }
        }
        DataCommand::Update(update) => write_update(update, builder.init_update()),
    }
}

fn write_update(update: &FileUpdate, mut builder: wire::data_command::update::Builder<'_>) {
    builder.set_inode(update.inode.0);
    builder.set_drops_privileges(update.drops_privileges);
    builder.set_has_written(update.written.is_some());
    builder.set_written(update.written.unwrap_or(0));
    builder.set_has_changed(update.changed.is_some());
    builder.set_changed(update.changed.unwrap_or(0));
    if update.change != AttributeChange::default() {
        write_attribute_change(&update.change, builder.reborrow().init_change());
    }
    let mut bytes = builder.init_bytes();
    match &update.bytes {
        NewBytes::Nothing => bytes.set_nothing(()),
        NewBytes::Pieces(pieces) => match &pieces[..] {
            [NewPiece { offset, data }] => {
                let mut group = bytes.init_bytes();
                group.set_offset(*offset);
                group.set_data(data);
            }
            pieces => {
                let mut list = bytes.init_pieces(pieces.len() as u32);
                for (index, piece) in pieces.iter().enumerate() {
                    let mut builder = list.reborrow().get(index as u32);
                    builder.set_offset(piece.offset);
                    builder.set_data(&piece.data);
                }
            }
        },
        NewBytes::Blocks { extents, size } => {
            let mut group = bytes.init_blocks();
            group.set_size(*size);
            write_extents(extents, group.init_extents(extents.len() as u32));
        }
    }
}

fn read_update(reader: wire::data_command::update::Reader<'_>, source: Source<'_>) -> Result<FileUpdate> {
    Ok(FileUpdate {
        inode: InodeId(reader.get_inode()),
        bytes: match reader.get_bytes()?.which()? {
            wire::new_bytes::Nothing(()) => NewBytes::Nothing,
            wire::new_bytes::Bytes(group) => {
                NewBytes::at(group.get_offset(), source.bytes(group.get_data())?)
            }
            wire::new_bytes::Pieces(pieces) => NewBytes::Pieces(read::list(pieces, |piece| {
                Ok(NewPiece {
                    offset: piece.get_offset(),
                    data: source.bytes(piece.get_data())?,
                })
            })?),
            wire::new_bytes::Blocks(group) => NewBytes::Blocks {
                extents: read::list(group.get_extents(), read_extent)?,
                size: group.get_size(),
            },
        },
        change: read_attribute_change(reader.get_change()?)?,
        drops_privileges: reader.get_drops_privileges(),
        written: reader.get_has_written().then(|| reader.get_written()),
        changed: reader.get_has_changed().then(|| reader.get_changed()),
    })
}

pub fn read_data_command(reader: wire::data_command::Reader<'_>, source: Source<'_>) -> Result<DataCommand> {
    Ok(match reader.which()? {
        wire::data_command::Write(group) => DataCommand::Write {
            inode: InodeId(group.get_inode()),
            offset: (!group.get_append()).then(|| group.get_offset()),
            data: source.bytes(group.get_data())?,
        },
        wire::data_command::Allocate(group) => DataCommand::Allocate {
            inode: InodeId(group.get_inode()),
            offset: group.get_offset(),
            length: group.get_length(),
            how: match group.get_how()? {
                wire::Allocation::Reserve => Allocation::Reserve,
                wire::Allocation::PunchHole => Allocation::PunchHole,
                wire::Allocation::ZeroRange => Allocation::ZeroRange,
            },
            keep_size: group.get_keep_size(),
        },
        wire::data_command::CopyRange(group) => DataCommand::CopyRange {
            from: InodeId(group.get_from()),
            from_offset: group.get_from_offset(),
            to: InodeId(group.get_to()),
            to_offset: group.get_to_offset(),
            length: group.get_length(),
        },
        wire::data_command::Repack(group) => {
            required(group.has_block(), "packed block")?;
            DataCommand::Repack {
                block: read_packed_block(group.get_block()?)?,
                pieces: read::list(group.get_pieces(), read_packed_piece)?,
            }
        }
        wire::data_command::CondemnBlocks(group) => DataCommand::CondemnBlocks {
            node: NodeNumber(group.get_node()),
            blocks: read_block_ids(group.get_blocks())?,
        },
        wire::data_command::AbandonBlocks(group) => DataCommand::AbandonBlocks {
            blocks: read_block_ids(group.get_blocks())?,
            nodes: read::nodes(group.get_nodes())?,
        },
        wire::data_command::ForgetBlocks(blocks) => DataCommand::ForgetBlocks {
            blocks: read_block_ids(blocks)?,
        },
        wire::data_command::RecordCopies(changes) => DataCommand::RecordCopies {
            changes: read::list(changes, |change| {
                Ok(CopyChange {
                    block: read::block_id(change.get_block()?),
                    node: NodeNumber(change.get_node()),
                    has: change.get_has(),
                })
            })?,
        },
        wire::data_command::Update(group) => DataCommand::Update(Box::new(read_update(group, source)?)),
    })
}

pub fn write_data_query(query: &DataQuery, builder: wire::data_query::Builder<'_>) {
    match query {
        DataQuery::Seek {
            inode,
            offset,
            target,
        } => {
            let mut group = builder.init_seek();
            group.set_inode(inode.0);
            group.set_offset(*offset);
            group.set_target(match target {
                SeekTarget::Data => wire::SeekTarget::Data,
                SeekTarget::Hole => wire::SeekTarget::Hole,
            });
        }
        DataQuery::UnknownBlocks { blocks } => {
            write_block_ids(blocks, builder.init_unknown_blocks(blocks.len() as u32));
        }
        DataQuery::Ledger { after, limit } => {
            let mut group = builder.init_ledger();
            group.set_limit(*limit);
            group.set_has_after(after.is_some());
            if let Some(after) = after {
                write_block_id(after, group.init_after());
            }
        }
        DataQuery::BlockFiles { blocks, from } => {
            let mut group = builder.init_block_files();
            group.set_inode(from.0.0);
            group.set_offset(from.1);
            write_block_ids(blocks, group.init_blocks(blocks.len() as u32));
        }
    }
}

pub fn read_data_query(reader: wire::data_query::Reader<'_>) -> Result<DataQuery> {
    Ok(match reader.which()? {
        wire::data_query::Seek(group) => DataQuery::Seek {
            inode: InodeId(group.get_inode()),
            offset: group.get_offset(),
            target: match group.get_target()? {
                wire::SeekTarget::Data => SeekTarget::Data,
                wire::SeekTarget::Hole => SeekTarget::Hole,
            },
        },
        wire::data_query::UnknownBlocks(blocks) => DataQuery::UnknownBlocks {
            blocks: read_block_ids(blocks)?,
        },
        wire::data_query::Ledger(group) => DataQuery::Ledger {
            after: match group.get_has_after() {
                true => Some(read::block_id(group.get_after()?)),
                false => None,
            },
            limit: group.get_limit(),
        },
        wire::data_query::BlockFiles(group) => DataQuery::BlockFiles {
            blocks: read_block_ids(group.get_blocks())?,
            from: (InodeId(group.get_inode()), group.get_offset()),
        },
    })
}

fn write_packed_block(block: &PackedBlock, mut builder: wire::packed_block::Builder<'_>) {
    write_block_id(&block.block, builder.reborrow().init_block());
    builder.set_size(block.size);
    builder.set_checksum(block.checksum);
    write_nodes(&block.nodes, builder.init_nodes(block.nodes.len() as u32));
}

fn read_packed_block(reader: wire::packed_block::Reader<'_>) -> Result<PackedBlock> {
    Ok(PackedBlock {
        block: read::block_id(reader.get_block()?),
        size: reader.get_size(),
        checksum: reader.get_checksum(),
        nodes: read::nodes(reader.get_nodes())?,
    })
}

fn write_packed_piece(piece: &PackedPiece, mut builder: wire::packed_piece::Builder<'_>) {
    builder.set_inode(piece.inode.0);
    builder.set_offset(piece.offset);
    builder.set_length(piece.length);
    builder.set_block_offset(piece.block_offset);
    let mut from = builder.init_from();
    match piece.from {
        PackedFrom::Patch { written } => from.set_patch(written),
        PackedFrom::Block { block, block_offset } => {
            let mut group = from.init_block();
            write_block_id(&block, group.reborrow().init_block());
            group.set_block_offset(block_offset);
        }
    }
}

fn read_packed_piece(reader: wire::packed_piece::Reader<'_>) -> Result<PackedPiece> {
    Ok(PackedPiece {
        inode: InodeId(reader.get_inode()),
        offset: reader.get_offset(),
        length: reader.get_length(),
        block_offset: reader.get_block_offset(),
        from: match reader.get_from().which()? {
            wire::packed_piece::from::Patch(written) => PackedFrom::Patch { written },
            wire::packed_piece::from::Block(group) => PackedFrom::Block {
                block: read::block_id(group.get_block()?),
                block_offset: group.get_block_offset(),
            },
        },
    })
}

pub(super) fn write_block_ids(
    blocks: &[BlockId],
    mut list: capnp::struct_list::Builder<'_, wire::block_id::Owned>,
) {
    for (index, block) in blocks.iter().enumerate() {
        write_block_id(block, list.reborrow().get(index as u32));
    }
}

pub(super) fn read_block_ids(
    list: capnp::Result<capnp::struct_list::Reader<'_, wire::block_id::Owned>>,
) -> Result<Vec<BlockId>> {
    read::list(list, |block| Ok(read::block_id(block)))
}

pub(super) fn write_content(content: &Content, mut builder: wire::content::Builder<'_>) {
    match content {
        Content::Inline(data) => builder.set_inline(data),
        Content::Mapped(map) => {
            let extents = builder.reborrow().init_extents(map.extents.len() as u32);
            write_extents(&map.extents, extents);
            let mut patches = builder.reborrow().init_patches(map.patches.len() as u32);
            for (index, patch) in map.patches.iter().enumerate() {
                let mut builder = patches.reborrow().get(index as u32);
                builder.set_offset(patch.offset);
                builder.set_data(&patch.data);
            }
            builder.set_known_until(map.known_until);
        }
    }
}

pub(super) fn read_content(reader: wire::content::Reader<'_>, source: Source<'_>) -> Result<Content> {
    Ok(match reader.which()? {
        wire::content::Inline(data) => Content::Inline(source.bytes(data)?),
        wire::content::Extents(extents) => Content::Mapped(FileMap {
            extents: read::list(extents, read_extent)?,
            patches: read::list(reader.get_patches(), |patch| {
                Ok(Patch {
                    offset: patch.get_offset(),
                    data: source.bytes(patch.get_data())?,
                })
            })?,
            known_until: reader.get_known_until(),
        }),
    })
}
