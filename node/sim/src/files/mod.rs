//! What clients do to files: one alone in its own directory, with every answer foretold; and a crowd that
//! fights over few names, whose work is judged by the tree it leaves behind.
//!
//! A name or file touched by an operation whose outcome is not known is put aside: the request may still
//! take effect at any time, so nothing about it can be foretold any more.

use std::collections::{BTreeMap, BTreeSet};

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, Failure, ListPosition, NewInode, Outcome, Query, Refusal, Reply};
use bytes::Bytes;

use crate::client::{Phase, Port};

mod content;
mod crowd;
mod names;

pub use crowd::{SharedTree, crowd};

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

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
