//! What clients do to files: one alone in its own directory, with every answer foretold; and a crowd that
//! fights over few names, whose work is judged by the tree it leaves behind.
//!
//! A name or file touched by an operation whose outcome is not known is put aside: the request may still
//! take effect at any time, so nothing about it can be foretold any more.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::checksum::crc32c;
use bark_core::random::Random;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::limits::INLINE_SIZE_MAX;
use bark_schema::operation::{
    Attributes, Command, Content, Entry, Extent, Failure, ListPosition, Namespace, NewContent, NewInode,
    NodeRequest, Outcome, Query, Refusal, RenameMode, Reply,
};
use bytes::Bytes;

use crate::client::{Phase, Port};

const WORK_DEADLINE_MS: u64 = 8_000;
const VERIFY_DEADLINE_MS: u64 = 20_000;
const BLOCK_SIZE_BYTES_MAX: u64 = 12_000;
const ATTRIBUTES: NewInode = NewInode {
    mode: 0o755,
    owner: 1,
    group: 1,
    block_size: 0,
    xattrs: Vec::new(),
};

struct Directory {
    parent: InodeId,
    entries: BTreeMap<String, InodeId>,
    /// Names nothing is foretold about.
    unsure: BTreeSet<String>,
}

struct File {
    content: Vec<u8>,
    in_blocks: bool,
    links: u32,
    /// What it holds, and how often it is linked, is certain.
    sure: bool,
}

struct Private {
    port: Port,
    random: Random,
    number: usize,
    nodes: u16,
    root: InodeId,
    directories: BTreeMap<InodeId, Directory>,
    files: BTreeMap<InodeId, File>,
    next_name: u64,
    next_block: u64,
    deadline_ms: u64,
}

/// What became of a change.
enum Fate {
    Done(Reply),
    Refused(Refusal, String),
    /// Certainly nothing happened.
    Nothing,
    Unsure,
}

/// Works in a directory of its own, and knows what every answer must be.
pub async fn private(port: Port, random: Random, number: usize, _partitions: u16, nodes: u16) {
    let mut work = Private {
        port: port.clone(),
        random,
        number,
        nodes,
        root: InodeId::ROOT,
        directories: BTreeMap::new(),
        files: BTreeMap::new(),
        next_name: 0,
        next_block: 0,
        deadline_ms: WORK_DEADLINE_MS,
    };
    let mut attempt = 0;
    while port.works() && work.directories.is_empty() {
        attempt += 1;
        let name = format!("client-{number}-{attempt}");
        if let Fate::Done(Reply::Created { attributes, .. }) =
            work.make_directory_at(InodeId::ROOT, &name).await
        {
            work.root = attributes.inode;
            let directory = Directory {
                parent: InodeId::ROOT,
                entries: BTreeMap::new(),
                unsure: BTreeSet::new(),
            };
            work.directories.insert(attributes.inode, directory);
        }
    }
    while port.works() {
        work.step().await;
        let pause = work.random.below(60_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    work.deadline_ms = VERIFY_DEADLINE_MS;
    work.verify().await;
}

impl Private {
    async fn change(&self, call: Call) -> Fate {
        match self.port.call(call, self.deadline_ms).await {
            Ok(reply) => Fate::Done(reply),
            Err(Failure::Refused(Refusal::Internal, sentence)) => {
                self.fail(format!("internal error: {sentence}"));
                Fate::Nothing
            }
            Err(Failure::Refused(refusal, sentence)) => Fate::Refused(refusal, sentence),
            Err(failure) if failure.outcome() == Outcome::Unknown => Fate::Unsure,
            Err(_) => Fate::Nothing,
        }
    }

    fn fail(&self, reason: String) {
        self.port
            .stage()
            .fail(format!("files of client {}: {reason}", self.number));
    }

    /// The answer to `what` was foretold as success.
    fn must_be_done(&self, what: &str, fate: &Fate) {
        if let Fate::Refused(refusal, sentence) = fate {
            self.fail(format!(
                "{what} was refused ({refusal:?}: {sentence}) though nothing stood against it"
            ));
        }
    }

    fn must_be_refused(&self, what: &str, fate: &Fate) {
        if let Fate::Done(reply) = fate {
            self.fail(format!("{what} was done ({reply:?}) though it had to be refused"));
        }
    }

    fn any_directory(&mut self) -> InodeId {
        let index = self.random.below(self.directories.len() as u64) as usize;
        self.directories.keys().nth(index).copied().unwrap_or(self.root)
    }

    fn new_name(&mut self) -> String {
        self.next_name += 1;
        format!("n{}", self.next_name)
    }

    /// A name in a directory that exists for certain.
    fn any_entry(&mut self) -> Option<(InodeId, String, InodeId)> {
        let all: Vec<(InodeId, String, InodeId)> = self
            .directories
            .iter()
            .flat_map(|(directory, it)| {
                it.entries
                    .iter()
                    .map(|(name, inode)| (*directory, name.clone(), *inode))
            })
            .collect();
        if all.is_empty() {
            return None;
        }
        Some(all[self.random.below(all.len() as u64) as usize].clone())
    }

    fn any_file(&mut self) -> Option<InodeId> {
        let all: Vec<InodeId> = self
            .files
            .iter()
            .filter(|(_, file)| file.sure)
            .map(|(inode, _)| *inode)
            .collect();
        if all.is_empty() {
            return None;
        }
        Some(all[self.random.below(all.len() as u64) as usize])
    }

    fn some_bytes(&mut self, size_max: u64) -> Vec<u8> {
        let size = 1 + self.random.below(size_max);
        (0..size).map(|_| self.random.next_u64() as u8).collect()
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..=1 => self.make_directory().await,
            2..=5 => self.create().await,
            6..=7 => self.write_inline().await,
            8..=9 => self.publish().await,
            10..=11 => self.read_one().await,
            12..=15 => self.rename().await,
            16 => self.unlink().await,
            17 => self.remove_directory().await,
            18 => self.link().await,
            _ => self.list_one().await,
        }
    }

    async fn make_directory_at(&mut self, directory: InodeId, name: &str) -> Fate {
        let operation = Namespace::MakeDirectory {
            directory,
            name: bytes(name),
            attributes: ATTRIBUTES,
        };
        let fate = self.change(Call::Namespace(operation)).await;
        self.must_be_done(&format!("mkdir {directory}/{name}"), &fate);
        fate
    }

    async fn make_directory(&mut self) {
        let directory = self.any_directory();
        if self.random.chance(5)
            && let Some(name) = self.directories[&directory].entries.keys().next().cloned()
        {
            let operation = Namespace::MakeDirectory {
                directory,
                name: bytes(&name),
                attributes: ATTRIBUTES,
            };
            let fate = self.change(Call::Namespace(operation)).await;
            return self.must_be_refused("mkdir of a taken name", &fate);
        }
        let name = self.new_name();
        match self.make_directory_at(directory, &name).await {
            Fate::Done(Reply::Created { attributes, .. }) => {
                let made = Directory {
                    parent: directory,
                    entries: BTreeMap::new(),
                    unsure: BTreeSet::new(),
                };
                self.directories.insert(attributes.inode, made);
                self.enter(directory, name, attributes.inode);
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    fn enter(&mut self, directory: InodeId, name: String, inode: InodeId) {
        if let Some(directory) = self.directories.get_mut(&directory) {
            directory.entries.insert(name, inode);
        }
    }

    /// Nothing is foretold about this name any more, nor about what it led to.
    fn doubt(&mut self, directory: InodeId, name: String) {
        let Some(known) = self.directories.get_mut(&directory) else {
            return;
        };
        let inode = known.entries.remove(&name);
        known.unsure.insert(name);
        if let Some(inode) = inode {
            self.doubt_inode(inode);
        }
    }

    fn doubt_inode(&mut self, inode: InodeId) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.sure = false;
        }
        // What lies below is still there and unchanged, but how to get there is not certain.
        if let Some(directory) = self.directories.remove(&inode) {
            for below in directory.entries.into_values() {
                self.doubt_inode(below);
            }
        }
    }

    async fn create(&mut self) {
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

    async fn write_inline(&mut self) {
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
    async fn publish(&mut self) {
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

    async fn read_one(&mut self) {
        if let Some(inode) = self.any_file() {
            self.read(inode).await;
        }
    }

    /// Reads a whole file and compares; true if it could be read.
    async fn read(&mut self, inode: InodeId) -> bool {
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

    fn is_below(&self, mut directory: InodeId, ancestor: InodeId) -> bool {
        while let Some(known) = self.directories.get(&directory) {
            if directory == ancestor {
                return true;
            }
            directory = known.parent;
        }
        false
    }

    async fn rename(&mut self) {
        let Some((from_directory, from_name, inode)) = self.any_entry() else {
            return;
        };
        let to_directory = if self.random.chance(3) {
            from_directory
        } else {
            self.any_directory()
        };
        let taken = match self.random.below(3) {
            0 => self.directories[&to_directory]
                .entries
                .iter()
                .next()
                .map(|(name, it)| (name.clone(), *it)),
            _ => None,
        };
        let to_name = taken
            .as_ref()
            .map_or_else(|| self.new_name(), |(name, _)| name.clone());
        let target = taken.map(|(_, target)| target);
        let operation = Namespace::Rename {
            from: Entry {
                directory: from_directory,
                name: bytes(&from_name),
            },
            to: Entry {
                directory: to_directory,
                name: bytes(&to_name),
            },
            mode: RenameMode::Replace,
        };
        let what = format!("rename {from_directory}/{from_name} to {to_directory}/{to_name}");
        let fate = self.change(Call::Namespace(operation)).await;
        let moves_directory = self.directories.contains_key(&inode);
        let unsure_target = target
            .and_then(|it| self.directories.get(&it))
            .is_some_and(|it| !it.unsure.is_empty());
        let refusal_due = if moves_directory && self.is_below(to_directory, inode) && target != Some(inode) {
            true
        } else {
            match target {
                Some(target) if target == inode => false,
                Some(target) => match (moves_directory, self.directories.get(&target)) {
                    (true, Some(replaced)) => !replaced.entries.is_empty(),
                    (false, None) => false,
                    _ => true,
                },
                None => false,
            }
        };
        if refusal_due {
            self.must_be_refused(&what, &fate);
        } else if !unsure_target {
            self.must_be_done(&what, &fate);
        }
        match fate {
            Fate::Done(_) if target == Some(inode) => {}
            Fate::Done(_) => {
                if let Some(target) = target {
                    self.directories.remove(&target);
                    self.drop_link(target);
                }
                if let Some(from) = self.directories.get_mut(&from_directory) {
                    from.entries.remove(&from_name);
                }
                if let Some(moved) = self.directories.get_mut(&inode) {
                    moved.parent = to_directory;
                }
                self.enter(to_directory, to_name, inode);
            }
            Fate::Unsure => {
                self.doubt(from_directory, from_name);
                self.doubt(to_directory, to_name);
            }
            _ => {}
        }
    }

    fn drop_link(&mut self, inode: InodeId) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.links -= 1;
            if file.links == 0 {
                self.files.remove(&inode);
            }
        }
    }

    async fn unlink(&mut self) {
        let Some((directory, name, inode)) = self.any_entry() else {
            return;
        };
        let operation = Namespace::Unlink {
            directory,
            name: bytes(&name),
        };
        let fate = self.change(Call::Namespace(operation)).await;
        if self.directories.contains_key(&inode) {
            return self.must_be_refused("unlink of a directory", &fate);
        }
        self.must_be_done(&format!("unlink {directory}/{name}"), &fate);
        match fate {
            Fate::Done(_) => {
                if let Some(directory) = self.directories.get_mut(&directory) {
                    directory.entries.remove(&name);
                }
                self.drop_link(inode);
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    async fn remove_directory(&mut self) {
        let Some((directory, name, inode)) = self.any_entry() else {
            return;
        };
        let operation = Namespace::RemoveDirectory {
            directory,
            name: bytes(&name),
        };
        let fate = self.change(Call::Namespace(operation)).await;
        match self.directories.get(&inode) {
            None => return self.must_be_refused("rmdir of a file", &fate),
            Some(known) if !known.entries.is_empty() => {
                return self.must_be_refused(&format!("rmdir {directory}/{name}, which has entries,"), &fate);
            }
            Some(known) if known.unsure.is_empty() => {
                self.must_be_done(&format!("rmdir {directory}/{name}"), &fate)
            }
            Some(_) => {}
        }
        match fate {
            Fate::Done(_) => {
                self.directories.remove(&inode);
                if let Some(directory) = self.directories.get_mut(&directory) {
                    directory.entries.remove(&name);
                }
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    async fn link(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let directory = self.any_directory();
        let name = self.new_name();
        let operation = Namespace::Link {
            inode,
            to: Entry {
                directory,
                name: bytes(&name),
            },
        };
        let fate = self.change(Call::Namespace(operation)).await;
        self.must_be_done(&format!("link {inode} as {directory}/{name}"), &fate);
        match fate {
            Fate::Done(_) => {
                if let Some(file) = self.files.get_mut(&inode) {
                    file.links += 1;
                }
                self.enter(directory, name, inode);
            }
            Fate::Unsure => {
                self.doubt(directory, name);
                self.doubt_inode(inode);
            }
            _ => {}
        }
    }

    async fn list_one(&mut self) {
        let directory = self.any_directory();
        self.list(directory).await;
    }

    /// Lists a directory and compares the names; true if it could be listed.
    async fn list(&mut self, directory: InodeId) -> bool {
        let query = Query::ReadDirectory {
            directory,
            after: ListPosition::Start,
            limit: 4096,
        };
        let call = Call::Query {
            partition: directory.home(),
            query,
        };
        let (entries, parent) = match self.port.call(call, self.deadline_ms).await {
            Ok(Reply::Directory { entries, parent, .. }) => (entries, parent),
            Ok(other) => {
                self.fail(format!("list of {directory} was answered {other:?}"));
                return false;
            }
            Err(Failure::Refused(refusal, sentence)) => {
                self.fail(format!("{directory} cannot be listed: {refusal:?}, {sentence}"));
                return false;
            }
            Err(_) => return false,
        };
        let known = &self.directories[&directory];
        let found: BTreeMap<String, InodeId> = entries
            .into_iter()
            .map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry.inode))
            .filter(|(name, _)| !known.unsure.contains(name))
            .collect();
        if found != known.entries || parent != known.parent {
            self.fail(format!(
                "{directory} (parent {parent}) lists {found:?}, expected {:?} (parent {})",
                known.entries, known.parent
            ));
        }
        true
    }

    /// Everything acknowledged is there.
    async fn verify(&mut self) {
        for directory in self.directories.keys().copied().collect::<Vec<_>>() {
            if !self.list(directory).await {
                return self.fail(format!("after the repair, {directory} cannot be listed"));
            }
        }
        let files: Vec<InodeId> = self
            .files
            .iter()
            .filter(|(_, file)| file.sure)
            .map(|(inode, _)| *inode)
            .collect();
        for inode in files {
            if !self.read(inode).await {
                return self.fail(format!("after the repair, {inode} cannot be read"));
            }
            if let Some(attributes) = self.attributes(inode).await
                && attributes.link_count != self.files[&inode].links
            {
                let links = self.files[&inode].links;
                self.fail(format!(
                    "{inode} has link count {}, expected {links}",
                    attributes.link_count
                ));
            }
        }
    }

    async fn attributes(&self, inode: InodeId) -> Option<Attributes> {
        let call = Call::Query {
            partition: inode.home(),
            query: Query::Attributes { inode },
        };
        match self.port.call(call, self.deadline_ms).await {
            Ok(Reply::Attributes(attributes)) => Some(attributes),
            other => {
                self.fail(format!("attributes of {inode} were answered {other:?}"));
                None
            }
        }
    }
}

/// Directories and files the crowd knows of; they may be gone already.
#[derive(Default)]
pub struct SharedTree {
    directories: Vec<InodeId>,
    files: Vec<InodeId>,
}

/// Fights with others over few names.
pub async fn crowd(port: Port, mut random: Random, tree: Rc<RefCell<SharedTree>>) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    tree.borrow_mut().directories.push(InodeId::ROOT);
    while port.works() {
        let (one, other, file) = {
            let tree = tree.borrow();
            let any = |random: &mut Random| {
                // The oldest directories are met most, so that fights happen.
                let count = tree.directories.len().min(8) as u64;
                tree.directories[random.below(count) as usize]
            };
            let (one, other) = (any(&mut random), any(&mut random));
            let file = match tree.files.len() {
                0 => None,
                count => Some(tree.files[random.below(count as u64) as usize]),
            };
            (one, other, file)
        };
        let name = bytes(NAMES[random.below(4) as usize]);
        let other_name = bytes(NAMES[random.below(4) as usize]);
        let from = Entry {
            directory: one,
            name: name.clone(),
        };
        let to = Entry {
            directory: other,
            name: other_name,
        };
        let call = match random.below(12) {
            0..=3 => Call::Namespace(Namespace::MakeDirectory {
                directory: one,
                name,
                attributes: ATTRIBUTES,
            }),
            4..=5 => {
                let content = NewContent::Inline(Bytes::from_static(b"crowd"));
                let command = Command::Create {
                    directory: one,
                    name,
                    attributes: ATTRIBUTES,
                    content,
                    exclusive: false,
                };
                Call::Command {
                    partition: PartitionId(one.home().0),
                    command,
                }
            }
            6..=8 => Call::Namespace(Namespace::Rename {
                from,
                to,
                mode: match random.below(4) {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                },
            }),
            9 => Call::Namespace(Namespace::Unlink { directory: one, name }),
            10 => Call::Namespace(Namespace::RemoveDirectory { directory: one, name }),
            _ => match file {
                Some(inode) => Call::Namespace(Namespace::Link { inode, to }),
                None => continue,
            },
        };
        let makes_directory = matches!(call, Call::Namespace(Namespace::MakeDirectory { .. }));
        match port.call(call, WORK_DEADLINE_MS).await {
            Ok(Reply::Created { attributes, .. }) if makes_directory => {
                tree.borrow_mut().directories.push(attributes.inode);
            }
            Ok(Reply::Created { attributes, .. }) => tree.borrow_mut().files.push(attributes.inode),
            Err(Failure::Refused(Refusal::Internal, sentence)) => {
                port.stage()
                    .fail(format!("the crowd met an internal error: {sentence}"));
            }
            _ => {}
        }
        port.sleep(random.below(30_000)).await;
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
