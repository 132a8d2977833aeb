//! Files in one directory and in many: memory, time of one operation, snapshots.

use std::time::Instant;

use anyhow::{Context, bail};
use bark_core::partition::SnapshotConfig;
use bark_core::state::{State, StateLoader};
use bark_schema::ids::{ClientId, InodeId, PartitionId, TransactionId};
use bark_schema::operation::{
    Command, Entry, FileKind, ListPosition, NewContent, NewInode, Proposal, Query, Reply, RequestId, Step,
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{milliseconds, nanoseconds_each, resident_bytes};

const FILES_PER_DIRECTORY: u64 = 100;
const PAGE_ENTRIES: u32 = 1024;
/// Operations in one measurement, if there are so many files.
const SAMPLES: u64 = 100_000;
/// Files made between two chunks of a snapshot.
const CREATES_PER_CHUNK: u64 = 64;

struct Tree {
    state: State,
    time: i64,
    sequence: u64,
    directories: Vec<InodeId>,
    content: Bytes,
}

/// What listing a directory took: its first page, each page, each entry.
struct Listing {
    first_page_ms: f64,
    page_ms: f64,
    entry_ns: f64,
}

impl Tree {
    fn new(directories: u64, content_bytes: usize) -> anyhow::Result<Tree> {
        let mut state = State::new(PartitionId(0), 1);
        let first = state.allocate_inode_hint().0;
        let inodes: Vec<InodeId> = (first..first + directories).map(InodeId).collect();
        let steps = inodes.iter().flat_map(|inode| {
            let name = Bytes::from(format!("directory-{:07}", inode.0));
            let entry = Entry {
                directory: InodeId::ROOT,
                name,
            };
            let (parent, kind, expected) = (InodeId::ROOT, FileKind::Directory, None);
            let attributes = NewInode::default();
            [
                Step::CreateDirectory {
                    inode: *inode,
                    parent,
                    attributes,
                    quota: None,
                    born: 0,
                },
                Step::InsertEntry {
                    entry,
                    inode: *inode,
                    kind,
                    expected,
                    quota: None,
                    policy: None,
                },
            ]
        });
        let transaction = TransactionId {
            client: ClientId(1),
            sequence: 1,
            attempt: 1,
        };
        let command = Command::Decide {
            transaction,
            commit: true,
            steps: steps.collect(),
            participants: vec![PartitionId(0)],
            reply: Box::new(Reply::Done),
            acknowledged_below: 1,
        };
        let proposal = Proposal {
            time: 1,
            id: None,
            command,
        };
        if let Err(failure) = state.apply(1, &proposal) {
            bail!("directories: {failure:?}");
        }
        Ok(Tree {
            state,
            time: 1,
            sequence: 0,
            directories: inodes,
            content: Bytes::from(vec![7; content_bytes]),
        })
    }

    fn place(&self, file: u64) -> (InodeId, Bytes) {
        let directory = self.directories[(file % self.directories.len() as u64) as usize];
        (directory, Bytes::from(format!("file-{file:08}.txt")))
    }

    fn apply(&mut self, command: Command) -> anyhow::Result<()> {
        self.time += 1_000;
        self.sequence += 1;
        let id = RequestId {
            client: ClientId(2 + self.sequence % 4),
            sequence: self.sequence,
            acknowledged_below: self.sequence.saturating_sub(64),
        };
        let proposal = Proposal {
            time: self.time,
            id: Some(id),
            command,
        };
        match self.state.apply(self.state.applied() + 1, &proposal) {
            Ok(_) => Ok(()),
            Err(failure) => bail!("{failure:?}"),
        }
    }

    fn create(&mut self, file: u64) -> anyhow::Result<()> {
        let (directory, name) = self.place(file);
        let content = NewContent::Inline(self.content.clone());
        let attributes = NewInode {
            mode: 0o644,
            ..NewInode::default()
        };
        self.apply(Command::Create {
            directory,
            name,
            attributes,
            content,
            exclusive: true,
        })
    }

    fn query(&self, query: Query) -> anyhow::Result<Reply> {
        self.state
            .query(0, &query)
            .map_err(|failure| anyhow::anyhow!("{failure:?}"))
    }

    /// Lists one directory.
    fn list(&self, directory: InodeId) -> anyhow::Result<Listing> {
        let (mut after, mut first_page_ms, mut pages, mut count) = (ListPosition::Start, 0.0, 0, 0);
        let start = Instant::now();
        loop {
            let query = Query::ReadDirectory {
                directory,
                after,
                limit: PAGE_ENTRIES,
            };
            let Reply::Directory { entries, more, .. } = self.query(query)? else {
                bail!("not a page");
            };
            pages += 1;
            count += entries.len() as u64;
            if pages == 1 {
                first_page_ms = milliseconds(start);
            }
            match entries.last() {
                Some(last) if more => after = ListPosition::AfterCookie(last.cookie),
                _ => {
                    return Ok(Listing {
                        first_page_ms,
                        page_ms: milliseconds(start) / pages as f64,
                        entry_ns: nanoseconds_each(start, count),
                    });
                }
            }
        }
    }
}

pub fn measure(layout: &str, files: u64, content_bytes: usize) -> anyhow::Result<Value> {
    let directories = match layout {
        "one" => 1,
        _ => files.div_ceil(FILES_PER_DIRECTORY),
    };
    let mut tree = Tree::new(directories, content_bytes)?;
    let samples = SAMPLES.min(files);
    let memory = resident_bytes();
    (0..files - samples).try_for_each(|file| tree.create(file))?;
    let start = Instant::now();
    (files - samples..files).try_for_each(|file| tree.create(file))?;
    let create_ns = nanoseconds_each(start, samples);
    let bytes_per_inode = (resident_bytes().saturating_sub(memory)) as f64 / files as f64;

    // A stride that meets every file in an order that no cache foresees.
    let file = |sample: u64| sample * 7_368_787 % files;
    let start = Instant::now();
    let mut inodes = Vec::new();
    for sample in 0..samples {
        let (directory, name) = tree.place(file(sample));
        match tree.query(Query::Lookup { directory, name })? {
            Reply::Entry { inode, .. } => inodes.push(inode),
            other => bail!("{other:?}"),
        }
    }
    let lookup_ns = nanoseconds_each(start, samples);
    let start = Instant::now();
    for inode in inodes {
        tree.query(Query::Attributes { inode })?;
    }
    let stat_ns = nanoseconds_each(start, samples);
    let listing = tree.list(tree.directories[0])?;
    let snapshot = measure_snapshot(&mut tree, files)?;
    let start = Instant::now();
    for sample in 0..samples {
        let (directory, name) = tree.place(file(sample));
        tree.apply(Command::Unlink { directory, name })?;
    }
    let unlink_ns = nanoseconds_each(start, samples);
    let mut row = json!({"case": "tree", "layout": layout, "files": files, "content_bytes": content_bytes,
        "bytes_per_inode": bytes_per_inode, "create_ns": create_ns, "lookup_ns": lookup_ns, "stat_ns": stat_ns,
        "first_page_ms": listing.first_page_ms, "page_ms": listing.page_ms, "readdir_ns": listing.entry_ns, "unlink_ns": unlink_ns});
    let fields = row.as_object_mut().context("an object")?;
    fields.extend(snapshot.as_object().context("an object")?.clone());
    Ok(row)
}

/// A snapshot while files are made, and loading it.
fn measure_snapshot(tree: &mut Tree, files: u64) -> anyhow::Result<Value> {
    let chunk_size_bytes = SnapshotConfig::default().chunk_size_bytes;
    let start = Instant::now();
    let mark = tree.state.begin_snapshot();
    let mut longest_ms = milliseconds(start);
    let (mut chunks, mut next_file) = (Vec::new(), files);
    let mut snapshot_ms = longest_ms;
    loop {
        let start = Instant::now();
        let chunk = tree.state.snapshot_chunk(chunk_size_bytes);
        snapshot_ms += milliseconds(start);
        longest_ms = longest_ms.max(milliseconds(start));
        let Some(chunk) = chunk else { break };
        chunks.push(chunk);
        for _ in 0..CREATES_PER_CHUNK {
            let start = Instant::now();
            tree.create(next_file)?;
            longest_ms = longest_ms.max(milliseconds(start));
            next_file += 1;
        }
    }
    let snapshot_bytes: usize = chunks.iter().map(Vec::len).sum();
    let start = Instant::now();
    let mut loader = StateLoader::new();
    for chunk in &chunks {
        loader.feed(chunk)?;
    }
    let loaded = loader.finish()?;
    let load_ms = milliseconds(start);
    anyhow::ensure!(loaded.hash() == mark.hash, "the loaded state is another one");
    Ok(
        json!({"snapshot_bytes": snapshot_bytes, "snapshot_ms": snapshot_ms, "load_ms": load_ms,
        "longest_pause_ms": longest_ms}),
    )
}

pub fn print(rows: &[Value]) {
    println!(
        "{:22} {:>9} {:>8} {:>8} {:>8} {:>7} {:>9} {:>8} {:>8}",
        "files", "", "B/inode", "create", "lookup", "stat", "1st page", "page", "unlink"
    );
    println!(
        "{:22} {:>9} {:>8} {:>8} {:>8} {:>7} {:>9} {:>8} {:>8}",
        "", "", "", "ns", "ns", "ns", "ms", "ms", "ns"
    );
    let trees = || rows.iter().filter(|row| row["case"] == "tree");
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let name = |row: &Value| {
        let content = number(row, "content_bytes");
        match row["layout"].as_str() {
            Some("one") => "in one directory".to_owned(),
            _ if content > 0.0 => format!("of {content} B each"),
            _ => format!("{FILES_PER_DIRECTORY} in each directory"),
        }
    };
    for row in trees() {
        println!(
            "{:22} {:>9} {:>8.0} {:>8.0} {:>8.0} {:>7.0} {:>9.2} {:>8.2} {:>8.0}",
            name(row),
            number(row, "files"),
            number(row, "bytes_per_inode") - number(row, "content_bytes"),
            number(row, "create_ns"),
            number(row, "lookup_ns"),
            number(row, "stat_ns"),
            number(row, "first_page_ms"),
            number(row, "page_ms"),
            number(row, "unlink_ns")
        );
    }
    println!(
        "\n{:22} {:>9} {:>8} {:>8} {:>8} {:>14}",
        "snapshots under load", "files", "MiB", "write ms", "load ms", "longest pause"
    );
    for row in trees() {
        println!(
            "{:22} {:>9} {:>8.1} {:>8.0} {:>8.0} {:>11.2} ms",
            name(row),
            number(row, "files"),
            number(row, "snapshot_bytes") / f64::from(1 << 20),
            number(row, "snapshot_ms"),
            number(row, "load_ms"),
            number(row, "longest_pause_ms")
        );
    }
}
