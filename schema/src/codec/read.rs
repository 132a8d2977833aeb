//! Reading the parts all messages are made of: bytes, lists, ids.

use bytes::Bytes;
use capnp::{data, data_list, primitive_list, struct_list, text};

use super::{Error, Result};
use crate::generated::common_capnp as wire;
use crate::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId, TransactionId};
use crate::operation::{Entry, RequestId};

/// Where the bytes of a message lie, and so how to keep them.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The message was read out of this frame: share it.
    Frame(&'a Bytes),
    /// The message belongs to the RPC layer: copy.
    Foreign,
}

impl Source<'_> {
    pub fn bytes(self, data: capnp::Result<data::Reader<'_>>) -> Result<Bytes> {
        let data = data?;
        Ok(match self {
            Source::Frame(frame) => frame.slice_ref(data),
            Source::Foreign => Bytes::copy_from_slice(data),
        })
    }

    pub fn bytes_list(self, list: capnp::Result<data_list::Reader<'_>>) -> Result<Vec<Bytes>> {
        list?.iter().map(|data| self.bytes(data)).collect()
    }

    pub fn entry(self, entry: capnp::Result<wire::entry::Reader<'_>>) -> Result<Entry> {
        let entry = entry?;
        Ok(Entry {
            directory: InodeId(entry.get_directory()),
            name: self.bytes(entry.get_name())?,
        })
    }

    pub fn optional(self, value: capnp::Result<wire::optional_data::Reader<'_>>) -> Result<Option<Bytes>> {
        Ok(match value?.which()? {
            wire::optional_data::Absent(()) => None,
            wire::optional_data::Present(data) => Some(self.bytes(data)?),
        })
    }
}

pub fn text(text: capnp::Result<text::Reader<'_>>) -> Result<String> {
    Ok(text?.to_str()?.to_owned())
}

pub fn request_id(id: capnp::Result<wire::request_id::Reader<'_>>) -> Result<RequestId> {
    let id = id?;
    Ok(RequestId {
        client: ClientId(id.get_client()),
        sequence: id.get_sequence(),
        acknowledged_below: id.get_acknowledged_below(),
    })
}

pub fn block_id(id: wire::block_id::Reader<'_>) -> BlockId {
    BlockId {
        client: ClientId(id.get_client()),
        counter: id.get_counter(),
    }
}

pub fn transaction_id(id: capnp::Result<wire::transaction_id::Reader<'_>>) -> Result<TransactionId> {
    let id = id?;
    Ok(TransactionId {
        client: ClientId(id.get_client()),
        sequence: id.get_sequence(),
        attempt: id.get_attempt(),
    })
}

/// Zero is no node.
pub fn node_or_none(number: u16) -> Option<NodeNumber> {
    (number != 0).then_some(NodeNumber(number))
}

/// Zero is no inode.
pub fn inode_or_none(number: u64) -> Option<InodeId> {
    (number != 0).then_some(InodeId(number))
}

pub fn nodes(list: capnp::Result<primitive_list::Reader<'_, u16>>) -> Result<Vec<NodeNumber>> {
    Ok(list?.iter().map(NodeNumber).collect())
}

pub fn inodes(list: capnp::Result<primitive_list::Reader<'_, u64>>) -> Result<Vec<InodeId>> {
    Ok(list?.iter().map(InodeId).collect())
}

pub fn partitions(list: capnp::Result<primitive_list::Reader<'_, u16>>) -> Result<Vec<PartitionId>> {
    Ok(list?.iter().map(PartitionId).collect())
}

/// Reads a list of structs, each with `read`.
pub fn list<'a, S, T>(
    list: capnp::Result<struct_list::Reader<'a, S>>,
    read: impl FnMut(S::Reader<'a>) -> Result<T>,
) -> Result<Vec<T>>
where
    S: capnp::traits::OwnedStruct,
{
    list?.iter().map(read).collect()
}

/// A pointer that may not be null, with its name for the error.
pub fn required(present: bool, what: &'static str) -> Result<()> {
    if present {
        Ok(())
    } else {
        Err(Error::Missing(what))
    }
}
