//! Writing the parts all messages are made of: entries, lists, ids. `read` has their readers.

use capnp::data_list;

use crate::generated::common_capnp as wire;
use crate::ids::{BlockId, InodeId, NodeNumber, TransactionId};
use crate::operation::{Entry, RequestId};

pub(super) fn write_entry(entry: &Entry, builder: wire::entry::Builder<'_>) {
    write_entry_parts(entry.directory, &entry.name, builder);
}

pub(super) fn write_entry_parts(directory: InodeId, name: &[u8], mut builder: wire::entry::Builder<'_>) {
    builder.set_directory(directory.0);
    builder.set_name(name);
}

pub(super) fn write_keys(keys: &[bytes::Bytes], mut list: data_list::Builder<'_>) {
    for (index, key) in keys.iter().enumerate() {
        list.set(index as u32, key);
    }
}

pub(super) fn write_inodes(inodes: &[InodeId], mut list: capnp::primitive_list::Builder<'_, u64>) {
    for (index, inode) in inodes.iter().enumerate() {
        list.set(index as u32, inode.0);
    }
}

pub(super) fn write_nodes(nodes: &[NodeNumber], mut list: capnp::primitive_list::Builder<'_, u16>) {
    for (index, node) in nodes.iter().enumerate() {
        list.set(index as u32, node.0);
    }
}

pub(super) fn write_request_id(id: &RequestId, mut builder: wire::request_id::Builder<'_>) {
    builder.set_client(id.client.0);
    builder.set_sequence(id.sequence);
    builder.set_acknowledged_below(id.acknowledged_below);
}

pub(super) fn write_block_id(block: &BlockId, mut builder: wire::block_id::Builder<'_>) {
    builder.set_client(block.client.0);
    builder.set_counter(block.counter);
}

pub(super) fn write_transaction_id(id: &TransactionId, mut builder: wire::transaction_id::Builder<'_>) {
    builder.set_client(id.client.0);
    builder.set_sequence(id.sequence);
    builder.set_attempt(id.attempt);
}
