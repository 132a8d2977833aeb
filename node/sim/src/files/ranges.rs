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
use bark_schema::data::{Allocation, DataCommand, DataQuery, FileUpdate, NewBytes, NewPiece, SeekTarget};
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{
    AttributeChange, Attributes, Command, Extent, Failure, NewContent, NodeRequest, Query, Refusal, Reply,
};
use bytes::Bytes;

use super::owner::make_root;
use super::reader::{self, Found};
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};

/// In one directory, and in another whose files may live in another partition.
const FILES: [usize; 2] = [2, 1];
const SIZE_MAX: u64 = 60_000;
/// Of one update; all of them together fit into a log entry.
const PIECES_MAX: usize = 5;
/// The unit of `Attributes::blocks`.
const BLOCK_UNIT: u64 = 512;

struct File {
    inode: InodeId,
    /// None is a byte nothing is foretold about.
    content: Vec<Option<u8>>,
    /// Goes up by one with every change that is done; None if one may have been.
    version: Option<u64>,
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

pub async fn ranges(port: Port, random: Random, number: usize, nodes: u16) {
    let mut work = Work {
        port: port.clone(),
        random,
        client: ClientId(1000 + number as u64),
        number,
        nodes,
        files: Vec::new(),
        next_block: 1,
        deadline_ms: WORK_DEADLINE_MS,
    };
    for (place, count) in FILES.iter().enumerate() {
        let Some(directory) = make_root(&port, &format!("bytes-{number}-{place}")).await else {
            break;
        };
        let wanted = work.files.len() + count;
        let mut attempt = 0;
        while port.works() && work.files.len() < wanted {
            attempt += 1;
            work.create(directory, attempt).await;
        }
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
        let fate = self.port.change(call, self.deadline_ms).await;
        if let Fate::Refused(refusal, sentence) = &fate {
            if !allowed.contains(refusal) {
                self.fail(format!("{what} was refused ({refusal:?}: {sentence})"));
            }
            return Fate::Nothing;
        }
        fate
    }

    /// Changes one file, whose version tells how often that was done.
    async fn command(&mut self, what: &str, index: usize, command: Command, allowed: &[Refusal]) -> Fate {
        let File { inode, content, .. } = &self.files[index];
        let (partition, raises) = (inode.home(), raises(&command, content.len() as u64));
        let fate = self
            .change(what, Call::Command { partition, command }, allowed)
            .await;
        let seen = match &fate {
            Fate::Done(Reply::Attributes(seen)) => seen,
            Fate::Done(Reply::Copied(copied)) => &copied.attributes,
            Fate::Unsure => {
                self.files[index].version = None;
                return fate;
            }
            _ => return fate,
        };
        let expected = self.files[index].version.map(|version| version + raises);
        if expected.is_some_and(|expected| expected != seen.version) {
            self.fail(format!(
                "{} has version {} after {what}, expected {expected:?}",
                seen.inode, seen.version
            ));
        }
        self.files[index].version = expected.map(|_| seen.version);
        fate
    }

    async fn create(&mut self, directory: InodeId, attempt: usize) {
        let command = Command::Create {
            directory,
            name: name(&format!("file-{attempt}")),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        let partition = directory.home();
        let call = Call::Command { partition, command };
        if let Fate::Done(Reply::Created { attributes, .. }) = self.change("create", call, &[]).await {
            self.files.push(File {
                inode: attributes.inode,
                content: Vec::new(),
                version: Some(attributes.version),
                lost: false,
            });
        }
    }

    async fn step(&mut self) {
        let index = self.random.below(self.files.len() as u64) as usize;
        if self.files[index].lost {
            return;
        }
        match self.random.below(18) {
            0..=4 => self.write(index).await,
            5..=7 => self.publish(index).await,
            8..=9 => self.allocate(index).await,
            10 => self.resize(index).await,
            11..=12 => self.copy(index).await,
            13 => {
                let home = self.files[index].inode.home();
                drop(self.store(home, 100).await);
            }
            14 => self.seek(index, SeekTarget::Data).await,
            15 => self.seek(index, SeekTarget::Hole).await,
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
            Fate::Nothing | Fate::Refused(..) => {}
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
        let mut pieces = vec![NewPiece { offset, data }];
        let command = match appends || self.random.chance(2) {
            true => DataCommand::Write {
                inode,
                offset: Some(offset).filter(|_| !appends),
                data: pieces[0].data.clone(),
            },
            // As mounts do, several at once and with attributes.
            false => DataCommand::Update(Box::new(FileUpdate {
                bytes: {
                    while pieces.len() < PIECES_MAX
                        && self.random.chance(2)
                        && let Some(end) = pieces.last().and_then(NewPiece::end)
                    {
                        let offset = end + self.random.below(2_000);
                        let data = self.some_bytes(size_max);
                        pieces.push(NewPiece { offset, data });
                    }
                    NewBytes::Pieces(pieces.clone())
                },
                change: AttributeChange {
                    mode: Some(0o600),
                    ..AttributeChange::default()
                },
                written: Some(1),
                ..FileUpdate::of(inode)
            })),
        };
        let fate = self.command("a write", index, Command::Data(command), &[]).await;
        for NewPiece { offset, data } in pieces {
            let known: Vec<Option<u8>> = data.iter().map(|byte| Some(*byte)).collect();
            self.lay(index, offset, &fate, &known);
        }
    }

    /// Stores a block for files of that partition; nothing points into it yet.
    async fn store(&mut self, home: PartitionId, size_max: u64) -> Option<(Bytes, Extent)> {
        let data = self.some_bytes(size_max);
        // Odd ones; the client's other script has the even ones.
        self.next_block += 2;
        let block = BlockId::new(self.client, home, self.next_block);
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
        let inode = self.files[index].inode;
        let Some((data, mut extent)) = self.store(inode.home(), 9_000).await else {
            return;
        };
        if self.random.chance(10) {
            // Long enough to be taken for dead.
            self.port.sleep(12_000_000).await;
        }
        if self.random.chance(8) {
            return self.abandon(index, &extent).await;
        }
        extent.offset = self.some_offset(index);
        let offset = extent.offset;
        let command = Command::Publish {
            inode,
            size: extent.end(),
            extents: vec![extent.clone()],
            replace_all: false,
            base_version: None,
        };
        // A conflict: the block was given up before it was published.
        let allowed = [Refusal::Conflict];
        let fate = self.command("a publish", index, command, &allowed).await;
        let known: Vec<Option<u8>> = data.iter().map(|byte| Some(*byte)).collect();
        self.lay(index, offset, &fate, &known);
        if !matches!(fate, Fate::Unsure) && self.random.chance(8) {
            // What is in use stays, whatever a client says.
            self.abandon(index, &extent).await;
        }
    }

    /// Gives up a block that was stored.
    async fn abandon(&mut self, index: usize, extent: &Extent) {
        let command = Command::Data(DataCommand::AbandonBlocks {
            blocks: vec![extent.block],
            nodes: extent.nodes.clone(),
        });
        self.command("giving up a block", index, command, &[]).await;
    }

    async fn allocate(&mut self, index: usize) {
        let inode = self.files[index].inode;
        let (offset, length) = (self.some_offset(index), 1 + self.random.below(9_000));
        let size = self.files[index].content.len() as u64;
        let all = [Allocation::PunchHole, Allocation::ZeroRange, Allocation::Reserve];
        let how = all[self.random.below(3) as usize];
        let keep_size = self.random.chance(2);
        let command = DataCommand::Allocate {
            inode,
            offset,
            length,
            how,
            keep_size,
        };
        let keeps = keep_size || how == Allocation::PunchHole;
        let fate = self
            .command("an allocation", index, Command::Data(command), &[])
            .await;
        let start = match how {
            Allocation::Reserve => size.max(offset),
            _ => offset,
        };
        let end = match keeps {
            true => (offset + length).min(size),
            false => offset + length,
        };
        if start < end {
            self.lay(index, start, &fate, &vec![Some(0); (end - start) as usize]);
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
        let fate = self.command("a truncation", index, command, &[]).await;
        let file = &mut self.files[index];
        match fate {
            Fate::Done(_) => file.content.resize(size as usize, Some(0)),
            Fate::Unsure => file.lost = true,
            Fate::Nothing | Fate::Refused(..) => {}
        }
    }

    /// Within one file too; ranges that overlap, and files of different partitions, are refused.
    async fn copy(&mut self, to: usize) {
        let from = self.random.below(self.files.len() as u64) as usize;
        let size = self.files[from].content.len() as u64;
        if size == 0 || self.files[from].lost {
            return;
        }
        let from_offset = self.random.below(size);
        let length = (1 + self.random.below(20_000)).min(size - from_offset);
        let to_offset = self.random.below(SIZE_MAX / 2);
        let (source, target) = (self.files[from].inode, self.files[to].inode);
        let overlaps = from == to && from_offset < to_offset + length && to_offset < from_offset + length;
        let allowed: &[Refusal] = match overlaps {
            true => &[Refusal::InvalidArgument],
            false => &[],
        };
        let command = DataCommand::CopyRange {
            from: source,
            from_offset,
            to: target,
            to_offset,
            length,
        };
        let fate = self.command("a copy", to, Command::Data(command), allowed).await;
        let copied = match &fate {
            Fate::Done(Reply::Copied(copied)) => copied.length,
            _ => length,
        };
        if matches!(fate, Fate::Done(_)) && (overlaps || source.home() != target.home()) {
            self.fail(format!(
                "a copy from {source} to {target} was done (overlap: {overlaps})"
            ));
        }
        let bytes = self.files[from].content[from_offset as usize..(from_offset + copied) as usize].to_vec();
        self.lay(to, to_offset, &fate, &bytes);
    }

    /// Holes read as zeros; the end of the file counts as one.
    async fn seek(&mut self, index: usize, target: SeekTarget) {
        let inode = self.files[index].inode;
        let offset = self.some_offset(index);
        let query = Query::Data(DataQuery::Seek {
            inode,
            offset,
            target,
        });
        let partition = inode.home();
        let found = self
            .port
            .call(Call::Query { partition, query }, self.deadline_ms)
            .await;
        let content = &self.files[index].content;
        let size = content.len();
        // What is said to be a hole: up to the data found, or the byte at the hole found.
        let (from, to) = match (found, target) {
            (Ok(Reply::Count(data)), SeekTarget::Data) => (offset as usize, data as usize),
            (Ok(Reply::Count(hole)), SeekTarget::Hole) => (hole as usize, hole as usize + 1),
            (Err(Failure::Refused(Refusal::BeyondEnd, _)), SeekTarget::Data) => {
                ((offset as usize).min(size), size)
            }
            (Err(Failure::Refused(Refusal::BeyondEnd, _)), SeekTarget::Hole) => {
                if (offset as usize) < size {
                    self.fail(format!("{inode} is said to end before {offset} of {size} bytes"));
                }
                return;
            }
            (Ok(other), _) => return self.fail(format!("a seek was answered {other:?}")),
            (Err(_), _) => return,
        };
        if from < (offset as usize).min(size) || from > size {
            self.fail(format!(
                "a seek of {target:?} from {offset} of {inode} came to {from}"
            ));
        }
        let hole = content.get(from..to.min(size).max(from)).unwrap_or_default();
        if hole.iter().any(|byte| byte.is_some_and(|byte| byte != 0)) {
            self.fail(format!("{inode} is said to have a hole where bytes were written"));
        }
    }

    /// Reads a whole file and compares what is known of it.
    async fn read(&mut self, index: usize) {
        let inode = self.files[index].inode;
        if self.files[index].lost {
            return;
        }
        match reader::read(&self.port, inode, self.deadline_ms).await {
            Found::Content(seen, found) => self.compare(index, &seen, &found),
            Found::Refused(refusal, sentence) => {
                self.fail(format!("{inode} cannot be read: {refusal:?}, {sentence}"));
            }
            Found::Unread if self.deadline_ms == VERIFY_DEADLINE_MS => {
                self.fail(format!("after the repair, {inode} cannot be read"));
            }
            Found::Lost | Found::Unread => {}
        }
    }

    fn compare(&self, index: usize, seen: &Attributes, found: &[u8]) {
        let File {
            inode,
            content,
            version,
            ..
        } = &self.files[index];
        let differs = |(known, found): (&Option<u8>, &u8)| known.is_some_and(|known| known != *found);
        if found.len() != content.len() {
            let (now, written) = (found.len(), content.len());
            self.fail(format!("{inode} has {now} bytes, {written} were written"));
        } else if content.iter().zip(found).any(differs) {
            self.fail(format!("{inode} holds other bytes than were written"));
        }
        if version.is_some_and(|version| version != seen.version) {
            let now = seen.version;
            self.fail(format!("{inode} has version {now}, expected {version:?}"));
        }
        // Only holes are zeros that take no space.
        let stored_min = content
            .iter()
            .filter(|byte| byte.is_some_and(|byte| byte != 0))
            .count() as u64;
        if seen.blocks * BLOCK_UNIT < stored_min {
            self.fail(format!(
                "{inode} takes {} blocks for {stored_min} bytes",
                seen.blocks
            ));
        }
    }
}

/// How much a command raises the version of a file of this size.
fn raises(command: &Command, size: u64) -> u64 {
    let reserves_nothing = matches!(
        command,
        Command::Data(DataCommand::Allocate {
            how: Allocation::Reserve,
            offset,
            length,
            keep_size,
            ..
        }) if *keep_size || offset + length <= size
    );
    match command {
        Command::Data(DataCommand::Update(update)) => match &update.bytes {
            NewBytes::Pieces(pieces) => pieces.len() as u64,
            _ => 1,
        },
        _ => u64::from(!reserves_nothing),
    }
}
