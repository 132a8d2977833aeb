//! Three nodes' workers joined by hand: the shortest proof that the parts fit. The simulator does the rest.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bark_core::block_store::{BlockStore, BlockStoreConfig};
use bark_core::checksum::crc32c;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::partition::{Partition, SnapshotConfig, Start};
use bark_core::random::Random;
use bark_core::state::State;
use bark_core::storage::{BLOCK_DIRECTORY, Storage};
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input};
use bark_core::worker::gateway::{CompletionSink, FoundKey, KeyAsker, KeySink, Reach};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::*;
use bark_schema::quota::{Quota, QuotaLimits};
use bytes::Bytes;

const PARTITIONS: u16 = 4;

struct Member {
    worker: Worker,
    storage: Storage,
    disk: SimulatedDisk,
    inputs: Vec<Input>,
}

struct Cluster {
    members: BTreeMap<NodeNumber, Member>,
    silent: BTreeSet<NodeNumber>,
    /// Takes its turns, but nobody hears it and it hears nobody.
    cut: BTreeSet<NodeNumber>,
    now: Now,
    sequence: u64,
}

impl Cluster {
    fn new(nodes: u16) -> Cluster {
        let now = Now {
            monotonic_us: 0,
            unix_ns: 1_700_000_000_000_000_000,
        };
        let numbers: Vec<NodeNumber> = (1..=nodes).map(NodeNumber).collect();
        let placement: Vec<Vec<NodeNumber>> = (0..PARTITIONS)
            .map(|partition| {
                let mut replicas = numbers.clone();
                replicas.rotate_left(usize::from(partition) % numbers.len());
                replicas
            })
            .collect();
        let members = numbers.iter().map(|node| {
            let config = WorkerConfig {
                cluster: "test".to_string(),
                node: *node,
                worker: 0,
                worker_count: 1,
                partition_count: PARTITIONS,
                replicas: nodes,
                durability: Durability::Disk,
                nodes: Arc::default(),
                placement: Arc::new(placement.clone()),
                cleaning: CleaningConfig::STANDARD,
                snapshots: SnapshotConfig::default(),
            };
            let mut random = Random::new(u64::from(node.0));
            let partitions = (0..PARTITIONS)
                .map(|id| {
                    let start = Start {
                        replicas: placement[usize::from(id)].clone(),
                        state: State::new(PartitionId(id), PARTITIONS),
                        snapshot: (0, 0),
                        hard_state: (0, 0, 0),
                        entries: Vec::new(),
                        rejoin: false,
                    };
                    let seed = Random::new(random.next_u64());
                    Partition::open(
                        PartitionId(id),
                        *node,
                        start,
                        SnapshotConfig::default(),
                        seed,
                        now,
                    )
                    .expect("a partition opens")
                })
                .collect();
            let mut disk = SimulatedDisk::new();
            let (blocks, _) =
                BlockStore::open(&mut disk, BLOCK_DIRECTORY, BlockStoreConfig::default()).expect("opens");
            let worker = Worker::new(config, partitions, now, random);
            let inputs = numbers
                .iter()
                .filter(|peer| *peer != node)
                .map(|peer| Input::PeerConnected { node: *peer })
                .collect();
            (
                *node,
                Member {
                    worker,
                    storage: Storage::new(blocks),
                    disk,
                    inputs,
                },
            )
        });
        Cluster {
            members: members.collect(),
            silent: BTreeSet::new(),
            cut: BTreeSet::new(),
            now,
            sequence: 0,
        }
    }

    /// One millisecond: every member takes a turn, every effect arrives.
    fn step(&mut self) {
        self.now.monotonic_us += 1_000;
        self.now.unix_ns += 1_000_000;
        let mut sent = Vec::new();
        for (node, member) in &mut self.members {
            if self.silent.contains(node) {
                continue;
            }
            let mut effects = Vec::new();
            member.worker.turn(self.now, &mut member.inputs, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Send { to, message, .. } => sent.push((*node, to, message)),
                    Effect::Persist { batch, .. } => member.inputs.push(Input::LogPersisted { batch }),
                    Effect::Storage(request) => {
                        let mut events = Vec::new();
                        member
                            .storage
                            .execute(&mut member.disk, vec![(0, request)], &mut events);
                        member
                            .inputs
                            .extend(events.into_iter().map(|(_, event)| Input::Storage(event)));
                    }
                    Effect::Sibling { .. } => unreachable!("one worker a node"),
                }
            }
        }
        for (from, to, message) in sent {
            let unheard = |node| self.silent.contains(node) || self.cut.contains(node);
            if !unheard(&from) && !unheard(&to) {
                self.members
                    .get_mut(&to)
                    .expect("a member")
                    .inputs
                    .push(Input::Peer { from, message });
            }
        }
    }

    /// Asks a member and waits up to ten simulated seconds.
    fn ask(&mut self, node: u16, request: Request) -> Result<Reply, Failure> {
        let gateway = self.members[&NodeNumber(node)].worker.gateway();
        let answer = Rc::new(RefCell::new(None));
        let (filled, asking) = (answer.clone(), gateway.clone());
        let deadline_us = self.now.monotonic_us + 10_000_000;
        gateway.spawn(async move {
            let result = asking.call(request, Reach::Cluster, deadline_us).await;
            *filled.borrow_mut() = Some(result);
        });
        for _ in 0..11_000 {
            self.step();
            if let Some(result) = answer.borrow_mut().take() {
                return result;
            }
        }
        panic!("no answer within eleven seconds");
    }

    fn id(&mut self) -> RequestId {
        self.sequence += 1;
        RequestId {
            client: ClientId(77),
            sequence: self.sequence,
            acknowledged_below: self.sequence,
        }
    }

    fn namespace(&mut self, node: u16, operation: Namespace) -> Result<Reply, Failure> {
        let id = self.id();
        self.ask(node, Request::Namespace { id, operation })
    }

    fn command(&mut self, node: u16, partition: u16, command: Command) -> Result<Reply, Failure> {
        let id = self.id();
        self.ask(
            node,
            Request::Command {
                partition: PartitionId(partition),
                id,
                command,
            },
        )
    }

    fn make_directory(&mut self, node: u16, directory: InodeId, name: &str) -> Result<InodeId, Failure> {
        let operation = Namespace::MakeDirectory {
            directory,
            name: bytes(name),
            attributes: new_inode(),
        };
        match self.namespace(node, operation)? {
            Reply::Created { attributes, .. } => Ok(attributes.inode),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Leaders move to the first replica in the end; tests that treat node 1 as the leader wait for that.
    fn node_1_leads(&mut self) {
        for _ in 0..30_000 {
            let all_say_so = self.members.values().all(|member| {
                let first = member.worker.partitions().next();
                first.is_some_and(|part| part.status().leader == Some(NodeNumber(1)))
            });
            if all_say_so {
                return;
            }
            self.step();
        }
        panic!("node 1 does not become the leader of partition 0");
    }

    fn hashes(&self) -> Vec<Vec<(u64, u64)>> {
        let status = |member: &Member| {
            member
                .worker
                .partitions()
                .map(|part| (part.status().applied, part.status().state_hash))
                .collect()
        };
        self.members.values().map(status).collect()
    }
}

/// Notes what came back for each token: the value read, or "stored"; and which way it came.
#[derive(Default)]
struct Noted {
    answers: RefCell<BTreeMap<u64, String>>,
    as_calls: RefCell<BTreeSet<u64>>,
}

impl Noted {
    fn note(&self, token: u64, text: String) {
        let before = self.answers.borrow_mut().insert(token, text);
        assert_eq!(before, None, "answered twice");
    }
}

impl CompletionSink for Noted {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        self.as_calls.borrow_mut().insert(token);
        match result {
            Ok(Reply::Set { applied: true, .. }) => self.note(token, "stored".to_string()),
            Ok(Reply::Value(value)) => self.note(token, text(value.as_ref().map(|value| &value.value))),
            other => self.note(token, format!("{other:?}")),
        }
    }
}

impl KeySink for Noted {
    fn found(&self, token: u64, found: Option<FoundKey<'_>>) {
        self.note(token, text(found.map(|found| found.value)));
    }

    fn stored(&self, token: u64) {
        self.note(token, "stored".to_string());
    }
}

fn text(value: Option<&Bytes>) -> String {
    value.map_or("nothing".to_string(), |value| {
        String::from_utf8_lossy(value).into_owned()
    })
}

impl Cluster {
    /// Reads (`value` None) or sets a key the short way; the answer is noted under `token`.
    fn submit(&self, node: u16, noted: &Rc<Noted>, token: u64, key: &str, value: Option<&str>) {
        let asker = KeyAsker {
            sink: noted.clone(),
            token,
        };
        let gateway = self.members[&NodeNumber(node)].worker.gateway();
        gateway.submit_key(PartitionId(0), key.as_bytes(), value.map(str::as_bytes), asker);
    }

    fn step_until_answered(&mut self, noted: &Noted, count: usize) {
        for _ in 0..11_000 {
            if noted.answers.borrow().len() == count {
                return;
            }
            self.step();
        }
        panic!("only {:?} was answered", noted.answers.borrow());
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn new_inode() -> NewInode {
    NewInode {
        mode: 0o755,
        ..NewInode::default()
    }
}

fn set(key: &str, value: &str) -> Command {
    Command::KeySet {
        key: bytes(key),
        value: bytes(value),
        expiry: Expiry::Never,
        condition: Condition::Always,
        return_previous: false,
    }
}

fn value(reply: Result<Reply, Failure>) -> Option<Bytes> {
    match reply.expect("a key is read") {
        Reply::Value(value) => value.map(|value| value.value),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn any_node_takes_writes_and_reads_them_back() {
    // Goal: forwarding, consensus and linearizable reads fit together. Method: write at one node, read at all.
    let mut cluster = Cluster::new(3);
    for partition in 0..PARTITIONS {
        for writer in 1..=3 {
            let text = format!("value-{partition}-{writer}");
            cluster
                .command(writer, partition, set("key", &text))
                .expect("a key is set");
            for reader in 1..=3 {
                let query = Query::KeyGet { key: bytes("key") };
                let read = cluster.ask(
                    reader,
                    Request::Query {
                        partition: PartitionId(partition),
                        query,
                    },
                );
                assert_eq!(value(read), Some(bytes(&text)));
            }
        }
    }
    (0..500).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn silent_leader_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("a", "1")).expect("set");
    cluster.node_1_leads();
    cluster.silent.insert(NodeNumber(1));
    let before = cluster.now.monotonic_us;
    cluster
        .command(2, 0, set("b", "2"))
        .expect("set without the first leader");
    assert!(
        cluster.now.monotonic_us - before < 2_000_000,
        "fail-over took too long"
    );
    let query = Query::KeyGet { key: bytes("a") };
    let read = cluster.ask(
        3,
        Request::Query {
            partition: PartitionId(0),
            query,
        },
    );
    assert_eq!(value(read), Some(bytes("1")));
    cluster.silent.clear();
    (0..2000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn directories_are_made_moved_and_removed_across_partitions() {
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    let inner = cluster.make_directory(3, a, "inner").expect("mkdir /a/inner");
    assert!(
        cluster.make_directory(1, InodeId::ROOT, "a").is_err(),
        "the name is taken"
    );
    let create = Command::Create {
        directory: inner,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, inner.home().0, create).expect("create");
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };

    let rename = |from, to| Namespace::Rename {
        from,
        to,
        mode: RenameMode::Replace,
    };
    cluster
        .namespace(2, rename(entry(a, "inner"), entry(b, "moved")))
        .expect("mv /a/inner /b/moved");
    let below_itself = cluster.namespace(1, rename(entry(InodeId::ROOT, "b"), entry(inner, "loop")));
    assert!(
        matches!(below_itself, Err(Failure::Refused(Refusal::InvalidArgument, _))),
        "a directory went below itself: {below_itself:?}"
    );
    let walk = NodeRequest::Walk {
        start: InodeId::ROOT,
        path: bytes("/b/moved/file"),
        follow_last: true,
        first_bytes: 100,
    };
    match cluster.ask(3, Request::Node(walk)).expect("walk") {
        Reply::Walked {
            content: Content::Inline(content),
            parent,
            ..
        } => {
            assert_eq!(content, bytes("hello"));
            assert_eq!(parent, inner);
        }
        other => panic!("unexpected {other:?}"),
    }
    let remove = Namespace::RemoveDirectory {
        directory: b,
        name: bytes("moved"),
    };
    assert!(matches!(
        cluster.namespace(1, remove.clone()),
        Err(Failure::Refused(Refusal::NotEmpty, _))
    ));
    cluster
        .namespace(1, rename(entry(inner, "file"), entry(a, "file")))
        .expect("mv of a file across");
    cluster.namespace(2, remove).expect("rmdir");
    cluster
        .namespace(
            2,
            Namespace::Unlink {
                directory: a,
                name: bytes("file"),
            },
        )
        .expect("unlink");
    cluster
        .namespace(
            2,
            Namespace::RemoveDirectory {
                directory: InodeId::ROOT,
                name: bytes("a"),
            },
        )
        .expect("rmdir /a");
    (0..1000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

/// The inode a name leads to, and its attributes.
fn stat(cluster: &mut Cluster, directory: InodeId, name: &str) -> Result<Attributes, Failure> {
    let lookup = Query::Lookup {
        directory,
        name: bytes(name),
    };
    let partition = directory.home();
    let query = lookup;
    let inode = match cluster.ask(1, Request::Query { partition, query })? {
        Reply::Entry { inode, .. } => inode,
        other => panic!("unexpected {other:?}"),
    };
    let partition = inode.home();
    let query = Query::Attributes { inode };
    match cluster.ask(1, Request::Query { partition, query })? {
        Reply::Attributes(attributes) => Ok(attributes),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn directories_of_different_partitions_change_places() {
    // Goal: an exchange across partitions moves both, parents and link counts included, and ties no loop.
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    let x = cluster.make_directory(3, a, "x").expect("mkdir /a/x");
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let create = Command::Create {
        directory: b,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, b.home().0, create).expect("create");
    let file = stat(&mut cluster, b, "file").expect("the file").inode;
    let exchange = |from, to| Namespace::Rename {
        from,
        to,
        mode: RenameMode::Exchange,
    };
    cluster
        .namespace(1, exchange(entry(a, "x"), entry(b, "file")))
        .expect("a directory and a file change places");
    assert_eq!(stat(&mut cluster, b, "file").expect("moved").inode, x);
    assert_eq!(stat(&mut cluster, a, "x").expect("moved").inode, file);
    assert_eq!(stat(&mut cluster, x, "..").expect("its parent").inode, b);
    assert_eq!(stat(&mut cluster, InodeId::ROOT, "a").expect("/a").link_count, 2);
    assert_eq!(stat(&mut cluster, InodeId::ROOT, "b").expect("/b").link_count, 3);
    let with_its_child = cluster.namespace(2, exchange(entry(InodeId::ROOT, "b"), entry(b, "file")));
    assert!(
        matches!(with_its_child, Err(Failure::Refused(Refusal::InvalidArgument, _))),
        "{with_its_child:?}"
    );
    let nothing = cluster.namespace(2, exchange(entry(a, "x"), entry(b, "nothing")));
    assert!(matches!(nothing, Err(Failure::Refused(Refusal::NotFound, _))));
    let keeps = Namespace::Rename {
        from: entry(a, "x"),
        to: entry(b, "file"),
        mode: RenameMode::NoReplace,
    };
    assert!(matches!(
        cluster.namespace(3, keeps),
        Err(Failure::Refused(Refusal::Exists, _))
    ));
}

#[test]
fn a_file_has_names_in_directories_of_different_partitions() {
    // Goal: links across partitions are counted; renaming one onto the other does nothing; the last one
    // makes an orphan.
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    assert_ne!(a.home(), b.home());
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let create = Command::Create {
        directory: a,
        name: bytes("one"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, a.home().0, create).expect("create");
    let before = stat(&mut cluster, a, "one").expect("the file");
    let link = |to| Namespace::Link {
        inode: before.inode,
        to,
    };
    cluster.namespace(3, link(entry(b, "two"))).expect("ln across");
    match cluster.namespace(3, link(entry(a, "three"))) {
        Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, 3),
        other => panic!("unexpected {other:?}"),
    }
    let onto_itself = Namespace::Rename {
        from: entry(a, "one"),
        to: entry(b, "two"),
        mode: RenameMode::Replace,
    };
    assert_eq!(cluster.namespace(1, onto_itself), Ok(Reply::Done));
    assert_eq!(stat(&mut cluster, a, "one").expect("stays").link_count, 3);
    let moved = Namespace::Rename {
        from: entry(b, "two"),
        to: entry(b, "moved"),
        mode: RenameMode::NoReplace,
    };
    cluster.namespace(1, moved).expect("mv");
    let after = stat(&mut cluster, b, "moved").expect("moved");
    assert!(after.changed > before.changed, "a rename changes the inode");
    let parent = stat(&mut cluster, InodeId::ROOT, "b").expect("/b");
    assert!(parent.modified > before.changed);
    for (directory, name) in [(a, "one"), (b, "moved"), (a, "three")] {
        let name = bytes(name);
        cluster
            .namespace(2, Namespace::Unlink { directory, name })
            .expect("rm");
    }
    let query = Query::Attributes { inode: before.inode };
    let partition = a.home();
    match cluster.ask(1, Request::Query { partition, query }) {
        Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, 0),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn blocks_are_stored_on_their_replicas() {
    let mut cluster = Cluster::new(3);
    let data = Bytes::from(vec![7; 100_000]);
    let block = BlockId {
        client: ClientId(5),
        counter: 1,
    };
    let put = NodeRequest::BlockPut {
        block,
        data: data.clone(),
        checksum: crc32c(&[&data]),
        replicas: (1..=3).map(NodeNumber).collect(),
        local_only: false,
    };
    let stored = cluster.ask(1, Request::Node(put)).expect("stored");
    assert_eq!(
        stored,
        Reply::Stored {
            nodes: (1..=3).map(NodeNumber).collect()
        }
    );
    for node in 1..=3 {
        let get = NodeRequest::BlockGet {
            block,
            offset: 10,
            length: 1000,
        };
        assert_eq!(
            cluster.ask(node, Request::Node(get)),
            Ok(Reply::Block(data.slice(10..1010)))
        );
    }
}

#[test]
fn short_way_keeps_the_order_of_reads_sets_and_calls() {
    // Goal: a read sees exactly the SETs before it, also between calls of the long way. Method: one turn's mixture,
    // asked of the leader and of a follower.
    for node in [1, 2] {
        let mut cluster = Cluster::new(3);
        cluster.command(1, 0, set("k", "0")).expect("a leader");
        cluster.node_1_leads();
        let noted = Rc::new(Noted::default());
        cluster.submit(node, &noted, 0, "k", None);
        cluster.submit(node, &noted, 1, "k", Some("1"));
        cluster.submit(node, &noted, 2, "k", None);
        cluster.submit(node, &noted, 3, "k", Some("2"));
        let gateway = cluster.members[&NodeNumber(node)].worker.gateway();
        let id = gateway.begin_request(PartitionId(0));
        let request = Request::Command {
            partition: PartitionId(0),
            id,
            command: set("k", "3"),
        };
        let deadline_us = cluster.now.monotonic_us + 10_000_000;
        gateway.submit(request, Reach::Cluster, deadline_us, noted.clone(), 4);
        cluster.submit(node, &noted, 5, "k", None);
        cluster.submit(node, &noted, 6, "other", Some(""));
        cluster.submit(node, &noted, 7, "other", None);
        cluster.submit(node, &noted, 8, "missing", None);
        cluster.step_until_answered(&noted, 9);
        let answers: Vec<String> = noted.answers.borrow().values().cloned().collect();
        let expected = [
            "0", "stored", "1", "stored", "stored", "3", "stored", "", "nothing",
        ];
        assert_eq!(answers, expected, "asked of node {node}");
        assert_eq!(noted.as_calls.borrow().len(), if node == 1 { 1 } else { 9 });
    }
}

#[test]
fn short_way_becomes_calls_when_the_leader_is_cut_off() {
    // Goal: what was proposed by a leader that loses its place is applied once and answered, under its own names.
    // Method: cut the leader off with a run in its log, let another take over and write, heal.
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("k", "0")).expect("a leader");
    cluster.node_1_leads();
    cluster.cut.insert(NodeNumber(1));
    let noted = Rc::new(Noted::default());
    for token in 0..10 {
        cluster.submit(1, &noted, token, "k", Some(&format!("late {token}")));
    }
    cluster.submit(1, &noted, 10, "k", None);
    cluster.step();
    cluster
        .command(2, 0, set("k", "between"))
        .expect("another leader");
    assert!(
        noted.answers.borrow().is_empty(),
        "a leader without a quorum answers nothing"
    );
    cluster.cut.clear();
    cluster.step_until_answered(&noted, 11);
    assert_eq!(noted.as_calls.borrow().len(), 11);
    assert!((0..10).all(|token| noted.answers.borrow()[&token] == "stored"));
    assert_eq!(noted.answers.borrow()[&10], "late 9");
    (0..2000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn short_way_ends_at_its_deadline_without_a_quorum() {
    // Goal: every operation ends, a SET as unknown, a read as not done. Method: cut the leader off for good.
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("k", "0")).expect("a leader");
    cluster.node_1_leads();
    cluster.cut.insert(NodeNumber(1));
    let noted = Rc::new(Noted::default());
    cluster.submit(1, &noted, 0, "k", Some("1"));
    cluster.submit(1, &noted, 1, "k", None);
    cluster.step_until_answered(&noted, 2);
    assert!(
        noted.answers.borrow()[&0].contains("Unknown"),
        "{:?}",
        noted.answers
    );
    assert!(noted.answers.borrow()[&1].contains("Busy"), "{:?}", noted.answers);
}

#[test]
fn a_repeated_namespace_request_joins_its_coordinator() {
    // Goal: two copies of one mkdir under one id, both under way at once, are carried out by one coordinator,
    // and both get its answer.
    let mut cluster = Cluster::new(3);
    cluster
        .command(
            1,
            0,
            Command::KeyDelete {
                keys: Vec::new(),
                condition: Condition::Always,
            },
        )
        .expect("leads");
    let id = cluster.id();
    let request = Request::Namespace {
        id,
        operation: Namespace::MakeDirectory {
            directory: InodeId::ROOT,
            name: bytes("twice"),
            attributes: new_inode(),
        },
    };
    let answers: Rc<RefCell<Vec<Result<Reply, Failure>>>> = Rc::default();
    for node in [1, 2] {
        let asking = cluster.members[&NodeNumber(node)].worker.gateway();
        let (filled, request) = (answers.clone(), request.clone());
        let deadline_us = cluster.now.monotonic_us + 10_000_000;
        let gateway = asking.clone();
        gateway.spawn(async move {
            let result = asking.call(request, Reach::Cluster, deadline_us).await;
            filled.borrow_mut().push(result);
        });
    }
    for _ in 0..11_000 {
        cluster.step();
        if answers.borrow().len() == 2 {
            break;
        }
    }
    let answers = answers.borrow();
    assert!(
        matches!(&answers[..], [Ok(Reply::Created { .. }), other] if other == &answers[0]),
        "{answers:?}"
    );
    let joined: u64 = cluster
        .members
        .values()
        .map(|member| member.worker.requests_joined())
        .sum();
    assert_eq!(joined, 1);
}

#[test]
fn a_refused_request_stays_refused_when_its_reason_is_gone() {
    // Goal: a copy of a refused mkdir that comes late, when the name is free again, makes nothing.
    let mut cluster = Cluster::new(3);
    cluster.make_directory(1, InodeId::ROOT, "taken").expect("made");
    let id = cluster.id();
    let operation = Namespace::MakeDirectory {
        directory: InodeId::ROOT,
        name: bytes("taken"),
        attributes: new_inode(),
    };
    let request = Request::Namespace { id, operation };
    let first = cluster.ask(1, request.clone());
    assert!(
        matches!(first, Err(Failure::Refused(Refusal::Exists, _))),
        "{first:?}"
    );
    // Another client frees the name.
    let remove = Request::Namespace {
        id: RequestId {
            client: ClientId(78),
            sequence: 1,
            acknowledged_below: 1,
        },
        operation: Namespace::RemoveDirectory {
            directory: InodeId::ROOT,
            name: bytes("taken"),
        },
    };
    assert_eq!(cluster.ask(2, remove), Ok(Reply::Done));
    assert_eq!(cluster.ask(3, request), first);
}

impl Cluster {
    fn usage(&mut self, node: u16, directory: InodeId) -> (u64, u64) {
        let request = Request::Node(NodeRequest::DirectoryUsage { directory });
        match self.ask(node, request) {
            Ok(Reply::Usage(usage)) => (usage.bytes, usage.inodes),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn what_a_directory_takes_is_known_at_once_at_every_node() {
    // Goal: an answer holds everything acknowledged before it was asked for. Method: a deep tree through several
    // partitions; after each change the sums of all its directories at another node, without a pause.
    let mut cluster = Cluster::new(3);
    let mut chain = vec![InodeId::ROOT];
    for depth in 0..6 {
        let parent = chain[chain.len() - 1];
        let directory = cluster
            .make_directory(1, parent, &format!("d{depth}"))
            .expect("made");
        chain.push(directory);
    }
    let homes: BTreeSet<PartitionId> = chain.iter().map(|directory| directory.home()).collect();
    assert!(homes.len() > 2, "the tree is in several partitions");
    let (top, deep) = (chain[1], chain[6]);
    let create = Command::Create {
        directory: deep,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(2, deep.home().0, create).expect("created");
    for (depth, directory) in chain.clone().into_iter().enumerate() {
        assert_eq!(cluster.usage(3, directory), (5, 8 - depth as u64));
    }

    // The file goes up and its directory away, then the middle of the chain to the root.
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let rename = |from, to| Namespace::Rename {
        from,
        to,
        mode: RenameMode::Replace,
    };
    cluster
        .namespace(1, rename(entry(deep, "file"), entry(top, "moved")))
        .expect("moved");
    let (directory, name) = (chain[5], bytes("d5"));
    cluster
        .namespace(2, Namespace::RemoveDirectory { directory, name })
        .expect("removed");
    assert_eq!(cluster.usage(3, top), (5, 6));
    cluster
        .namespace(3, rename(entry(chain[2], "d2"), entry(InodeId::ROOT, "here")))
        .expect("moved");
    assert_eq!(cluster.usage(1, chain[3]), (0, 3));
    assert_eq!(cluster.usage(2, top), (5, 3));
    assert_eq!(cluster.usage(2, InodeId::ROOT), (5, 7));
}

impl Cluster {
    fn set_quota(&mut self, directory: InodeId, bytes: u64, inodes: u64) -> Result<Reply, Failure> {
        let limits = QuotaLimits { bytes, inodes };
        self.ask(2, Request::Node(NodeRequest::SetQuota { directory, limits }))
    }

    fn quota(&mut self, directory: InodeId) -> Quota {
        match self.ask(3, Request::Node(NodeRequest::GetQuota { directory })) {
            Ok(Reply::Quota(quota)) => quota,
            other => panic!("unexpected {other:?}"),
        }
    }

    fn create(&mut self, directory: InodeId, name: &str, size: usize) -> Result<Reply, Failure> {
        let create = Command::Create {
            directory,
            name: bytes(name),
            attributes: new_inode(),
            content: NewContent::Inline(Bytes::from(vec![7; size])),
            exclusive: true,
        };
        self.command(1, directory.home().0, create)
    }
}

fn is_used_up(result: &Result<Reply, Failure>) -> bool {
    matches!(result, Err(Failure::Refused(Refusal::QuotaExceeded, _)))
}

#[test]
fn a_quota_limits_a_tree_in_several_partitions() {
    // Goal: exact limits, whoever asks and wherever the inodes live. Method: a quota on a tree that is there
    // already, filled to the last byte and inode from its directories in turn.
    let mut cluster = Cluster::new(3);
    let top = cluster.make_directory(1, InodeId::ROOT, "top").expect("made");
    let outside = cluster.make_directory(1, InodeId::ROOT, "outside").expect("made");
    let mut directories = vec![top];
    for number in 0..5 {
        let parent = directories[number];
        directories.push(cluster.make_directory(2, parent, "in").expect("made"));
    }
    cluster.create(directories[3], "before", 1_000).expect("created");
    assert_eq!(cluster.set_quota(top, 10_000, 20), Ok(Reply::Done));
    let quota = cluster.quota(directories[5]);
    assert_eq!(
        (quota.quota, quota.used_bytes, quota.used_inodes),
        (Some(top), 1_000, 7)
    );

    // 9,000 bytes are left: nine files, in all the directories.
    for number in 0..9 {
        let directory = directories[number % directories.len()];
        let created = cluster.create(directory, &format!("f{number}"), 1_000);
        assert!(created.is_ok(), "{number}: {created:?}");
    }
    let (deep, name) = (directories[5], bytes("f5"));
    assert!(is_used_up(&cluster.create(deep, "one more", 1)));
    assert!(is_used_up(&cluster.create(top, "one more", 1)));
    cluster
        .create(outside, "free", 5_000)
        .expect("not under the quota");

    // Overwriting takes nothing more; deleting makes room at once.
    let Ok(Reply::Entry { inode, .. }) = cluster.ask(
        1,
        Request::Query {
            partition: deep.home(),
            query: Query::Lookup {
                directory: deep,
                name: name.clone(),
            },
        },
    ) else {
        panic!("no file")
    };
    let write = |offset, size| Command::WriteInline {
        inode,
        offset,
        data: Bytes::from(vec![8; size]),
        truncate: false,
    };
    cluster
        .command(3, inode.home().0, write(0, 1_000))
        .expect("overwritten");
    assert!(is_used_up(&cluster.command(3, inode.home().0, write(500, 501))));
    let directory = deep;
    cluster
        .namespace(1, Namespace::Unlink { directory, name })
        .expect("unlinked");
    assert_eq!(cluster.quota(top).used_bytes, 9_000);

    // Five inodes are left; directories count.
    for directory in &directories[..5] {
        cluster.make_directory(3, *directory, "more").expect("made");
    }
    let refused = cluster.make_directory(1, directories[5], "more");
    assert!(
        matches!(refused, Err(Failure::Refused(Refusal::QuotaExceeded, _))),
        "{refused:?}"
    );
    assert!(is_used_up(&cluster.create(directories[4], "empty", 0)));

    // Nothing comes in by a rename or a link; a quota inside is refused; without limits all is free.
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let rename = Namespace::Rename {
        from: entry(outside, "free"),
        to: entry(top, "free"),
        mode: RenameMode::Replace,
    };
    let moved = cluster.namespace(2, rename);
    assert!(
        matches!(moved, Err(Failure::Refused(Refusal::CrossDevice, _))),
        "{moved:?}"
    );
    assert!(cluster.set_quota(directories[2], 5, 5).is_err());
    assert_eq!(cluster.set_quota(top, u64::MAX, u64::MAX), Ok(Reply::Done));
    assert_eq!(cluster.quota(directories[2]).quota, None);
    cluster
        .create(directories[4], "free again", 8_000)
        .expect("created");
}

#[test]
fn truncating_a_large_file_answers_once_and_on_every_replica() {
    // Goal: a truncation too long for one entry goes on by itself until it is done, and replicas stay equal.
    // Method: a file of more blocks than two entries take; then one call.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let created = cluster.command(
        1,
        0,
        Command::Create {
            directory: InodeId::ROOT,
            name: bytes("large"),
            attributes: new_inode(),
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        },
    );
    let Ok(Reply::Created { attributes, .. }) = created else {
        panic!("not created: {created:?}");
    };
    let inode = attributes.inode;
    for part in 0..3 {
        let numbers = part * 4096..(part + 1) * 4096;
        let extents = numbers.map(|number| Extent {
            offset: number * 65_536,
            length: 65_536,
            block: BlockId {
                client: ClientId(1),
                counter: number,
            },
            block_offset: 0,
            block_size: 65_536,
            checksum: 1,
            nodes: vec![NodeNumber(1)],
        });
        let command = Command::Publish {
            inode,
            extents: extents.collect(),
            size: (part + 1) * 4096 * 65_536,
            replace_all: false,
            base_version: None,
        };
        cluster.command(1, 0, command).expect("published");
    }
    let change = AttributeChange {
        size: Some(10),
        ..Default::default()
    };
    let truncated = cluster.command(2, 0, Command::SetAttributes { inode, change });
    let Ok(Reply::Attributes(attributes)) = truncated else {
        panic!("not truncated: {truncated:?}");
    };
    assert_eq!(attributes.size, 10);
    for _ in 0..200 {
        cluster.step();
    }
    let hashes = cluster.hashes();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}
