//! What one client does to the bytes of its files: overwrites through the log and by blocks, truncates,
//! punches, copies on the servers, and blocks it stores and never publishes; against plain vectors.
//!
//! Meanwhile leaders pack small writes, drop what nobody points into and forget it, and stores are compacted;
//! so whatever is read shows whether a block was dropped that was still needed.
//!
//! A change whose outcome is not known leaves the range it touched unknown: those bytes are not compared
//! until they are written again. A file whose size is not known is given up.

use bark_client::session::Call;
use bark_core::checksum::crc32c;
use bark_core::random::Random;
use bark_schema::data::{Allocation, DataCommand, DataQuery, Place, SeekTarget};
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber};
use bark_schema::operation::{
    AttributeChange, Command, Content, Extent, Failure, NewContent, NewInode, NodeRequest, Outcome, Query,
    Refusal, Reply,
};
use bytes::Bytes;

use crate::client::{Phase, Port};

const WORK_DEADLINE_MS: u64 = 8_000;
const VERIFY_DEADLINE_MS: u64 = 20_000;
const FILES: usize = 3;
const SIZE_MAX: u64 = 60_000;
/// A layout that went stale is asked for again this often: its blocks may be packed and dropped meanwhile.
const READ_ATTEMPTS_MAX: u32 = 4;

struct File {
    inode: InodeId,
    /// None is a byte nothing is foretold about.
    content: Vec<Option<u8>>,
    lost: bool,
}

struct Work {
    port: Port,
    random: Random,
    client: ClientId,
    number: usize,
    nodes: u16,
    files: Vec<File>,
    next_block: u64,
    deadline_ms: u64,
}

enum Fate {
    Done(Reply),
    Nothing,
    Unsure,
}

pub async fn work(port: Port, random: Random, number: usize, nodes: u16) {
    let mut work = Work {
        port: port.clone(),
        random,
        client: ClientId(2000 + number as u64),
        number,
        nodes,
        files: Vec::new(),
        next_block: 0,
        deadline_ms: WORK_DEADLINE_MS,
    };
    let mut attempt = 0;
    while port.works() && work.files.len() < FILES {
        attempt += 1;
        work.create(attempt).await;
    }
    while port.works() && !work.files.is_empty() {
        work.step().await;
        let pause = work.random.below(40_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    work.deadline_ms = VERIFY_DEADLINE_MS;
    for index in 0..work.files.len() {
        work.read(index).await;
    }
}

impl Work {
    fn fail(&self, reason: String) {
        let stage = self.port.stage();
        stage.fail(format!("bytes of client {}: {reason}", self.number));
    }

    /// Makes a change that nothing stands against; what it may be refused for is in `allowed`.
    async fn change(&self, what: &str, call: Call, allowed: &[Refusal]) -> Fate {
        match self.port.call(call, self.deadline_ms).await {
            Ok(reply) => Fate::Done(reply),
            Err(Failure::Refused(refusal, _)) if allowed.contains(&refusal) => Fate::Nothing,
            Err(Failure::Refused(refusal, sentence)) => {
                self.fail(format!("{what} was refused ({refusal:?}: {sentence})"));
                Fate::Nothing
            }
            Err(failure) if failure.outcome() == Outcome::Unknown => Fate::Unsure,
            Err(_) => Fate::Nothing,
        }
    }

    async fn command(&self, what: &str, inode: InodeId, command: Command) -> Fate {
        let partition = inode.home();
        let call = Call::Command { partition, command };
        self.change(what, call, &[]).await
    }

    async fn create(&mut self, attempt: usize) {
        let command = Command::Create {
            directory: InodeId::ROOT,
            name: Bytes::from(format!("bytes-{}-{attempt}", self.number)),
            attributes: NewInode {
                mode: 0o644,
                owner: 1,
                group: 1,
                block_size: 0,
                xattrs: Vec::new(),
            },
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        if let Fate::Done(Reply::Created { attributes, .. }) =
            self.command("create", InodeId::ROOT, command).await
        {
            self.files.push(File {
                inode: attributes.inode,
                content: Vec::new(),
                lost: false,
            });
        }
    }

    async fn step(&mut self) {
        let index = self.random.below(self.files.len() as u64) as usize;
        if self.files[index].lost {
            return;
        }
        match self.random.below(16) {
            0..=4 => self.write(index).await,
            5..=7 => self.publish(index).await,
            8 => self.allocate(index).await,
            9 => self.resize(index).await,
            10..=11 => self.copy(index).await,
            12 => drop(self.store(100).await),
            13 => self.seek(index).await,
            _ => self.read(index).await,
        }
    }

    fn some_bytes(&mut self, size_max: u64) -> Bytes {
        let size = 1 + self.random.below(size_max);
        (0..size).map(|_| self.random.next_u64() as u8).collect()
    }

    fn some_offset(&mut self, index: usize) -> u64 {
        let size = self.files[index].content.len() as u64;
        self.random.below((size + 5_000).min(SIZE_MAX))
    }

    /// What is known of a range after a change of it ended like that.
    fn lay(&mut self, index: usize, offset: u64, fate: &Fate, bytes: &[Option<u8>]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let file = &mut self.files[index];
        match fate {
            Fate::Nothing => {}
            Fate::Done(_) => {
                if file.content.len() < end {
                    file.content.resize(end, Some(0));
                }
                file.content[start..end].copy_from_slice(bytes);
            }
            Fate::Unsure if end > file.content.len() => file.lost = true,
            Fate::Unsure => file.content[start..end].fill(None),
        }
    }

    async fn write(&mut self, index: usize) {
        let inode = self.files[index].inode;
        let size = self.files[index].content.len() as u64;
        let appends = self.random.chance(4) && size < SIZE_MAX;
        let offset = if appends { size } else { self.some_offset(index) };
        let size_max = if self.random.chance(3) { 12_000 } else { 300 };
        let data = self.some_bytes(size_max);
        let command = DataCommand::Write {
            inode,
            offset: Some(offset).filter(|_| !appends),
            data: data.clone(),
        };
        let fate = self.command("a write", inode, Command::Data(command)).await;
        let known: Vec<Option<u8>> = data.iter().map(|byte| Some(*byte)).collect();
        self.lay(index, offset, &fate, &known);
    }

    /// Stores a block for files of the first file's partition; nothing points into it yet.
    async fn store(&mut self, size_max: u64) -> Option<(Bytes, Extent)> {
        let data = self.some_bytes(size_max);
        self.next_block += 1;
        let block = BlockId::new(self.client, InodeId::ROOT.home(), self.next_block);
        let first = self.random.below(u64::from(self.nodes)) as u16;
        let replicas = (0..3).map(|copy| NodeNumber((first + copy) % self.nodes + 1));
        let checksum = crc32c(&[&data]);
        let request = NodeRequest::BlockPut {
            block,
            data: data.clone(),
            checksum,
            replicas: replicas.collect(),
            local_only: false,
        };
        // The disk of a node may be full; it says so, and nothing was stored.
        let allowed = [Refusal::NoSpace];
        let stored = self.change("a block", Call::AnyNode(request), &allowed).await;
        let Fate::Done(Reply::Stored { nodes }) = stored else {
            return None;
        };
        let length = data.len() as u32;
        let extent = Extent {
            offset: 0,
            length,
            block,
            block_offset: 0,
            block_size: length,
            checksum,
            nodes,
        };
        Some((data, extent))
    }

    async fn publish(&mut self, index: usize) {
        let Some((data, mut extent)) = self.store(9_000).await else {
            return;
        };
        if self.random.chance(10) {
            // Long enough to be taken for dead.
            self.port.sleep(12_000_000).await;
        }
        let inode = self.files[index].inode;
        extent.offset = self.some_offset(index);
        let offset = extent.offset;
        let command = Command::Publish {
            inode,
            size: extent.end(),
            extents: vec![extent],
            replace_all: false,
            base_version: None,
        };
        let partition = inode.home();
        let call = Call::Command { partition, command };
        // A conflict: the block was given up before it was published.
        let fate = self.change("a publish", call, &[Refusal::Conflict]).await;
        let known: Vec<Option<u8>> = data.iter().map(|byte| Some(*byte)).collect();
        self.lay(index, offset, &fate, &known);
    }

    async fn allocate(&mut self, index: usize) {
        let inode = self.files[index].inode;
        let (offset, length) = (self.some_offset(index), 1 + self.random.below(9_000));
        let size = self.files[index].content.len() as u64;
        let how = [Allocation::PunchHole, Allocation::ZeroRange][self.random.below(2) as usize];
        let keep_size = self.random.chance(2);
        let command = DataCommand::Allocate {
            inode,
            offset,
            length,
            how,
            keep_size,
        };
        let fate = self.command("an allocation", inode, Command::Data(command)).await;
        let keeps = keep_size || how == Allocation::PunchHole;
        let end = if keeps {
            (offset + length).min(size)
        } else {
            offset + length
        };
        if offset < end {
            self.lay(index, offset, &fate, &vec![Some(0); (end - offset) as usize]);
        }
    }

    async fn resize(&mut self, index: usize) {
        let inode = self.files[index].inode;
        let size = self.random.below(SIZE_MAX);
        let change = AttributeChange {
            size: Some(size),
            ..Default::default()
        };
        let command = Command::SetAttributes { inode, change };
        let fate = self.command("a truncation", inode, command).await;
        let file = &mut self.files[index];
        match fate {
            Fate::Done(_) => file.content.resize(size as usize, Some(0)),
            Fate::Unsure => file.lost = true,
            Fate::Nothing => {}
        }
    }

    async fn copy(&mut self, to: usize) {
        let from = self.random.below(self.files.len() as u64) as usize;
        let size = self.files[from].content.len() as u64;
        if from == to || size == 0 || self.files[from].lost {
            return;
        }
        let from_offset = self.random.below(size);
        let length = (1 + self.random.below(20_000)).min(size - from_offset);
        let to_offset = self.random.below(SIZE_MAX / 2);
        let inode = self.files[to].inode;
        let command = DataCommand::CopyRange {
            from: self.files[from].inode,
            from_offset,
            to: inode,
            to_offset,
            length,
        };
        let fate = self.command("a copy", inode, Command::Data(command)).await;
        let copied = match &fate {
            Fate::Done(Reply::Copied(copied)) => copied.length,
            _ => length,
        };
        let source = self.files[from].content[from_offset as usize..(from_offset + copied) as usize].to_vec();
        self.lay(to, to_offset, &fate, &source);
    }

    /// Holes read as zeros.
    async fn seek(&mut self, index: usize) {
        let inode = self.files[index].inode;
        let offset = self.some_offset(index);
        let query = DataQuery::Seek {
            inode,
            offset,
            target: SeekTarget::Data,
        };
        let call = Call::Query {
            partition: inode.home(),
            query: Query::Data(query),
        };
        let content = &self.files[index].content;
        let data = match self.port.call(call, self.deadline_ms).await {
            Ok(Reply::Count(data)) => data as usize,
            Err(Failure::Refused(Refusal::BeyondEnd, _)) => content.len(),
            Ok(other) => return self.fail(format!("a seek was answered {other:?}")),
            Err(_) => return,
        };
        let hole = content.get(offset as usize..data).unwrap_or_default();
        if hole.iter().any(|byte| byte.is_some_and(|byte| byte != 0)) {
            self.fail(format!("{inode} is said to have a hole where bytes were written"));
        }
    }

    /// Reads a whole file and compares what is known of it.
    async fn read(&mut self, index: usize) {
        if self.files[index].lost {
            return;
        }
        for _ in 0..READ_ATTEMPTS_MAX {
            if self.read_once(index).await {
                return;
            }
        }
    }

    /// False if it is worth trying again with a newer layout.
    async fn read_once(&self, index: usize) -> bool {
        let File { inode, content, .. } = &self.files[index];
        let size = content.len() as u64;
        let mut found: Vec<u8> = Vec::new();
        while (found.len() as u64) < size.max(1) {
            let offset = found.len() as u64;
            let query = Query::Layout {
                inode: *inode,
                offset,
                length: size - offset + 1,
            };
            let call = Call::Query {
                partition: inode.home(),
                query,
            };
            let (attributes, layout) = match self.port.call(call, self.deadline_ms).await {
                Ok(Reply::Layout { attributes, content }) => (attributes, content),
                Ok(other) => {
                    self.fail(format!("layout of {inode} was answered {other:?}"));
                    return true;
                }
                Err(Failure::Refused(refusal, sentence)) => {
                    self.fail(format!("{inode} cannot be read: {refusal:?}, {sentence}"));
                    return true;
                }
                Err(_) => return true,
            };
            if attributes.size != size {
                let there = attributes.size;
                self.fail(format!("{inode} has {there} bytes, {size} were written"));
                return true;
            }
            match layout {
                Content::Inline(bytes) => found.extend_from_slice(&bytes),
                Content::Mapped(map) => {
                    for piece in map.pieces(offset, size) {
                        let length = piece.length as usize;
                        match piece.place {
                            Place::Hole => found.resize(found.len() + length, 0),
                            Place::Bytes(bytes) => found.extend_from_slice(&bytes),
                            Place::Block { extent, skip } => {
                                match self.read_block(extent, skip, length as u32).await {
                                    Some(bytes) => found.extend_from_slice(&bytes),
                                    None => return false,
                                }
                            }
                        }
                    }
                }
            }
            if found.len() as u64 == offset {
                break;
            }
        }
        let differs = |(known, found): (&Option<u8>, &u8)| known.is_some_and(|known| known != *found);
        if found.len() != content.len() || content.iter().zip(&found).any(differs) {
            self.fail(format!("{inode} holds other bytes than were written"));
        }
        true
    }

    /// From any node that has it. After the repair one of them must.
    async fn read_block(&self, extent: &Extent, skip: u32, length: u32) -> Option<Bytes> {
        let mut last = None;
        for node in &extent.nodes {
            let request = NodeRequest::BlockGet {
                block: extent.block,
                offset: extent.block_offset + skip,
                length,
            };
            let call = Call::NamedNode(*node, request);
            match self.port.call(call, self.deadline_ms).await {
                Ok(Reply::Block(data)) if data.len() == length as usize => return Some(data),
                other => last = Some(other),
            }
        }
        // Nobody else changes these files, so only packing can have moved the bytes: a second for that
        // and its horizon is far more than it takes.
        if self.deadline_ms == VERIFY_DEADLINE_MS {
            self.fail(format!(
                "after the repair, {} cannot be read: {last:?}",
                extent.block
            ));
        }
        None
    }
}
