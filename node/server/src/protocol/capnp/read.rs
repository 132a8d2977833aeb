//! Reading a file's bytes for a client that does not fetch blocks itself.
//!
//! The file's partition says where the bytes are; the blocks are fetched together, each from any node that
//! has it. A block that is gone from everywhere was replaced since: the layout is asked for again.

use bark_core::worker::gateway::Gateway;
use bark_schema::data::Place;
use bark_schema::ids::{InodeId, NodeNumber};
use bark_schema::operation::{Content, Extent, Failure, NodeRequest, Query, Refusal, Reply};
use bytes::Bytes;
use futures::future::try_join_all;

use super::authority::{Authority, unexpected};

const LAYOUT_ATTEMPTS_MAX: u32 = 3;

/// Bytes of `inode` from `offset`, at most `length`, and the size of the file.
pub async fn read(
    authority: &Authority,
    inode: InodeId,
    offset: u64,
    length: u32,
) -> Result<(Bytes, u64), Failure> {
    let mut attempt = 1;
    loop {
        match read_once(authority, inode, offset, length).await {
            Err(Failure::Refused(Refusal::NotFound | Refusal::Corrupt, _))
                if attempt < LAYOUT_ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn read_once(
    authority: &Authority,
    inode: InodeId,
    offset: u64,
    length: u32,
) -> Result<(Bytes, u64), Failure> {
    let query = Query::Layout {
        inode,
        offset,
        length: u64::from(length),
    };
    let (size, content) = match authority.query(inode.home(), query).await? {
        Reply::Layout { attributes, content } => (attributes.size, content),
        other => return Err(unexpected(&other)),
    };
    let map = match content {
        Content::Inline(bytes) => return Ok((bytes, size)),
        Content::Mapped(map) => map,
    };
    let end = size.min(offset + u64::from(length)).min(map.known_until);
    let Some(count) = end.checked_sub(offset).filter(|count| *count > 0) else {
        return Ok((Bytes::new(), size));
    };
    let parts = map
        .extents
        .iter()
        .filter_map(|extent| part_of(extent, offset, end));
    let gateway = authority.gateway();
    let fetched = try_join_all(parts.map(|part| fetch(gateway, part))).await?;
    if let [(0, whole)] = fetched.as_slice()
        && whole.len() as u64 == count
    {
        return Ok((whole.clone(), size));
    }
    // What neither an extent nor a patch covers is zeros. The count fits: it is at most `length`.
    let mut bytes = vec![0; count as usize];
    for piece in map.pieces(offset, end) {
        if let Place::Bytes(data) = piece.place {
            let at = (piece.offset - offset) as usize;
            bytes[at..at + data.len()].copy_from_slice(&data);
        }
    }
    for (at, data) in fetched {
        bytes[at..at + data.len()].copy_from_slice(&data);
    }
    Ok((Bytes::from(bytes), size))
}

/// Part of a block, and where it goes in the answer.
struct Part<'a> {
    extent: &'a Extent,
    at: usize,
    block_offset: u32,
    length: u32,
}

fn part_of(extent: &Extent, offset: u64, end: u64) -> Option<Part<'_>> {
    let start = extent.offset.max(offset);
    let stop = (extent.offset + u64::from(extent.length)).min(end);
    let length = stop.checked_sub(start).filter(|length| *length > 0)?;
    // All three are below the length of the extent or of the answer, both u32.
    Some(Part {
        extent,
        at: (start - offset) as usize,
        block_offset: extent.block_offset + (start - extent.offset) as u32,
        length: length as u32,
    })
}

async fn fetch(gateway: &Gateway, part: Part<'_>) -> Result<(usize, Bytes), Failure> {
    let sentence = format!("{} is on no node", part.extent.block);
    let mut last = Failure::refused(Refusal::Corrupt, sentence);
    for node in nearest_first(gateway, &part.extent.nodes) {
        let request = NodeRequest::BlockGet {
            block: part.extent.block,
            offset: part.block_offset,
            length: part.length,
        };
        match gateway.node(node, request).await {
            Ok(Reply::Block(data)) if data.len() == part.length as usize => return Ok((part.at, data)),
            Ok(Reply::Block(_)) => {
                last = Failure::refused(
                    Refusal::Corrupt,
                    format!("{node} has a shorter {}", part.extent.block),
                );
            }
            Ok(other) => last = unexpected(&other),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// This node, then the others from a random one on, so that load spreads.
fn nearest_first(gateway: &Gateway, nodes: &[NodeNumber]) -> Vec<NodeNumber> {
    let own = gateway.config().node;
    let mut others: Vec<NodeNumber> = nodes.iter().copied().filter(|node| *node != own).collect();
    if !others.is_empty() {
        let count = others.len() as u64;
        others.rotate_left((gateway.random() % count) as usize);
    }
    let local = nodes.contains(&own).then_some(own);
    local.into_iter().chain(others).collect()
}
