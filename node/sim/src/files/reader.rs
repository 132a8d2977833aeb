//! Reads whole files as clients do: the layout first, then each block from whichever of its nodes has it.
//!
//! A layout may go stale while its blocks are fetched: they are packed into others and dropped. So a node that
//! does not have a block is not at fault yet; it is if a layout asked for afterwards still names it.
//!
//! Invariants:
//! - All bytes given back are of one version of the content.

use bark_client::session::Call;
use bark_schema::data::Place;
use bark_schema::ids::{BlockId, InodeId, NodeNumber};
use bark_schema::operation::{Attributes, Content, Extent, Failure, NodeRequest, Query, Refusal, Reply};
use bytes::Bytes;

use super::VERIFY_DEADLINE_MS;
use crate::client::Port;
use crate::counts::Counts;

/// Layouts asked for before a file is given up for now.
const ATTEMPTS_MAX: u32 = 5;
/// More than any file here has.
const LENGTH_MAX: u64 = 1 << 24;

pub enum Found {
    Content(Box<Attributes>, Vec<u8>),
    Refused(Refusal, String),
    /// Its only copy was where a disk lost or harmed what it kept.
    Lost,
    /// Nobody could be asked; no verdict.
    Unread,
}

/// What reading came across.
#[derive(Default)]
struct Evidence {
    /// Nodes that said not to have a block a layout named them for.
    accused: Vec<(BlockId, NodeNumber, String)>,
    /// In the last attempt a block was asked for whose only copy was harmed.
    is_lost: bool,
}

pub async fn read(port: &Port, inode: InodeId, deadline_ms: u64) -> Found {
    let mut evidence = Evidence::default();
    for _ in 0..ATTEMPTS_MAX {
        evidence.is_lost = false;
        if let Some(found) = read_once(port, inode, deadline_ms, &mut evidence).await {
            return found;
        }
    }
    if evidence.is_lost {
        return Found::Lost;
    }
    if deadline_ms == VERIFY_DEADLINE_MS {
        port.stage().fail(format!(
            "after the repair, blocks of {inode} cannot be read: {:?}",
            evidence.accused
        ));
    }
    Found::Unread
}

/// None if it is worth trying again with a newer layout.
async fn read_once(port: &Port, inode: InodeId, deadline_ms: u64, evidence: &mut Evidence) -> Option<Found> {
    let mut found: Vec<u8> = Vec::new();
    let mut version = None;
    loop {
        let offset = found.len() as u64;
        let query = Query::Layout {
            inode,
            offset,
            length: LENGTH_MAX,
        };
        let partition = inode.home();
        let (attributes, layout) = match port.call(Call::Query { partition, query }, deadline_ms).await {
            Ok(Reply::Layout { attributes, content }) => (attributes, content),
            Ok(other) => {
                port.stage()
                    .fail(format!("layout of {inode} was answered {other:?}"));
                return Some(Found::Unread);
            }
            Err(Failure::Refused(refusal, sentence)) => return Some(Found::Refused(refusal, sentence)),
            Err(_) => return Some(Found::Unread),
        };
        if *version.get_or_insert(attributes.version) != attributes.version {
            return None;
        }
        match layout {
            Content::Inline(bytes) => found.extend_from_slice(&bytes),
            Content::Mapped(map) => {
                convict(port, inode, &map.extents, evidence);
                for piece in map.pieces(offset, attributes.size) {
                    let length = piece.length as usize;
                    match piece.place {
                        Place::Hole => found.resize(found.len() + length, 0),
                        Place::Bytes(bytes) => found.extend_from_slice(&bytes),
                        Place::Block { extent, skip } => {
                            let bytes =
                                read_block(port, extent, skip, length as u32, deadline_ms, evidence).await?;
                            found.extend_from_slice(&bytes);
                        }
                    }
                }
            }
        }
        if found.len() as u64 >= attributes.size {
            return Some(Found::Content(Box::new(attributes), found));
        }
        if found.len() as u64 == offset {
            port.stage().fail(format!(
                "a layout of {inode} ends at {offset}, where it was to start"
            ));
            return Some(Found::Unread);
        }
    }
}

fn convict(port: &Port, inode: InodeId, extents: &[Extent], evidence: &Evidence) {
    for (block, node, sentence) in &evidence.accused {
        let names = |extent: &&Extent| extent.block == *block && extent.nodes.contains(node);
        if extents.iter().any(|extent| names(&extent)) {
            port.stage().fail(format!(
                "{inode} needs {block}, which {node} acknowledged, and {node} said: {sentence}"
            ));
        }
    }
}

/// From any node that has it.
async fn read_block(
    port: &Port,
    extent: &Extent,
    skip: u32,
    length: u32,
    deadline_ms: u64,
    evidence: &mut Evidence,
) -> Option<Bytes> {
    for node in &extent.nodes {
        let request = NodeRequest::BlockGet {
            block: extent.block,
            offset: extent.block_offset + skip,
            length,
        };
        let is_damaged = port.stage().damaged.get() == Some(node.0);
        match port.call(Call::NamedNode(*node, request), deadline_ms).await {
            Ok(Reply::Block(data)) if data.len() == length as usize => return Some(data),
            Ok(other) => port.stage().fail(format!(
                "{length} bytes of {} were answered {other:?}",
                extent.block
            )),
            Err(Failure::Refused(Refusal::Corrupt | Refusal::NotFound, _)) if is_damaged => {
                evidence.is_lost |= extent.nodes.len() == 1;
                port.stage().count(Counts {
                    damaged_blocks_refused: 1,
                    ..Counts::default()
                });
            }
            Err(Failure::Refused(Refusal::NotFound, sentence)) => {
                evidence.accused.push((extent.block, *node, sentence));
            }
            Err(Failure::Refused(refusal, sentence)) => {
                port.stage().fail(format!(
                    "{node} acknowledged {} and now says {refusal:?}: {sentence}",
                    extent.block
                ));
            }
            Err(_) => {}
        }
    }
    None
}
