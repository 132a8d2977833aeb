//! What files hold: inline bytes and blocks, written, published and read back.

use bark_client::session::Call;
use bark_core::checksum::crc32c;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber};
use bark_schema::limits::INLINE_SIZE_MAX;
use bark_schema::operation::{
    Command, Content, Extent, Failure, NewContent, NodeRequest, Query, Refusal, Reply,
};
use bytes::Bytes;

use super::{ATTRIBUTES, BLOCK_SIZE_BYTES_MAX, Fate, File, Private, VERIFY_DEADLINE_MS, bytes};
use crate::counts::Counts;

impl Private {
    pub(super) async fn create(&mut self) {
        let directory = self.any_directory();
        let name = self.new_name();
        let content = self.some_bytes(300);
        let command = Command::Create {
            directory,
            name: bytes(&name),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::from(content.clone())),
            exclusive: true,
        };
        let fate = self
            .change(Call::Command {
                partition: directory.home(),
                command,
            })
            .await;
        self.must_be_done(&format!("create {directory}/{name}"), &fate);
        match fate {
            Fate::Done(Reply::Created {
                attributes,
                created: true,
            }) => {
                self.files.insert(
                    attributes.inode,
                    File {
                        content,
                        in_blocks: false,
                        links: 1,
                        sure: true,
                    },
                );
                self.enter(directory, name, attributes.inode);
            }
            Fate::Done(other) => self.fail(format!("create of a new name was answered {other:?}")),
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    pub(super) async fn write_inline(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let data = self.some_bytes(200);
        let file = &self.files[&inode];
        let (size, in_blocks) = (file.content.len(), file.in_blocks);
        let offset = self.random.below(size as u64 + 50);
        let command = Command::WriteInline {
            inode,
            offset,
            data: Bytes::from(data.clone()),
            truncate: false,
        };
        let end = offset as usize + data.len();
        let fate = self
            .change(Call::Command {
                partition: inode.home(),
                command,
            })
            .await;
        if !in_blocks && end.max(size) <= INLINE_SIZE_MAX {
            self.must_be_done(&format!("inline write to {inode}"), &fate);
        }
        let Some(file) = self.files.get_mut(&inode) else {
            return;
        };
        match fate {
            Fate::Done(_) => {
                if file.content.len() < end {
                    file.content.resize(end, 0);
                }
                file.content[offset as usize..end].copy_from_slice(&data);
            }
            Fate::Unsure => file.sure = false,
            _ => {}
        }
    }

    /// Stores a block and makes it the file's content, or appends it.
    pub(super) async fn publish(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let data = self.some_bytes(BLOCK_SIZE_BYTES_MAX);
        self.next_block += 1;
        let block = BlockId {
            client: ClientId(1000 + self.number as u64),
            counter: self.next_block,
        };
        let first = self.random.below(u64::from(self.nodes)) as u16;
        let replicas: Vec<NodeNumber> = (0..3)
            .map(|copy| NodeNumber((first + copy) % self.nodes + 1))
            .collect();
        let checksum = crc32c(&[&data]);
        let request = NodeRequest::BlockPut {
            block,
            data: Bytes::from(data.clone()),
            checksum,
            replicas,
            local_only: false,
        };
        let stored = match self.change(Call::AnyNode(request)).await {
            Fate::Done(Reply::Stored { nodes }) => nodes,
            _ => return,
        };
        if stored.len() < 2 {
            self.fail(format!("{block} is said to be stored on {stored:?} only"));
        }
        let Some(file) = self.files.get(&inode) else {
            return;
        };
        if !file.sure {
            return;
        }
        let replace_all = !file.in_blocks || self.random.chance(3);
        let offset = if replace_all { 0 } else { file.content.len() as u64 };
        let extent = Extent {
            offset,
            length: data.len() as u32,
            block,
            block_offset: 0,
            block_size: data.len() as u32,
            checksum,
            nodes: stored,
        };
        let size = offset + data.len() as u64;
        let command = Command::Publish {
            inode,
            extents: vec![extent],
            size,
            replace_all,
            base_version: None,
        };
        let fate = self
            .change(Call::Command {
                partition: inode.home(),
                command,
            })
            .await;
        self.must_be_done(&format!("publish to {inode}"), &fate);
        let Some(file) = self.files.get_mut(&inode) else {
            return;
        };
        match fate {
            Fate::Done(_) => {
                file.in_blocks = true;
                file.content.truncate(offset as usize);
                file.content.extend_from_slice(&data);
            }
            Fate::Unsure => file.sure = false,
            _ => {}
        }
    }

    pub(super) async fn read_one(&mut self) {
        if let Some(inode) = self.any_file() {
            self.read(inode).await;
        }
    }

    /// Reads a whole file and compares; true if it could be read.
    pub(super) async fn read(&mut self, inode: InodeId) -> bool {
        let size = self.files[&inode].content.len();
        let query = Query::Layout {
            inode,
            offset: 0,
            length: size as u64 + 1,
        };
        let call = Call::Query {
            partition: inode.home(),
            query,
        };
        let (attributes, content) = match self.port.call(call, self.deadline_ms).await {
            Ok(Reply::Layout { attributes, content }) => (attributes, content),
            Ok(other) => {
                self.fail(format!("layout of {inode} was answered {other:?}"));
                return false;
            }
            Err(Failure::Refused(refusal, sentence)) => {
                self.fail(format!("{inode} cannot be read: {refusal:?}, {sentence}"));
                return false;
            }
            Err(_) => return false,
        };
        if attributes.size != size as u64 {
            self.fail(format!(
                "{inode} has {} bytes, {size} were written",
                attributes.size
            ));
            return false;
        }
        let mut found = vec![0; size];
        match content {
            Content::Inline(data) => {
                let count = data.len().min(size);
                found[..count].copy_from_slice(&data[..count]);
            }
            Content::Mapped(map) => {
                for extent in map.extents {
                    let Some(data) = self.read_extent(&extent).await else {
                        return false;
                    };
                    let from = extent.offset as usize;
                    found[from..from + data.len()].copy_from_slice(&data);
                }
            }
        }
        if found != self.files[&inode].content {
            self.fail(format!("{inode} holds other bytes than were written"));
        }
        true
    }

    /// Any of the nodes that acknowledged the block has it.
    async fn read_extent(&mut self, extent: &Extent) -> Option<Bytes> {
        let mut last = None;
        for node in &extent.nodes {
            let request = NodeRequest::BlockGet {
                block: extent.block,
                offset: extent.block_offset,
                length: extent.length,
            };
            match self
                .port
                .call(Call::NamedNode(*node, request), self.deadline_ms)
                .await
            {
                Ok(Reply::Block(data)) if data.len() == extent.length as usize => return Some(data),
                Ok(other) => self.fail(format!(
                    "{} of {} bytes was answered {other:?}",
                    extent.block, extent.length
                )),
                Err(Failure::Refused(Refusal::Corrupt | Refusal::NotFound, _))
                    if self.port.stage().damaged.get() == Some(node.0) =>
                {
                    self.port.stage().count(Counts {
                        damaged_blocks_refused: 1,
                        ..Counts::default()
                    });
                }
                Err(Failure::Refused(refusal, sentence)) => {
                    self.fail(format!(
                        "{node} acknowledged {} and now says {refusal:?}: {sentence}",
                        extent.block
                    ));
                }
                Err(failure) => last = Some(failure),
            }
        }
        if self.deadline_ms == VERIFY_DEADLINE_MS {
            self.fail(format!(
                "after the repair, {} cannot be read: {last:?}",
                extent.block
            ));
        }
        None
    }
}
