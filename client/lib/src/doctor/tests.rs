//! Planted inconsistencies of each kind are found; what only moves is not.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bark_schema::audit::{AuditBlock, AuditCheck, AuditFault, AuditName, AuditTransaction};
use bark_schema::ids::{BlockId, ClientId, InodeId, TransactionId};
use bark_schema::operation::{ClusterStatus, DirectoryEntry, FileKind, ListPosition, PartitionStatus};
use bark_schema::usage::{Usage, UsageReport};

use super::*;

/// Rows of two partitions and blocks of two nodes, to be made wrong.
#[derive(Clone, Default)]
struct Rows {
    entries: Vec<AuditName>,
    names: Vec<AuditName>,
    records: Vec<AuditBlock>,
    copies: BTreeMap<NodeNumber, Vec<AuditBlock>>,
    told: Vec<UsageReport>,
    taken: Vec<UsageReport>,
    faults: Vec<AuditFault>,
    transactions: Vec<AuditTransaction>,
    hashes: BTreeMap<NodeNumber, u64>,
    silent: Option<NodeNumber>,
}

struct Planted {
    rows: RefCell<Rows>,
    /// What the rows become while the examination goes on, after so many questions.
    then: Option<(u32, Rows)>,
    asked: Cell<u32>,
}

const DIRECTORY: InodeId = InodeId(1 << 48 | 1);
const FILE: InodeId = InodeId(2);
const DEEP: InodeId = InodeId(1 << 48 | 2);

fn name(inode: InodeId, directory: InodeId, kind: FileKind, cookie: u64) -> AuditName {
    AuditName {
        inode,
        directory,
        kind,
        count: 1,
        cookie,
    }
}

fn block(counter: u64) -> BlockId {
    BlockId::new(ClientId(7), PartitionId((counter % 2) as u16), counter)
}

fn stored(counter: u64, nodes: &[u16]) -> AuditBlock {
    AuditBlock {
        block: block(counter),
        size: 100,
        checksum: 5,
        nodes: nodes.iter().copied().map(NodeNumber).collect(),
    }
}

fn report(directory: InodeId, contributor: InodeId, version: u64) -> UsageReport {
    UsageReport {
        directory,
        contributor,
        usage: Usage {
            bytes: 7,
            stored: 7,
            inodes: 1,
        },
        version,
        quota: None,
    }
}

/// `/directory`, `/file` and `/directory/deep`, six blocks on both nodes.
fn sound() -> Rows {
    let (directory, file) = (FileKind::Directory, FileKind::Regular);
    Rows {
        entries: vec![
            name(DIRECTORY, InodeId::ROOT, directory, 100),
            name(FILE, InodeId::ROOT, file, 200),
            name(DEEP, DIRECTORY, directory, 300),
        ],
        names: vec![
            name(DIRECTORY, InodeId::ROOT, directory, 0),
            name(FILE, InodeId::ROOT, file, 0),
            name(DEEP, DIRECTORY, directory, 0),
        ],
        records: (1..7).map(|counter| stored(counter, &[1, 2])).collect(),
        copies: [1, 2]
            .map(|node| {
                (
                    NodeNumber(node),
                    (1..9).map(|counter| stored(counter, &[])).collect(),
                )
            })
            .into(),
        told: vec![report(InodeId::ROOT, DIRECTORY, 4)],
        taken: vec![report(InodeId::ROOT, DIRECTORY, 4)],
        hashes: [(NodeNumber(1), 9), (NodeNumber(2), 9)].into(),
        ..Rows::default()
    }
}

/// Pages of one row each, so that every joint between two pages is met.
fn page_of<T: Clone>(
    rows: impl Iterator<Item = (AuditPosition, T)>,
    from: AuditPosition,
) -> (Vec<T>, Option<AuditPosition>) {
    let mut rows: Vec<(AuditPosition, T)> = rows.filter(|(position, _)| *position >= from).collect();
    rows.sort_by_key(|(position, _)| *position);
    let next = rows.get(1).map(|(position, _)| *position);
    (
        rows.first().map(|(_, row)| row.clone()).into_iter().collect(),
        next,
    )
}

fn at(high: u64, low: u64) -> AuditPosition {
    AuditPosition { high, low }
}

impl Rows {
    fn page(&self, partition: PartitionId, part: AuditPart, from: AuditPosition) -> AuditPage {
        let mut page = AuditPage {
            now_ms: 1_000_000,
            ..AuditPage::default()
        };
        match part {
            AuditPart::Files => {
                // An inode's own names come with its number, its entries with their cookies.
                let names = self.names.iter().filter(|name| name.inode.home() == partition);
                let entries = self
                    .entries
                    .iter()
                    .filter(|name| name.directory.home() == partition);
                let rows = names
                    .map(|name| (at(name.inode.0, 0), (true, *name)))
                    .chain(entries.map(|entry| (at(entry.directory.0, entry.cookie), (false, *entry))));
                let (rows, next) = page_of(rows, from);
                page.next = next;
                for (is_name, row) in rows {
                    match is_name {
                        true => page.names.push(row),
                        false => page.entries.push(row),
                    }
                }
            }
            AuditPart::Blocks => {
                let records = self
                    .records
                    .iter()
                    .filter(|it| it.block.home() == Some(partition));
                let rows = records.map(|it| (at(it.block.client.0, it.block.counter), it.clone()));
                (page.blocks, page.next) = page_of(rows, from);
            }
            AuditPart::Usages => {
                let told = self.told.iter().filter(|it| it.contributor.home() == partition);
                let taken = self.taken.iter().filter(|it| it.directory.home() == partition);
                let rows = told
                    .map(|it| (at(it.contributor.0, 0), (true, it.clone())))
                    .chain(taken.map(|it| (at(it.directory.0, it.contributor.0), (false, it.clone()))));
                let (rows, next) = page_of(rows, from);
                page.next = next;
                for (is_told, row) in rows {
                    match is_told {
                        true => page.told.push(row),
                        false => page.taken.push(row),
                    }
                }
            }
            AuditPart::Counters if partition.0 == 0 => page.faults = self.faults.clone(),
            AuditPart::Locks if partition.0 == 0 => page.transactions = self.transactions.clone(),
            _ => {}
        }
        page
    }

    fn list(&self, directory: InodeId, after: &ListPosition) -> Result<Reply, Failure> {
        let cookie = match after {
            ListPosition::AfterCookie(cookie) => *cookie,
            _ => u64::MAX,
        };
        let parent = self.names.iter().find(|name| name.inode == directory);
        let inside = self.entries.iter().filter(|entry| entry.directory == directory);
        let next = inside
            .filter(|entry| entry.cookie > cookie)
            .min_by_key(|entry| entry.cookie);
        let named = next.map(|entry| DirectoryEntry {
            name: format!("name-{}", entry.cookie).into(),
            inode: entry.inode,
            kind: entry.kind,
            attributes: None,
            cookie: entry.cookie,
        });
        Ok(Reply::Directory {
            entries: named.into_iter().collect(),
            more: false,
            parent: parent.map_or(InodeId::ROOT, |name| name.directory),
        })
    }
}

impl Planted {
    fn count(&self) {
        self.asked.set(self.asked.get() + 1);
        if let Some((after, then)) = &self.then
            && self.asked.get() == *after
        {
            self.rows.replace(then.clone());
        }
    }
}

impl Source for Planted {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.count();
        let rows = self.rows.borrow();
        match query {
            Query::Audit(AuditQuery::Page { part, from, .. }) => {
                Ok(Reply::Audit(Box::new(rows.page(partition, part, from))))
            }
            Query::Audit(AuditQuery::Entries { directory, inode }) => {
                let mut page = AuditPage::default();
                let entries = rows.entries.iter();
                page.entries = entries
                    .filter(|entry| entry.directory == directory && entry.inode == inode)
                    .copied()
                    .collect();
                Ok(Reply::Audit(Box::new(page)))
            }
            Query::Audit(AuditQuery::Names { inode }) => {
                let mut page = AuditPage::default();
                page.names
                    .extend(rows.names.iter().filter(|name| name.inode == inode));
                page.rows = u64::from(!page.names.is_empty());
                Ok(Reply::Audit(Box::new(page)))
            }
            Query::ReadDirectory { directory, after, .. } => rows.list(directory, &after),
            other => panic!("the doctor asks {other:?}"),
        }
    }

    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure> {
        self.count();
        let rows = self.rows.borrow();
        if rows.silent == Some(node) {
            return Err(Failure::Busy("no connection".into()));
        }
        match request {
            NodeRequest::BlockAudit { after, .. } => {
                let mut copies = rows.copies.get(&node).cloned().unwrap_or_default();
                copies.sort_by_key(|copy| copy.block);
                copies.retain(|copy| after.is_none_or(|after| copy.block > after));
                copies.truncate(2);
                Ok(Reply::Audit(Box::new(AuditPage {
                    blocks: copies,
                    ..AuditPage::default()
                })))
            }
            NodeRequest::ClusterStatus => Ok(Reply::Cluster(status(node, rows.hashes[&node]))),
            other => panic!("the doctor asks {other:?}"),
        }
    }

    async fn pause(&self) {}
}

fn status(node: NodeNumber, state_hash: u64) -> ClusterStatus {
    let partition = PartitionStatus {
        partition: PartitionId(0),
        leader: None,
        term: 1,
        applied: 10,
        state_hash,
        keys: 0,
        inodes: 0,
        file_bytes: 0,
        allocated_bytes: 0,
        orphans: 0,
        log_entries: 0,
        snapshot_index: 0,
        block_bytes: 0,
        garbage_bytes: 0,
        patch_bytes: 0,
    };
    ClusterStatus {
        cluster: "test".into(),
        node,
        nodes: Vec::new(),
        partitions: vec![partition],
        durability: "disk".into(),
        replicas: 2,
        partition_count: 2,
        disk_total_bytes: 0,
        disk_free_bytes: 0,
        block_bytes: 0,
    }
}

fn examined(rows: Rows, then: Option<(u32, Rows)>) -> (Report, u32) {
    let source = Planted {
        rows: RefCell::new(rows),
        then,
        asked: Cell::new(0),
    };
    let members = Members {
        partition_count: 2,
        nodes: [1, 2]
            .map(|node| (NodeNumber(node), format!("node-{node}")))
            .into(),
    };
    let mut examination = pin!(examine(&source, &members));
    match examination.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(report) => (report, source.asked.get()),
        Poll::Pending => panic!("every answer is there"),
    }
}

fn check(expected: FindingKind, words: &str, harm: impl FnOnce(&mut Rows)) {
    let mut rows = sound();
    harm(&mut rows);
    let (report, _) = examined(rows, None);
    let found = report.findings.iter().find(|finding| finding.kind == expected);
    let Some(finding) = found else {
        panic!("{expected:?} is not in {report:?}");
    };
    let said = format!("{}: {}", finding.place, finding.sentence);
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}

#[test]
fn a_sound_cluster_is_clean_and_was_looked_at() {
    // Goal: nothing is found where nothing is wrong, and everything is met. Method: pages of one row.
    let (report, _) = examined(sound(), None);
    assert_eq!(report.findings, []);
    assert_eq!(report.notes, [""; 0]);
    let looked = report.looked;
    assert_eq!((looked.entries, looked.names), (3, 3));
    assert_eq!((looked.blocks, looked.copies), (6, 12));
}

#[test]
fn entries_and_inodes_that_do_not_agree_are_found() {
    // Goal: each kind of fault of the tree is told by its path. Method: plant one at a time.
    check(
        FindingKind::EntryWithoutInode,
        "/name-200: the entry leads to inode 2",
        |rows| {
            rows.names.retain(|name| name.inode != FILE);
        },
    );
    check(FindingKind::NameMissing, "inode 2 of partition 0", |rows| {
        rows.entries.retain(|entry| entry.inode != FILE);
    });
    check(FindingKind::EntryNotCounted, "/name-100/name-400", |rows| {
        rows.entries.push(name(FILE, DIRECTORY, FileKind::Regular, 400));
    });
    check(FindingKind::EntryKind, "says symbolic link", |rows| {
        rows.entries[1].kind = FileKind::Symlink;
    });
    check(FindingKind::DirectoryLoop, "never lead to the root", |rows| {
        // The directory is inside the one it contains.
        rows.entries[0].directory = DEEP;
        rows.names[0].directory = DEEP;
    });
}

#[test]
fn copies_that_are_not_as_recorded_are_found() {
    // Goal: the node that lacks or changed a copy is named. Method: plant one at a time.
    for counter in 1..7 {
        check(FindingKind::CopyMissing, "node-2 does not have it", |rows| {
            let copies = rows.copies.get_mut(&NodeNumber(2)).unwrap();
            copies.retain(|copy| copy.block != block(counter));
        });
    }
    check(FindingKind::CopyMissing, "node-1 does not have it", |rows| {
        rows.copies.remove(&NodeNumber(1));
    });
    check(FindingKind::CopyDiffers, "node-2 has it with 99 bytes", |rows| {
        rows.copies.get_mut(&NodeNumber(2)).unwrap()[3].size = 99;
    });
}

#[test]
fn sizes_replicas_and_transactions_are_compared() {
    // Goal: the rest of what lies in several places. Method: plant one at a time.
    check(FindingKind::Size, "told it to take 7 bytes", |rows| {
        rows.taken[0].usage.bytes = 8;
    });
    check(FindingKind::Size, "it was told nothing", |rows| {
        rows.taken.clear()
    });
    check(FindingKind::Size, "told it to take nothing", |rows| {
        rows.told.clear();
        rows.names.retain(|name| name.inode != DIRECTORY);
    });
    check(FindingKind::ReplicaDiffers, "after 10 log entries", |rows| {
        rows.hashes.insert(NodeNumber(2), 10);
    });
    check(FindingKind::Unanswered, "node-2: does not answer", |rows| {
        rows.silent = Some(NodeNumber(2));
    });
    let transaction = TransactionId {
        client: ClientId(1),
        sequence: 2,
        attempt: 3,
    };
    let since = |seconds: i64| AuditTransaction {
        transaction,
        primary: PartitionId(1),
        since: seconds * 1_000_000_000,
    };
    check(FindingKind::Transaction, "prepared for 70 s", |rows| {
        rows.transactions.push(since(930));
    });
    let mut young = sound();
    young.transactions.push(since(950));
    assert!(examined(young, None).0.is_clean());
    check(
        FindingKind::Counter,
        "bytes of files: 3 are counted, 4 are there",
        |rows| {
            rows.faults.push(AuditFault {
                check: AuditCheck::FileBytes,
                inode: InodeId(0),
                offset: 0,
                block: None,
                kept: 3,
                found: 4,
            });
        },
    );
}

#[test]
fn what_is_told_and_not_taken_yet_is_no_finding() {
    // Goal: reports under way are none. Method: a directory that has something new to tell.
    let mut rows = sound();
    rows.told.clear();
    assert!(examined(rows, None).0.is_clean());
}

#[test]
fn a_rename_at_any_moment_is_no_finding() {
    // Goal: a busy cluster is clean. Method: a file, a directory and a block move after each number of questions.
    let mut moved = sound();
    moved.entries[1].directory = DIRECTORY;
    moved.names[1].directory = DIRECTORY;
    moved.entries[2].directory = InodeId::ROOT;
    moved.names[2].directory = InodeId::ROOT;
    moved.told[0].version = 5;
    moved.taken[0].version = 5;
    moved.records.remove(0);
    moved.copies.get_mut(&NodeNumber(1)).unwrap().remove(0);
    let (_, questions) = examined(sound(), None);
    for after in 1..=questions + 20 {
        for (from, to) in [(sound(), moved.clone()), (moved.clone(), sound())] {
            let (report, _) = examined(from, Some((after, to)));
            assert_eq!(report.findings, [], "moved after {after} questions");
        }
    }
}
