//! Writing a file's bytes for a client that does not cut blocks itself.
//!
//! Bytes gather in a tail until they make a block or stop being contiguous; a block is sent to its replicas
//! while the next one fills. Publishing waits for the blocks and makes them part of the file in one commit.
//!
//! A file that is inline and outgrows it is rewritten: its bytes become a block too, and the commit names the
//! version they were read at, so that no other writer's change is lost between.
//!
//! Invariants:
//! - Blocks are published when a majority of their replicas has them on disk, never before.
//! - Unpublished ranges do not overlap: a write over one publishes first, so the later write wins.
//! - At most PUTS_MAX blocks of a file are under way.

use std::collections::VecDeque;

use bark_core::checksum::crc32c;
use bark_core::worker::gateway::{Answer, DEADLINE_DEFAULT_US, Reach};
use bark_schema::allocator::targets;
use bark_schema::ids::{BlockId, InodeId, NodeNumber};
use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, FILE_SIZE_MAX, INLINE_SIZE_MAX, MIB};
use bark_schema::operation::{
    Attributes, Command, Content, Extent, Failure, NodeRequest, Query, Refusal, Reply, Request,
};
use bark_schema::policy::Policy;
use bytes::{Bytes, BytesMut};

use super::authority::{Authority, unexpected};

const PUTS_MAX: usize = 4;
const PUT_ATTEMPTS_MAX: u32 = 3;
const PUT_PAUSE_US: u64 = 50_000;
/// Commits tried when others keep changing the file.
const PUBLISH_ATTEMPTS_MAX: u32 = 16;
/// Tails of all open files of a connection; above it blocks are cut short.
const TAILS_BYTES_MAX: usize = 64 * MIB;

pub struct Writer {
    authority: Authority,
    inode: InodeId,
    policy: Policy,
    tail: BytesMut,
    tail_offset: u64,
    puts: VecDeque<Put>,
    /// Of blocks that are stored, not published.
    extents: Vec<Extent>,
    /// What a streamed write ran into; told by the next `publish`.
    failure: Option<Failure>,
}

/// A block on its way to its replicas.
struct Put {
    extent: Extent,
    data: Bytes,
    place: Place,
    answer: Answer,
    attempts: u32,
    /// The answer was "too few nodes": it is sent again after a pause.
    resend: bool,
}

/// Where a block goes: all nodes in order, and how many of them are to have it.
struct Place {
    block: BlockId,
    order: Vec<NodeNumber>,
    copies: usize,
}

impl Place {
    fn targets(&self, attempt: usize) -> Vec<NodeNumber> {
        targets(&self.order, self.copies, attempt)
    }
}

impl Writer {
    pub fn new(authority: Authority, inode: InodeId, policy: Policy) -> Writer {
        Writer {
            authority,
            inode,
            policy,
            tail: BytesMut::new(),
            tail_offset: 0,
            puts: VecDeque::new(),
            extents: Vec::new(),
            failure: None,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.tail.is_empty() && self.puts.is_empty() && self.extents.is_empty() && self.failure.is_none()
    }

    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Takes bytes in; they become part of the file with the next `publish`.
    pub async fn write(&mut self, offset: u64, mut data: &[u8]) -> Result<(), Failure> {
        let end = end_of(offset, data.len())?;
        if self.overlaps(offset, end) {
            self.publish().await?;
        }
        if !self.tail.is_empty() && self.tail_offset + self.tail.len() as u64 != offset {
            self.cut().await?;
        }
        let mut offset = offset;
        while !data.is_empty() {
            if self.tail.is_empty() {
                self.tail_offset = offset;
            }
            let room = self.policy.cut_size() - self.tail.len();
            let (now, rest) = data.split_at(data.len().min(room));
            self.grow_tail(now);
            offset += now.len() as u64;
            data = rest;
            let buffered = self.authority.connection.buffered_bytes.get();
            if self.tail.len() == self.policy.cut_size() || buffered > TAILS_BYTES_MAX {
                self.cut().await?;
            }
        }
        Ok(())
    }

    /// Makes everything written part of the file. A failure is told once; what was not published is dropped.
    pub async fn publish(&mut self) -> Result<(), Failure> {
        let result = self.try_publish().await;
        if result.is_err() {
            self.take_tail();
            self.puts.clear();
            self.extents.clear();
        }
        result
    }

    async fn try_publish(&mut self) -> Result<(), Failure> {
        self.cut().await?;
        while !self.puts.is_empty() {
            self.settle_one().await?;
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.extents.sort_by_key(|extent| extent.offset);
        while !self.extents.is_empty() {
            let count = self.extents.len().min(EXTENTS_PER_COMMAND_MAX);
            self.publish_some(count).await?;
            self.extents.drain(..count);
        }
        Ok(())
    }

    async fn publish_some(&self, count: usize) -> Result<(), Failure> {
        let extents = &self.extents[..count];
        match self.commit(extents.to_vec(), None).await {
            Err(Failure::Refused(Refusal::Conflict, _)) => {}
            other => return other.map(drop),
        }
        // The file is inline and these blocks do not cover it.
        for _ in 0..PUBLISH_ATTEMPTS_MAX {
            let (attributes, inline) = self.inline_content().await?;
            let extents = if inline.is_empty() {
                extents.to_vec()
            } else {
                let block = self.store(0, inline).await?;
                around(extents, &block)
            };
            match self.commit(extents, Some(attributes.version)).await {
                Err(Failure::Refused(Refusal::Conflict, _)) => {}
                other => return other.map(drop),
            }
        }
        Err(Failure::Busy("others keep changing the file".to_string()))
    }

    /// Writes at the end of the file, wherever that is when the write is committed. Returns the place.
    pub async fn append(&mut self, data: &[u8]) -> Result<u64, Failure> {
        self.publish().await?;
        let mut blocks = Vec::new();
        for chunk in data.chunks(self.policy.cut_size()) {
            blocks.push(self.store(0, Bytes::copy_from_slice(chunk)).await?);
        }
        for _ in 0..PUBLISH_ATTEMPTS_MAX {
            let (attributes, inline) = self.inline_content().await?;
            let mut end = attributes.size;
            end_of(end, data.len())?;
            let mut extents = Vec::with_capacity(blocks.len() + 1);
            if !inline.is_empty() {
                extents.push(self.store(0, inline).await?);
            }
            for block in &blocks {
                extents.push(Extent {
                    offset: end,
                    ..block.clone()
                });
                end += u64::from(block.length);
            }
            match self.commit(extents, Some(attributes.version)).await {
                Err(Failure::Refused(Refusal::Conflict, _)) => {}
                other => return other.map(|_| attributes.size),
            }
        }
        Err(Failure::Busy("others keep changing the file".to_string()))
    }

    /// Writes into a file that stays inline; false if it does not.
    pub async fn write_inline(&self, offset: u64, data: &[u8]) -> Result<bool, Failure> {
        if end_of(offset, data.len())? > INLINE_SIZE_MAX as u64 {
            return Ok(false);
        }
        let data = Bytes::copy_from_slice(data);
        let command = Command::WriteInline {
            inode: self.inode,
            offset,
            data,
            truncate: false,
        };
        match self.authority.command(self.inode.home(), command).await {
            Ok(_) => Ok(true),
            Err(Failure::TooLargeForInline) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn commit(&self, extents: Vec<Extent>, base_version: Option<u64>) -> Result<Reply, Failure> {
        let size = extents
            .last()
            .map_or(0, |last| last.offset + u64::from(last.length));
        let command = Command::Publish {
            inode: self.inode,
            extents,
            size,
            replace_all: false,
            base_version,
        };
        self.authority.command(self.inode.home(), command).await
    }

    /// The file's attributes, and its bytes if they are inline.
    async fn inline_content(&self) -> Result<(Attributes, Bytes), Failure> {
        let query = Query::Layout {
            inode: self.inode,
            offset: 0,
            length: INLINE_SIZE_MAX as u64,
        };
        match self.authority.query(self.inode.home(), query).await? {
            Reply::Layout {
                attributes,
                content: Content::Inline(bytes),
            } => Ok((attributes, bytes)),
            Reply::Layout { attributes, .. } => Ok((attributes, Bytes::new())),
            other => Err(unexpected(&other)),
        }
    }

    fn overlaps(&self, offset: u64, end: u64) -> bool {
        let tail = (self.tail_offset, self.tail.len() as u64);
        let under_way = self.puts.iter().map(|put| &put.extent).chain(&self.extents);
        under_way
            .map(|extent| (extent.offset, u64::from(extent.length)))
            .chain([tail])
            .any(|(start, length)| length > 0 && start < end && offset < start + length)
    }

    fn grow_tail(&mut self, data: &[u8]) {
        self.tail.extend_from_slice(data);
        let buffered = &self.authority.connection.buffered_bytes;
        buffered.set(buffered.get() + data.len());
    }

    fn take_tail(&mut self) -> Bytes {
        let buffered = &self.authority.connection.buffered_bytes;
        buffered.set(buffered.get() - self.tail.len());
        std::mem::take(&mut self.tail).freeze()
    }

    /// Sends the tail on its way, as a block.
    async fn cut(&mut self) -> Result<(), Failure> {
        if self.tail.is_empty() {
            return Ok(());
        }
        while self.puts.len() >= PUTS_MAX {
            self.settle_one().await?;
        }
        let place = self.place(self.tail.len()).await;
        let data = self.take_tail();
        let put = self.put(self.tail_offset, data, place);
        self.puts.push_back(put);
        Ok(())
    }

    /// Waits for the oldest block. It stays in its place until it is stored or has failed, so that a call
    /// which is cancelled in between loses nothing.
    async fn settle_one(&mut self) -> Result<(), Failure> {
        let Some(put) = self.puts.front_mut() else {
            return Ok(());
        };
        match settle(&self.authority, put).await {
            Ok(nodes) => {
                if let Some(put) = self.puts.pop_front() {
                    self.extents.push(Extent { nodes, ..put.extent });
                }
                Ok(())
            }
            Err(failure) => {
                self.puts.pop_front();
                Err(failure)
            }
        }
    }

    /// Stores a block of its own.
    async fn store(&self, offset: u64, data: Bytes) -> Result<Extent, Failure> {
        let place = self.place(data.len()).await;
        let mut put = self.put(offset, data, place);
        let nodes = settle(&self.authority, &mut put).await?;
        Ok(Extent { nodes, ..put.extent })
    }

    /// A name for a block of so many bytes, and the nodes for it.
    async fn place(&self, size: usize) -> Place {
        let connection = &self.authority.connection;
        let block = connection.next_block(self.inode.home());
        let cluster = &connection.context.settings.cluster;
        let gateway = self.authority.gateway();
        let (order, copies) = connection
            .placing
            .order(gateway, cluster, block, &self.policy, size)
            .await;
        Place { block, order, copies }
    }

    fn put(&self, offset: u64, data: Bytes, place: Place) -> Put {
        // Blocks are at most BLOCK_SIZE_MAX.
        let size = data.len() as u32;
        let extent = Extent {
            offset,
            length: size,
            block: place.block,
            block_offset: 0,
            block_size: size,
            checksum: crc32c(&[&data]),
            nodes: Vec::new(),
        };
        let replicas = place.targets(0);
        let answer = send(&self.authority, &extent, replicas, data.clone());
        Put {
            extent,
            data,
            place,
            answer,
            attempts: 1,
            resend: false,
        }
    }
}

/// Waits until a block is stored; says on which nodes.
async fn settle(authority: &Authority, put: &mut Put) -> Result<Vec<NodeNumber>, Failure> {
    loop {
        if put.resend {
            authority.gateway().sleep(PUT_PAUSE_US).await;
            let replicas = put.place.targets(put.attempts as usize - 1);
            put.answer = send(authority, &put.extent, replicas, put.data.clone());
            put.resend = false;
        }
        match (&mut put.answer).await {
            Ok(Reply::Stored { nodes }) => return Ok(nodes),
            Ok(other) => return Err(unexpected(&other)),
            Err(Failure::Busy(_) | Failure::Unknown(_)) if put.attempts < PUT_ATTEMPTS_MAX => {
                put.attempts += 1;
                put.resend = true;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn send(authority: &Authority, extent: &Extent, replicas: Vec<NodeNumber>, data: Bytes) -> Answer {
    let gateway = authority.gateway();
    let request = NodeRequest::BlockPut {
        block: extent.block,
        data,
        checksum: extent.checksum,
        replicas,
        local_only: false,
    };
    let deadline_us = gateway.now().monotonic_us + DEADLINE_DEFAULT_US;
    gateway.call(Request::Node(request), Reach::Cluster, deadline_us)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.take_tail();
    }
}

fn end_of(offset: u64, length: usize) -> Result<u64, Failure> {
    let end = offset
        .checked_add(length as u64)
        .filter(|end| *end <= FILE_SIZE_MAX);
    end.ok_or_else(|| Failure::refused(Refusal::FileTooLarge, "File too large"))
}

/// `extents`, in order, and between them the parts of `block` they leave uncovered.
fn around(extents: &[Extent], block: &Extent) -> Vec<Extent> {
    let mut all = Vec::with_capacity(extents.len() + 1);
    let mut covered = 0;
    let block_end = u64::from(block.length);
    for extent in extents {
        push_part(&mut all, block, covered, extent.offset.min(block_end));
        all.push(extent.clone());
        covered = extent.offset + u64::from(extent.length);
    }
    push_part(&mut all, block, covered, block_end);
    all
}

fn push_part(all: &mut Vec<Extent>, block: &Extent, start: u64, end: u64) {
    if start < end {
        // Both lie within the block.
        let (block_offset, length) = (start as u32, (end - start) as u32);
        all.push(Extent {
            offset: start,
            block_offset,
            length,
            ..block.clone()
        });
    }
}
