//! Three nodes' workers joined by hand: the shortest proof that the parts fit. The simulator does the rest.

mod blocks;
mod copies;
mod delegations;
mod file_locks;
mod files;
mod leaders;
mod namespace;
mod policies;
mod short_way;
mod traces;
mod usage;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bark_core::block_store::{BlockStore, BlockStoreConfig};
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::partition::{Partition, SnapshotConfig, Start};
use bark_core::random::Random;
use bark_core::storage::{BLOCK_DIRECTORY, Storage};
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input};
use bark_core::worker::gateway::Reach;
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::{ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::*;
use bark_schema::placement::Ring;
use bark_schema::quota::{Quota, QuotaLimits};
use bytes::Bytes;

const PARTITIONS: u16 = 4;

struct Member {
    worker: Worker,
    storage: Storage,
    disk: SimulatedDisk,
    inputs: Vec<Input>,
}

/// A request under way, and its answer.
struct Asked(Rc<RefCell<Option<Result<Reply, Failure>>>>);

impl Asked {
    fn is_answered(&self) -> bool {
        self.0.borrow().is_some()
    }
}

struct Cluster {
    members: BTreeMap<NodeNumber, Member>,
    silent: BTreeSet<NodeNumber>,
    /// Takes its turns, but nobody hears it and it hears nobody.
    cut: BTreeSet<NodeNumber>,
    /// The log takes what it is given and does not answer.
    stuck_disks: BTreeSet<NodeNumber>,
    unanswered: Vec<(NodeNumber, u64)>,
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
        let statuses: Arc<Vec<NodeStatus>> = Arc::new(numbers.iter().map(|number| status(*number)).collect());
        let ring: Vec<_> = statuses
            .iter()
            .map(|node| (node.number, &node.id[..], ""))
            .collect();
        let ring = Arc::new(Ring::new(&ring, 128));
        let members = numbers.iter().map(|node| {
            let config = WorkerConfig {
                cluster: "test".to_string(),
                node: *node,
                worker: 0,
                worker_count: 1,
                partition_count: PARTITIONS,
                replicas: nodes,
                durability: Durability::Disk,
                nodes: statuses.clone(),
                placement: Arc::new(placement.clone()),
                ring: ring.clone(),
                cleaning: CleaningConfig::STANDARD,
                snapshots: SnapshotConfig::default(),
            };
            let mut random = Random::new(u64::from(node.0));
            let partitions = (0..PARTITIONS)
                .map(|id| {
                    let start = Start::new(PartitionId(id), PARTITIONS, placement[usize::from(id)].clone());
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
            stuck_disks: BTreeSet::new(),
            unanswered: Vec::new(),
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
                    Effect::Persist { batch, .. } if self.stuck_disks.contains(node) => {
                        self.unanswered.push((*node, batch));
                    }
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
                    Effect::Admit { .. } | Effect::MarkRejoining => unreachable!("all disks are known"),
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

    /// Asks a member, which has ten simulated seconds to answer.
    fn begin(&mut self, node: u16, request: Request) -> Asked {
        self.begin_within(node, request, Reach::Cluster)
    }

    fn begin_within(&mut self, node: u16, request: Request, reach: Reach) -> Asked {
        let gateway = self.members[&NodeNumber(node)].worker.gateway();
        let answer = Rc::new(RefCell::new(None));
        let (filled, asking) = (answer.clone(), gateway.clone());
        let deadline_us = self.now.monotonic_us + 10_000_000;
        gateway.spawn(async move {
            let result = asking.call(request, reach, deadline_us).await;
            *filled.borrow_mut() = Some(result);
        });
        Asked(answer)
    }

    /// Waits for the answer.
    fn end(&mut self, asked: &Asked) -> Result<Reply, Failure> {
        for _ in 0..11_000 {
            self.step();
            if let Some(result) = asked.0.borrow_mut().take() {
                return result;
            }
        }
        panic!("no answer within eleven seconds");
    }

    fn ask(&mut self, node: u16, request: Request) -> Result<Reply, Failure> {
        let asked = self.begin(node, request);
        self.end(&asked)
    }

    fn leader_of(&mut self, partition: PartitionId) -> NodeNumber {
        let query = Query::PartitionStatus;
        match self.ask(1, Request::Query { partition, query }) {
            Ok(Reply::Partition(status)) => status.leader.expect("it answers"),
            other => panic!("unexpected {other:?}"),
        }
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
        self.node_1_leads_within(90);
    }

    fn heal_disk(&mut self, healed: NodeNumber) {
        self.stuck_disks.remove(&healed);
        for (node, batch) in std::mem::take(&mut self.unanswered) {
            let member = self.members.get_mut(&node).expect("a member");
            member.inputs.push(Input::LogPersisted { batch });
        }
    }

    fn node_1_leads_within(&mut self, seconds: u64) {
        for _ in 0..seconds * 1000 {
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

    /// Every replica has applied the same and is the same. Followers hear of a commit with what comes next.
    fn become_equal(&mut self) {
        for _ in 0..10_000 {
            let hashes = self.hashes();
            if hashes.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            self.step();
        }
        panic!("replicas differ: {:?}", self.hashes());
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

fn status(number: NodeNumber) -> NodeStatus {
    NodeStatus {
        number,
        id: number.to_string(),
        capnp: String::new(),
        resp: String::new(),
        http: String::new(),
        zone: String::new(),
        reachable: false,
        draining: false,
        disk_slow: false,
        refusal: None,
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

impl Cluster {
    fn usage(&mut self, node: u16, directory: InodeId) -> (u64, u64) {
        let request = Request::Node(NodeRequest::DirectoryUsage { directory });
        match self.ask(node, request) {
            Ok(Reply::Usage(usage)) => (usage.bytes, usage.inodes),
            other => panic!("unexpected {other:?}"),
        }
    }
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
