//! What files of the tree hold: inline bytes and blocks, written, published and read back.

use bark_client::session::Call;
use bark_core::checksum::crc32c;
use bark_schema::allocator::{attempts, targets};
use bark_schema::ids::{BlockId, ClientId, InodeId};
use bark_schema::operation::{Command, Extent, NodeRequest, Refusal, Reply};
use bark_schema::policy::Policy;
use bytes::Bytes;

use super::super::reader::{self, Found};
use super::Owner;
use crate::client::Fate;

/// Mostly a block; sometimes enough for three of the smallest size.
const SIZE_MAX: u64 = 12_000;
const LARGE_SIZE_MAX: u64 = 3 << 16;
const LARGE_ODDS: u64 = 12;
/// Of what has no policy.
const CLUSTER_REPLICAS: usize = 3;

impl Owner {
    pub(super) async fn write_inline(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let data = self.some_bytes(200);
        let size = self.reference.content(inode).map_or(0, |(bytes, _)| bytes.len());
        let offset = self.random.below(size as u64 + 50);
        let command = Command::WriteInline {
            inode,
            offset,
            data: Bytes::from(data.clone()),
            truncate: false,
        };
        // Larger files answer that they are, which is no refusal.
        let (start, end) = (offset as usize, offset as usize + data.len());
        self.change_content(inode, command, None, |content, _| {
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(&data);
        })
        .await;
    }

    /// Makes a change of one file's bytes, which may be refused for one reason at most.
    async fn change_content(
        &mut self,
        inode: InodeId,
        command: Command,
        allowed: Option<Refusal>,
        change: impl FnOnce(&mut Vec<u8>, &mut bool),
    ) {
        let partition = inode.home();
        let call = Call::Command { partition, command };
        match self.port.change(call, self.deadline_ms).await {
            Fate::Done(Reply::Attributes(seen)) => {
                self.reference.write(inode, change);
                if let Err(reason) = self.reference.agree(&seen) {
                    self.fail(format!("after a change of its bytes, {reason}"));
                }
            }
            Fate::Done(other) => self.fail(format!("a change of {inode} was answered {other:?}")),
            Fate::Refused(refusal, sentence) if Some(refusal) != allowed => {
                self.fail(format!(
                    "a change of {inode} was refused: {refusal:?}, {sentence}"
                ));
            }
            Fate::Unsure => self.reference.doubt_inode(inode),
            Fate::Refused(..) | Fate::Nothing => {}
        }
    }

    /// Stores blocks as the file's policy says, and makes them the file's content, or appends them.
    pub(super) async fn publish(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let policy = self.reference.policy(inode).unwrap_or_default();
        let size_max = match self.random.chance(LARGE_ODDS) {
            true => LARGE_SIZE_MAX,
            false => SIZE_MAX,
        };
        let data = Bytes::from(self.some_bytes(size_max));
        let mut extents = Vec::new();
        let mut rest = data.clone();
        while !rest.is_empty() {
            let block = rest.split_to(rest.len().min(policy.cut_size()));
            let at = (data.len() - rest.len() - block.len()) as u64;
            let Some(extent) = self.store(inode, &policy, at, block).await else {
                return;
            };
            extents.push(extent);
        }
        let Some((size, in_blocks)) = self.reference.content(inode).map(|(bytes, it)| (bytes.len(), it))
        else {
            return;
        };
        let replace_all = !in_blocks || self.random.chance(3);
        let offset = if replace_all { 0 } else { size as u64 };
        for extent in &mut extents {
            extent.offset += offset;
        }
        let command = Command::Publish {
            inode,
            extents,
            size: offset + data.len() as u64,
            replace_all,
            base_version: None,
        };
        // The block may have been given up before it was published.
        self.change_content(inode, command, Some(Refusal::Conflict), |content, in_blocks| {
            *in_blocks = true;
            content.truncate(offset as usize);
            content.extend_from_slice(&data);
        })
        .await;
    }

    /// One block, on a majority of the copies the policy asks for.
    async fn store(&mut self, inode: InodeId, policy: &Policy, offset: u64, data: Bytes) -> Option<Extent> {
        // Even ones; odd ones are for what the client does to ranges.
        self.next_block += 2;
        let block = BlockId::new(ClientId(1000 + self.number as u64), inode.home(), self.next_block);
        let copies = policy.copies(CLUSTER_REPLICAS);
        let length = data.len() as u32;
        let order = self
            .allocator
            .order(&self.ring, block, policy, copies, u64::from(length));
        let attempt = self.random.below(attempts(&order, copies) as u64) as usize;
        let replicas = targets(&order, copies, attempt);
        let checksum = crc32c(&[&data]);
        let request = NodeRequest::BlockPut {
            block,
            data,
            checksum,
            replicas: replicas.clone(),
            local_only: false,
        };
        let Fate::Done(Reply::Stored { nodes }) =
            self.port.change(Call::AnyNode(request), self.deadline_ms).await
        else {
            return None;
        };
        let is_meant = nodes.iter().all(|node| replicas.contains(node));
        if nodes.len() < copies / 2 + 1 || !is_meant {
            self.fail(format!(
                "{block}, meant for {replicas:?}, is said to be stored on {nodes:?}"
            ));
        }
        Some(Extent {
            offset,
            length,
            block,
            block_offset: 0,
            block_size: length,
            checksum,
            nodes,
        })
    }

    pub(super) async fn read_one(&mut self) {
        if let Some(inode) = self.any_file() {
            self.read(inode).await;
        }
    }

    /// Reads a whole file and compares; true if it could be read.
    pub(super) async fn read(&mut self, inode: InodeId) -> bool {
        match reader::read(&self.port, inode, self.deadline_ms).await {
            Found::Content(seen, found) => {
                if let Err(reason) = self.reference.agree(&seen) {
                    self.fail(reason);
                }
                if self
                    .reference
                    .content(inode)
                    .is_some_and(|(content, _)| *content != found)
                {
                    self.fail(format!("{inode} holds other bytes than were written"));
                }
                true
            }
            Found::Refused(refusal, sentence) => {
                self.fail(format!("{inode} cannot be read: {refusal:?}, {sentence}"));
                false
            }
            Found::Lost => true,
            Found::Unread => false,
        }
    }
}
