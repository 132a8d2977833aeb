//! Nodes whose disks forgot: three workers with logs of their own, joined by hand.
//!
//! The case all of these turn on: an entry is acknowledged by two of three, one of the two forgets it, the other
//! is away. Nobody who is left may be elected then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bark_core::block_store::BlockStoreConfig;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{Log, LogConfig};
use bark_core::open;
use bark_core::random::Random;
use bark_core::storage::Storage;
use bark_core::time::Now;
use bark_core::worker::event::{Effect, Input};
use bark_core::worker::gateway::Reach;
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::operation::*;
use bytes::Bytes;

const PARTITIONS: u16 = 2;
const NODES: [u16; 3] = [1, 2, 3];

struct Running {
    worker: Worker,
    log: Log,
    storage: Storage,
    inputs: Vec<Input>,
    rejoining: bool,
}

#[derive(Default)]
struct Member {
    running: Option<Running>,
    log_disk: SimulatedDisk,
    data_disk: SimulatedDisk,
}

struct Cluster {
    members: BTreeMap<u16, Member>,
    /// Cut off from everybody.
    silent: BTreeSet<u16>,
    durability: Durability,
    /// With durability `memory`: the log is written but not synced.
    syncs: bool,
    now: Now,
    random: Random,
    sequence: u64,
}

impl Cluster {
    fn new(durability: Durability) -> Cluster {
        Cluster {
            members: NODES.iter().map(|node| (*node, Member::default())).collect(),
            silent: BTreeSet::new(),
            durability,
            syncs: true,
            now: Now {
                monotonic_us: 0,
                unix_ns: 1_700_000_000_000_000_000,
            },
            random: Random::new(7),
            sequence: 0,
        }
    }

    fn started(durability: Durability) -> Cluster {
        let mut cluster = Cluster::new(durability);
        NODES.iter().for_each(|node| cluster.start(*node));
        cluster.steps(3_000);
        for node in NODES {
            assert!(!cluster.is_rejoining(node), "node {node} takes part");
        }
        cluster
    }

    fn start(&mut self, node: u16) {
        let placement: Vec<Vec<NodeNumber>> = (0..PARTITIONS)
            .map(|_| NODES.iter().copied().map(NodeNumber).collect())
            .collect();
        let config = WorkerConfig {
            cluster: "test".to_string(),
            node: NodeNumber(node),
            worker: 0,
            worker_count: 1,
            partition_count: PARTITIONS,
            replicas: 3,
            durability: self.durability,
            nodes: Arc::default(),
            placement: Arc::new(placement),
            ring: Arc::default(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: bark_core::partition::SnapshotConfig::default(),
        };
        let member = self.members.get_mut(&node).expect("a member");
        let mut opened = open::open(
            &mut member.log_disk,
            &mut member.data_disk,
            &config,
            LogConfig {
                segment_size_bytes: 64 << 10,
                record_size_max_bytes: 8 << 20,
            },
            BlockStoreConfig::default(),
        )
        .expect("the disks open");
        let mut random = Random::new(self.random.next_u64());
        let partitions = open::partitions(&mut opened.starts, &config, self.now, &mut random)
            .expect("the partitions open");
        let peers = NODES.iter().filter(|peer| **peer != node);
        member.running = Some(Running {
            worker: Worker::new(config, partitions, self.now, random),
            log: opened.log,
            storage: opened.storage,
            inputs: peers
                .map(|peer| Input::PeerConnected {
                    node: NodeNumber(*peer),
                })
                .collect(),
            rejoining: opened.rejoining,
        });
    }

    fn member(&mut self, node: u16) -> &mut Member {
        self.members.get_mut(&node).expect("a member")
    }

    fn stop(&mut self, node: u16) {
        let member = self.member(node);
        member.running = None;
        member.log_disk.restart();
        member.data_disk.restart();
    }

    /// Starts it again with an empty data directory.
    fn wipe(&mut self, node: u16) {
        *self.member(node) = Member::default();
    }

    fn is_rejoining(&self, node: u16) -> bool {
        let running = self.members[&node].running.as_ref().expect("it runs");
        assert_eq!(running.rejoining, running.worker.is_rejoining());
        running.rejoining
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    /// One millisecond: every member takes a turn, every effect arrives.
    fn step(&mut self) {
        self.now.monotonic_us += 1_000;
        self.now.unix_ns += 1_000_000;
        let mut sent = Vec::new();
        for (node, member) in &mut self.members {
            let Some(running) = &mut member.running else {
                continue;
            };
            let mut effects = Vec::new();
            running.worker.turn(self.now, &mut running.inputs, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Send { to, message, .. } => sent.push((*node, to, message)),
                    Effect::Persist { batch, records } => {
                        running
                            .log
                            .append(&mut member.log_disk, &records)
                            .expect("append");
                        if self.syncs {
                            running.log.sync(&mut member.log_disk).expect("sync");
                        }
                        running.inputs.push(Input::LogPersisted { batch });
                    }
                    Effect::Storage(request) => {
                        let mut events = Vec::new();
                        running
                            .storage
                            .execute(&mut member.data_disk, vec![(0, request)], &mut events);
                        running
                            .inputs
                            .extend(events.into_iter().map(|(_, event)| Input::Storage(event)));
                    }
                    Effect::Sibling { .. } => unreachable!("one worker a node"),
                    Effect::MarkRejoining => {
                        open::mark_rejoining(&mut member.log_disk).expect("marked");
                        running.rejoining = true;
                    }
                    Effect::Admit { .. } => unreachable!("there is no operator"),
                }
            }
            for partition in running.worker.partitions() {
                assert_eq!(partition.failed(), None, "node {node}");
            }
            if running.rejoining && !running.worker.is_rejoining() {
                running.rejoining = false;
                open::clear_rejoining(&mut member.log_disk).expect("the mark goes");
            }
        }
        for (from, to, message) in sent {
            let lost = self.silent.contains(&from) || self.silent.contains(&to.0);
            if !lost && let Some(running) = &mut self.member(to.0).running {
                running.inputs.push(Input::Peer {
                    from: NodeNumber(from),
                    message,
                });
            }
        }
    }

    fn ask(&mut self, node: u16, request: Request) -> Result<Reply, Failure> {
        let running = self.members[&node].running.as_ref().expect("it runs");
        let gateway = running.worker.gateway();
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

    fn set(&mut self, node: u16, key: &str) -> Result<Reply, Failure> {
        self.sequence += 1;
        let command = Command::KeySet {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::from_static(b"kept"),
            expiry: Expiry::Never,
            condition: Condition::Always,
            return_previous: false,
        };
        let id = RequestId {
            client: ClientId(5),
            sequence: self.sequence,
            acknowledged_below: self.sequence,
        };
        self.ask(
            node,
            Request::Command {
                partition: PartitionId(0),
                id,
                command,
            },
        )
    }

    fn has(&mut self, node: u16, key: &str) -> bool {
        let query = Query::KeyGet {
            key: Bytes::copy_from_slice(key.as_bytes()),
        };
        let request = Request::Query {
            partition: PartitionId(0),
            query,
        };
        match self.ask(node, request) {
            Ok(Reply::Value(value)) => value.is_some(),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Of partition 0, the one with the keys.
    fn leaders(&self) -> Vec<u16> {
        let leads = |member: &Member| {
            let mut partitions = member
                .running
                .iter()
                .flat_map(|running| running.worker.partitions());
            partitions.any(|partition| partition.id() == PartitionId(0) && partition.is_leader())
        };
        let running = self.members.iter().filter(|(_, member)| leads(member));
        running.map(|(node, _)| *node).collect()
    }

    /// Steps for ten seconds in which nobody may lead.
    fn nobody_leads(&mut self) {
        for _ in 0..10_000 {
            self.step();
            assert_eq!(self.leaders(), Vec::<u16>::new());
        }
    }
}

#[test]
fn a_new_cluster_starts_when_all_its_members_have_met() {
    // Goal: no operator is needed at the first start, and what was interrupted half-way goes on.
    let mut cluster = Cluster::new(Durability::Disk);
    cluster.start(1);
    cluster.start(2);
    cluster.nobody_leads();
    cluster.stop(2);
    cluster.start(2);
    cluster.start(3);
    cluster.set(3, "first").expect("the cluster serves");
    cluster.steps(1_000);
    for node in NODES {
        assert!(!cluster.is_rejoining(node), "node {node}");
        assert!(cluster.has(node, "first"));
    }
    // Members that met once need a majority and nobody else.
    cluster.stop(1);
    cluster.stop(2);
    cluster.stop(3);
    cluster.start(2);
    cluster.start(3);
    assert!(cluster.has(2, "first"));
}

#[test]
fn a_wiped_node_does_not_vote_away_what_it_acknowledged() {
    // Goal: 1 and 2 acknowledged, 2 is wiped, 1 is down: 2 and 3 must not elect anyone, however often 2 restarts.
    for acknowledging in [1, 3] {
        let behind = 4 - acknowledging;
        let mut cluster = Cluster::started(Durability::Disk);
        cluster.silent.insert(behind);
        cluster
            .set(acknowledging, "kept")
            .expect("two of three are enough");
        cluster.stop(acknowledging);
        cluster.stop(2);
        cluster.wipe(2);
        cluster.silent.clear();
        cluster.start(2);
        // A leader that was silent meanwhile believes to be one until it finds that nobody follows.
        cluster.steps(1_000);
        cluster.nobody_leads();
        cluster.stop(2);
        cluster.start(2);
        cluster.nobody_leads();
        assert!(cluster.is_rejoining(2));
        cluster.start(acknowledging);
        assert!(cluster.has(2, "kept"));
        cluster.steps(2_000);
        assert!(!cluster.is_rejoining(2));
        // And now it counts: with 1 away it has the entry itself.
        cluster.stop(acknowledging);
        assert!(cluster.has(behind, "kept"));
    }
}

#[test]
fn a_wiped_node_votes_for_those_only_who_have_what_it_forgot() {
    // Goal: everybody answered, and then the one who has the entry goes away: the two others have not got it.
    let mut cluster = Cluster::started(Durability::Disk);
    cluster.silent.insert(3);
    cluster.set(1, "kept").expect("two of three are enough");
    cluster.stop(2);
    cluster.wipe(2);
    cluster.start(2);
    cluster.silent.clear();
    let mut answered = 0;
    while !cluster.leaders().is_empty() && answered < 5_000 {
        // The leader loses its place when the wiped node has heard from all; then it goes away at once.
        cluster.step();
        answered += 1;
    }
    assert!(answered < 5_000, "the wiped node went on to a higher term");
    cluster.stop(1);
    cluster.nobody_leads();
    cluster.start(1);
    assert!(cluster.has(3, "kept"));
}

#[test]
fn a_wiped_node_comes_back_while_the_others_serve() {
    // Goal: rejoining under load needs nobody's help, also through a snapshot of a log that was cut.
    let mut cluster = Cluster::started(Durability::Disk);
    for round in 0..6 {
        let node = NODES[round % 3];
        cluster.stop(node);
        cluster.wipe(node);
        cluster.start(node);
        for key in 0..5 {
            cluster
                .set(NODES[(round + 1) % 3], &format!("{round}-{key}"))
                .expect("set");
        }
        cluster.steps(3_000);
        assert!(!cluster.is_rejoining(node), "round {round}");
    }
    for round in 0..6 {
        for key in 0..5 {
            assert!(cluster.has(1, &format!("{round}-{key}")));
        }
    }
}

#[test]
fn a_node_that_lost_unsynced_acknowledgements_rejoins() {
    // Goal: level `memory`: the power goes on 2 before it synced what it acknowledged, 1 is down, 3 has it not.
    let mut cluster = Cluster::started(Durability::Memory);
    cluster.silent.insert(3);
    cluster.syncs = false;
    cluster.set(1, "kept").expect("two of three are enough");
    cluster.syncs = true;
    cluster.stop(1);
    let mut random = Random::new(3);
    let member = cluster.member(2);
    member.running = None;
    member.log_disk.crash(&mut random);
    member.data_disk.crash(&mut random);
    open::mark_rejoining(&mut member.log_disk).expect("marked");
    cluster.silent.clear();
    cluster.start(2);
    cluster.nobody_leads();
    cluster.start(1);
    assert!(cluster.has(2, "kept"));
    cluster.steps(2_000);
    assert!(!cluster.is_rejoining(2));
}

#[test]
fn a_cluster_whose_power_went_comes_back_with_what_was_synced() {
    // Goal: level `memory`: all have forgotten something, so they take the farthest log there is and go on.
    for seed in 0..20 {
        let mut cluster = Cluster::started(Durability::Memory);
        cluster.set(1, "synced").expect("set");
        cluster.steps(200);
        cluster.syncs = false;
        cluster.set(2, "lost perhaps").expect("set");
        cluster.syncs = true;
        let mut random = Random::new(seed);
        for node in NODES {
            let member = cluster.member(node);
            member.running = None;
            member.log_disk.crash(&mut random);
            member.data_disk.crash(&mut random);
            open::mark_rejoining(&mut member.log_disk).expect("marked");
            cluster.start(node);
        }
        assert!(cluster.has(3, "synced"), "seed {seed}");
        cluster.set(1, "after").expect("it serves");
        cluster.steps(2_000);
        for node in NODES {
            assert!(!cluster.is_rejoining(node), "seed {seed}, node {node}");
        }
    }
}

#[test]
fn an_older_copy_of_a_disk_is_noticed_by_the_leader_that_counts_on_it() {
    // Goal: a node whose disk was put back to an older copy rejoins, and no partition of it fails. Method: the copy is
    // so young that only the leader's knowledge of acknowledgements tells; nothing acknowledged is lost afterwards.
    let mut cluster = Cluster::started(Durability::Disk);
    cluster.set(1, "a").expect("set");
    cluster.steps(500);
    let follower = NODES.into_iter().find(|node| !cluster.leaders().contains(node));
    let node = follower.expect("two partitions are led by two nodes at most");
    let member = cluster.member(node);
    let (log_disk, data_disk) = (member.log_disk.clone(), member.data_disk.clone());
    for key in 0..40 {
        cluster.set(1, &format!("key-{key}")).expect("set");
    }
    // So quickly that its leader does not miss it.
    cluster.stop(node);
    let member = cluster.member(node);
    (member.log_disk, member.data_disk) = (log_disk, data_disk);
    member.log_disk.restart();
    member.data_disk.restart();
    cluster.start(node);
    cluster.steps(200);
    cluster.steps(5_000);
    assert!(!cluster.is_rejoining(node), "it took part again");
    let failed = |cluster: &mut Cluster| {
        let running = cluster.member(node).running.as_ref().expect("it runs");
        running
            .worker
            .partitions()
            .filter_map(|it| it.failed().map(str::to_string))
            .collect::<Vec<_>>()
    };
    assert_eq!(failed(&mut cluster), Vec::<String>::new());
    let other = NODES.into_iter().find(|other| *other != node).expect("another");
    cluster.silent.insert(other);
    for key in 0..40 {
        assert!(cluster.has(node, &format!("key-{key}")), "key-{key} is lost");
    }
}
