//! Several partitions are harmed in all ways that show only between them; the doctor finds it, puts it right, and takes
//! that back.
//!
//! Harm is done with the steps of repairs themselves: what makes a wrong count right makes a right one wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bark_client::doctor::{
    End, FindingKind, Kept, Members, Report, Source, Surgeon, Undone, examine, repair, undo,
};
use bark_core::state::State;
use bark_schema::audit::{AuditPage, AuditQuery};
use bark_schema::ids::{ClientId, InodeId, NodeNumber, PartitionId, TransactionId};
use bark_schema::operation::{
    Command, Entry, Failure, FileKind, NewContent, NewInode, NodeRequest, Proposal, Query, Reply, Step,
};
use bark_schema::repair::{RepairCommand, RepairStep, RepairTable};
use bark_schema::usage::{UsageCommand, UsageQuery};

const PARTITIONS: u16 = 3;

/// The states of a cluster whose entries are applied at once, and everything that was kept.
struct Cluster {
    states: RefCell<BTreeMap<PartitionId, State>>,
    journal: RefCell<Vec<(Kept, Option<End>)>>,
    quarantine: Cell<Option<InodeId>>,
    transactions: Cell<u64>,
}

impl Cluster {
    fn new() -> Cluster {
        let partitions = (0..PARTITIONS).map(PartitionId);
        Cluster {
            states: RefCell::new(partitions.map(|it| (it, State::new(it, PARTITIONS))).collect()),
            journal: RefCell::default(),
            quarantine: Cell::new(None),
            transactions: Cell::new(0),
        }
    }

    fn apply(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        let mut states = self.states.borrow_mut();
        let state = states.get_mut(&partition).expect("a partition there is");
        let (index, time) = (state.applied() + 1, state.time() + 1);
        let id = None;
        state.apply(index, &Proposal { time, id, command })
    }

    /// Two partitions change at once, or one.
    fn transact(&self, first: (PartitionId, Step), second: (PartitionId, Step)) {
        for (partition, step) in [first, second] {
            // Each is a participant of a transaction of its own: what comes first does not matter here.
            let number = self.transactions.get() + 1;
            self.transactions.set(number);
            let transaction = TransactionId {
                client: ClientId(77),
                sequence: number,
                attempt: 1,
            };
            let prepare = Command::Prepare {
                transaction,
                primary: PartitionId(0),
                steps: vec![step],
            };
            self.apply(partition, prepare).expect("nobody is in the way");
            let finish = Command::Finish {
                transaction,
                commit: true,
            };
            self.apply(partition, finish).expect("it was prepared");
        }
    }

    fn make_directory(&self, parent: InodeId, name: &'static str, home: u16) -> InodeId {
        let home = PartitionId(home);
        let inode = self.states.borrow()[&home].allocate_inode_hint();
        let create = Step::CreateDirectory {
            inode,
            parent,
            attributes: NewInode::default(),
            quota: None,
            born: 0,
        };
        let insert = Step::InsertEntry {
            entry: entry(parent, name),
            inode,
            kind: FileKind::Directory,
            expected: None,
            quota: None,
            policy: None,
        };
        self.transact((home, create), (parent.home(), insert));
        inode
    }

    fn make_file(&self, directory: InodeId, name: &'static str) -> InodeId {
        let create = Command::Create {
            directory,
            name: name.into(),
            attributes: NewInode::default(),
            content: NewContent::Inline(name.into()),
            exclusive: true,
        };
        match self.apply(directory.home(), create) {
            Ok(Reply::Created { attributes, .. }) => attributes.inode,
            other => panic!("not created: {other:?}"),
        }
    }

    fn link(&self, inode: InodeId, directory: InodeId, name: &'static str) {
        let add = Step::AddLinks {
            inode,
            count: 1,
            added: Some(directory),
            removed: None,
            quota: None,
        };
        let insert = Step::InsertEntry {
            entry: entry(directory, name),
            inode,
            kind: FileKind::Regular,
            expected: None,
            quota: None,
            policy: None,
        };
        self.transact((inode.home(), add), (directory.home(), insert));
    }

    /// What leaders do all the time: what directories take is told to those above.
    fn carry_reports(&self) {
        for _ in 0..20 {
            for partition in (0..PARTITIONS).map(PartitionId) {
                let after = InodeId(0);
                let query = UsageQuery::Unreported { after, limit: 100 };
                let Ok(Reply::UsageReports { reports, .. }) = self.ask(partition, Query::Usage(query)) else {
                    panic!("no reports");
                };
                for report in reports {
                    let to = report.directory.home();
                    let tell = UsageCommand::Report {
                        reports: vec![report],
                    };
                    if let Ok(Reply::UsageReports { reports, .. }) = self.apply(to, Command::Usage(tell)) {
                        let told = Command::Usage(UsageCommand::Reported { reports });
                        self.apply(partition, told).expect("a report that was taken");
                    }
                }
            }
        }
    }

    fn ask(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.states.borrow()[&partition].query(0, &query)
    }

    fn plan(&self, partition: PartitionId, step: RepairStep) -> RepairCommand {
        match self.ask(partition, Query::Audit(AuditQuery::Plan(step))) {
            Ok(Reply::Audit(page)) => page.repair,
            other => panic!("no plan of {step:?}: {other:?}"),
        }
    }

    fn harm(&self, partition: PartitionId, step: RepairStep) {
        let command = self.plan(partition, step);
        assert_eq!(self.apply(partition, Command::Repair(command)), Ok(Reply::Done));
    }

    fn page(&self, query: AuditQuery, partition: PartitionId) -> AuditPage {
        match self.ask(partition, Query::Audit(query)) {
            Ok(Reply::Audit(page)) => *page,
            other => panic!("no page: {other:?}"),
        }
    }

    fn drop_entry(&self, directory: InodeId, inode: InodeId) {
        for entry in self
            .page(AuditQuery::Entries { directory, inode }, directory.home())
            .entries
        {
            let cookie = entry.cookie;
            self.harm(
                directory.home(),
                RepairStep::DropEntry {
                    directory,
                    cookie,
                    inode,
                },
            );
        }
    }

    fn names(&self, inode: InodeId, directory: InodeId, count: u32) {
        let step = RepairStep::Names {
            inode,
            directory,
            count,
        };
        self.harm(inode.home(), step);
    }

    fn number_entry(&self, directory: InodeId, inode: InodeId, kind: FileKind) {
        let step = RepairStep::NumberEntry {
            directory,
            inode,
            kind,
        };
        self.harm(directory.home(), step);
    }

    fn findings(&self) -> Report {
        now(examine(self, &members()))
    }
}

impl Source for Cluster {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.ask(partition, query)
    }

    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure> {
        match request {
            NodeRequest::BlockAudit { .. } => Ok(Reply::Audit(Box::default())),
            NodeRequest::ClusterStatus => Ok(Reply::Cluster(super::no_partitions(node))),
            other => panic!("the doctor asks {other:?}"),
        }
    }

    async fn pause(&self) {
        self.carry_reports();
    }
}

impl Surgeon for Cluster {
    async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        let last = self.journal.borrow().last().cloned();
        assert!(last.is_some(), "nothing is changed before it is kept");
        self.apply(partition, command)
    }

    async fn quarantine(&self) -> Result<InodeId, Failure> {
        let made = self.quarantine.get();
        let quarantine = made.unwrap_or_else(|| self.make_directory(InodeId::ROOT, "lost+found", 2));
        self.quarantine.set(Some(quarantine));
        Ok(quarantine)
    }

    async fn keep(&self, step: &Kept) -> Result<(), Failure> {
        self.journal.borrow_mut().push((step.clone(), None));
        Ok(())
    }

    async fn ended(&self, step: &Kept, end: End) -> Result<(), Failure> {
        let mut journal = self.journal.borrow_mut();
        let known = journal.iter_mut().find(|(known, _)| known == step);
        known.expect("it was kept before").1 = Some(end);
        Ok(())
    }
}

fn entry(directory: InodeId, name: &'static str) -> Entry {
    Entry {
        directory,
        name: name.into(),
    }
}

fn members() -> Members {
    Members {
        partition_count: PARTITIONS,
        nodes: [(NodeNumber(1), "node-1".to_owned())].into(),
    }
}

/// Every answer is there at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("every answer is there"),
    }
}

/// `/a/deep/file`, `/b/other`, and a second name of the file in `/b`.
struct Tree {
    cluster: Cluster,
    a: InodeId,
    deep: InodeId,
    b: InodeId,
    file: InodeId,
    other: InodeId,
}

fn tree() -> Tree {
    let cluster = Cluster::new();
    let a = cluster.make_directory(InodeId::ROOT, "a", 1);
    let deep = cluster.make_directory(a, "deep", 2);
    let b = cluster.make_directory(InodeId::ROOT, "b", 0);
    let file = cluster.make_file(deep, "file");
    let other = cluster.make_file(b, "other");
    cluster.link(file, b, "second");
    cluster.carry_reports();
    assert_eq!(cluster.findings().findings, []);
    Tree {
        cluster,
        a,
        deep,
        b,
        file,
        other,
    }
}

/// Harms a tree, has the doctor find, repair and take back. Where inodes are in the end is for `look` to say.
fn check(expected: FindingKind, harm: impl Fn(&Tree), look: impl Fn(&Tree)) {
    let tree = tree();
    let cluster = &tree.cluster;
    harm(&tree);
    cluster.carry_reports();
    let found = cluster.findings();
    let kinds: Vec<FindingKind> = found.findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&expected), "{expected:?} is not in {found:?}");

    let repaired = now(repair(cluster, &members()));
    assert!(repaired.report.is_clean(), "{repaired:?}");
    assert!(
        !repaired.steps.is_empty() && repaired.left.is_empty(),
        "{repaired:?}"
    );
    look(&tree);
    let again = now(repair(cluster, &members()));
    assert!(again.steps.is_empty(), "a clean cluster is left alone: {again:?}");

    let kept: Vec<Kept> = cluster
        .journal
        .borrow()
        .iter()
        .map(|(kept, _)| kept.clone())
        .collect();
    for step in kept.iter().rev() {
        let undone = now(undo(cluster, step));
        // Sizes that were told again since stay told.
        let mut tables = step.command.edits.iter().map(|edit| edit.table);
        let of_sizes = tables.all(|table| matches!(table, RepairTable::Usages | RepairTable::Contributions));
        assert!(of_sizes || undone == Undone::Done, "{step:?}: {undone:?}");
    }
    cluster.carry_reports();
    let back = cluster.findings().findings;
    let of_names = |finding: &bark_client::doctor::Finding| finding.kind != FindingKind::Size;
    let first: Vec<_> = found.findings.iter().filter(|it| of_names(it)).collect();
    let second: Vec<_> = back.iter().filter(|it| of_names(it)).collect();
    assert_eq!(first, second, "it is as it was found");
    // Taken back twice it stays: nothing is what it was any more.
    for step in &kept {
        let undone = now(undo(cluster, step));
        assert!(undone != Undone::Done, "{step:?} was taken back twice");
    }
    let last = now(repair(cluster, &members()));
    assert!(last.report.is_clean(), "{last:?}");
}

impl Tree {
    fn is_at(&self, inode: InodeId, directory: InodeId) {
        let query = AuditQuery::Entries { directory, inode };
        let entries = self.cluster.page(query, directory.home()).entries;
        assert_eq!(entries.len(), 1, "{inode:?} has one name in {directory:?}");
    }

    fn links(&self, inode: InodeId, count: u32) {
        match self.cluster.ask(inode.home(), Query::Attributes { inode }) {
            Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, count),
            other => panic!("no attributes: {other:?}"),
        }
    }

    fn quarantine(&self) -> InodeId {
        self.cluster
            .quarantine
            .get()
            .expect("something came into the quarantine")
    }
}

#[test]
fn link_counts_follow_the_names_that_are_there() {
    // Goal: nlink is exact again. Method: too many and too few, here and in another partition; one that counts none.
    check(
        FindingKind::EntryNotCounted,
        |tree| tree.cluster.names(tree.file, tree.b, 4),
        |tree| tree.links(tree.file, 2),
    );
    check(
        FindingKind::EntryNotCounted,
        |tree| tree.cluster.names(tree.file, tree.b, 0),
        |tree| tree.links(tree.file, 2),
    );
    check(
        FindingKind::EntryNotCounted,
        |tree| tree.cluster.names(tree.other, tree.b, 0),
        |tree| {
            tree.links(tree.other, 1);
            tree.is_at(tree.other, tree.b);
        },
    );
}

#[test]
fn what_lost_its_name_gets_one_in_the_quarantine() {
    // Goal: nothing is lost. Method: a file and a directory without their entry; a file that counts no name either.
    check(
        FindingKind::NameMissing,
        |tree| tree.cluster.drop_entry(tree.b, tree.other),
        |tree| tree.is_at(tree.other, tree.quarantine()),
    );
    check(
        FindingKind::NameMissing,
        |tree| tree.cluster.drop_entry(tree.a, tree.deep),
        |tree| {
            tree.is_at(tree.deep, tree.quarantine());
            tree.is_at(tree.file, tree.deep);
        },
    );
    check(
        FindingKind::Inode,
        |tree| {
            tree.cluster.drop_entry(tree.b, tree.other);
            tree.cluster.names(tree.other, tree.b, 0);
        },
        |tree| tree.is_at(tree.other, tree.quarantine()),
    );
}

#[test]
fn entries_that_lead_nowhere_or_say_something_else_are_put_right() {
    // Goal: what is listed is there. Method: an entry of a number never given, one of the wrong kind, one too many.
    let nothing = InodeId(1 << 48 | 4000);
    check(
        FindingKind::EntryWithoutInode,
        |tree| tree.cluster.number_entry(tree.b, nothing, FileKind::Regular),
        |_| {},
    );
    check(
        FindingKind::EntryKind,
        |tree| {
            let (directory, inode) = (tree.b, tree.other);
            let page = tree
                .cluster
                .page(AuditQuery::Entries { directory, inode }, directory.home());
            let step = RepairStep::EntryKind {
                directory,
                cookie: page.entries[0].cookie,
                inode,
                kind: FileKind::Symlink,
            };
            tree.cluster.harm(directory.home(), step);
        },
        |tree| tree.is_at(tree.other, tree.b),
    );
    check(
        FindingKind::EntryNotCounted,
        |tree| tree.cluster.number_entry(tree.b, tree.deep, FileKind::Directory),
        |tree| tree.is_at(tree.deep, tree.a),
    );
    check(
        FindingKind::EntryNotCounted,
        |tree| {
            // Its entry is elsewhere than its parent pointer says.
            tree.cluster.drop_entry(tree.a, tree.deep);
            tree.cluster.number_entry(tree.b, tree.deep, FileKind::Directory);
        },
        |tree| tree.is_at(tree.deep, tree.b),
    );
}

#[test]
fn directories_inside_each_other_are_reached_again() {
    // Goal: no loop stays. Method: a directory becomes the child of its own child.
    check(
        FindingKind::DirectoryLoop,
        |tree| {
            tree.cluster.drop_entry(InodeId::ROOT, tree.a);
            tree.cluster.names(tree.a, tree.deep, 1);
            tree.cluster.number_entry(tree.deep, tree.a, FileKind::Directory);
        },
        |tree| tree.is_at(tree.file, tree.deep),
    );
}

#[test]
fn sizes_are_told_again() {
    // Goal: what directories take is exact again. Method: forget what was told, and keep what nobody tells any more.
    check(
        FindingKind::Size,
        |tree| {
            let step = RepairStep::Contribution {
                directory: InodeId::ROOT,
                contributor: tree.a,
                stays: false,
            };
            tree.cluster.harm(InodeId::ROOT.home(), step);
        },
        |_| {},
    );
    check(
        FindingKind::Size,
        |tree| {
            let step = RepairStep::Contribution {
                directory: tree.b,
                contributor: InodeId(1 << 48 | 4000),
                stays: true,
            };
            tree.cluster.harm(tree.b.home(), step);
        },
        |_| {},
    );
}
