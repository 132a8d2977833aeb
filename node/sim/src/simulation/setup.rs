//! What a seed draws before anything happens: the cluster's shape, what may go wrong, and who works in it.
//!
//! Every script costs time, so a seed has a focus: most work on keys and on a tree of files, some on all that files
//! can do. What the focus leaves out is drawn with small odds, so that everything still meets everything.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bark_client::session::{Session, SessionConfig, Topology};
use bark_core::partition::SnapshotConfig;
use bark_core::random::Random;
use bark_core::worker::Durability;
use bark_core::worker::gateway::Reach;
use bark_schema::ids::{ClientId, NodeNumber};
use bark_schema::operation::NodeStatus;
use bark_schema::placement::Ring;

use super::Simulation;
use super::plain::Connection;
use crate::Options;
use crate::client::{Client, Phase, Stage};
use crate::cluster::{Node, Shape};
use crate::fault::Mix;
use crate::files::{self, Contest, SharedDirectory, SharedFile, SharedListing, SharedNumber, SharedTree};
use crate::keys::{self, History, KeySpace};
use crate::network::Network;
use crate::world::{Event, World};

/// Any number that nobody else draws by.
const LOCKS_DRAW: u64 = 0x6c6f_636b;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Focus {
    Keys,
    Files,
}

/// What the scripts of all clients of one kind have in common.
struct Shared {
    keys: KeySpace,
    tree: Rc<RefCell<SharedTree>>,
    contest: Rc<Contest>,
    file: Rc<SharedFile>,
    directory: Rc<SharedDirectory>,
    number: Rc<SharedNumber>,
}

/// What one client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Keys,
    Files,
    Crowd,
    Locks,
}

impl Simulation {
    pub fn new(seed: u64, options: &Options) -> Simulation {
        let mut world = World::new(seed, options.trace);
        let shape = draw_shape(&mut world);
        let mut mix = Mix::draw(&mut world);
        if shape.durability == Durability::Memory {
            // What is in memory only has two copies: losing both within moments is beyond the promise.
            mix.disks = false;
            mix.damage = false;
        }
        let mut network = Network::default();
        network.delay_us = (50, world.between(200, 3_000));
        if world.random.chance(8) {
            network.delay_us = (2_000, 20_000);
        }
        let sync_us = (50, world.between(100, 8_000));
        let work_until_us = world.between(6_000_000, 12_000_000);
        let stage = Rc::new(Stage {
            phase: Cell::new(Phase::Work),
            failure: RefCell::default(),
            damaged: Cell::default(),
            counts: Cell::default(),
        });
        let mut simulation = Simulation {
            planted: options.planted,
            nodes: (1..=shape.nodes)
                .map(|number| Node::new(number, sync_us))
                .collect(),
            shape,
            network,
            clients: Vec::new(),
            reaches: Vec::new(),
            plain: Vec::new(),
            stage,
            history: History::default(),
            mix,
            work_until_us,
            healed_at_us: 0,
            suspends: world.random.below(3),
            skew_ns_max: 0,
            leaders: BTreeMap::new(),
            hashes: BTreeMap::new(),
            peer_pauses: BTreeMap::new(),
            next_power_loss_us: 0,
            storm: None,
            admitting: BTreeSet::new(),
            world,
        };
        simulation.add_clients(seed);
        simulation
    }

    fn add_clients(&mut self, seed: u64) {
        let focus = match self.world.random.chance(5) {
            true => Focus::Files,
            false => Focus::Keys,
        };
        let (key_clients, file_clients, crowd, plain) = match focus {
            Focus::Keys => (
                2 + self.world.random.below(2),
                1,
                self.world.random.below(3),
                self.world.random.below(3),
            ),
            Focus::Files => (
                1,
                1 + self.world.random.below(2),
                1 + self.world.random.below(2),
                0,
            ),
        };
        // Drawn apart, so that seeds without them stay what they were.
        let adders = match Random::new(seed ^ LOCKS_DRAW).chance(3) {
            true => 3,
            false => 0,
        };
        let jobs = [
            (Job::Keys, key_clients),
            (Job::Files, file_clients),
            (Job::Crowd, crowd),
            (Job::Locks, adders),
        ];
        let shared = Shared {
            keys: KeySpace::draw(&mut self.world, self.shape.partitions),
            tree: Rc::default(),
            contest: Rc::default(),
            file: Rc::default(),
            directory: Rc::default(),
            number: Rc::default(),
        };
        for (job, count) in jobs {
            for _ in 0..count {
                self.add_client(job, focus, &shared);
            }
        }
        for number in 0..plain as usize {
            let client = self.clients.len() + number;
            let connection = Connection::draw(&mut self.world, &self.shape, client, shared.keys.clone());
            self.plain.push(connection);
            self.world.at(500_000, Event::Plain { connection: number });
        }
    }

    fn add_client(&mut self, job: Job, focus: Focus, shared: &Shared) {
        let number = self.clients.len();
        let mut nodes: Vec<NodeNumber> = (1..=self.shape.nodes).map(NodeNumber).collect();
        nodes.rotate_left(self.world.random.below(u64::from(self.shape.nodes)) as usize);
        let topology = Topology {
            nodes,
            replicas: self.shape.placement.to_vec(),
        };
        let id = client_id(number);
        let config = SessionConfig::new(id, self.world.random.next_u64());
        let mut client = Client::new(Session::new(config, topology), self.stage.clone());
        match job {
            Job::Keys => self.add_key_scripts(&mut client, number, shared),
            Job::Files => self.add_file_scripts(&mut client, number, focus),
            Job::Crowd => {
                let random = self.random();
                client.run(files::crowd(client.port.clone(), random, shared.tree.clone()));
            }
            Job::Locks => {
                let (port, random) = (client.port.clone(), self.random());
                client.run(files::add_under_lock(
                    port,
                    random,
                    (number, id),
                    shared.number.clone(),
                ));
            }
        }
        if matches!(job, Job::Files | Job::Crowd) {
            self.add_meetings(&mut client, number, focus, shared);
        }
        // Some clients let the node forward, as simple clients do.
        let reach = if self.world.random.chance(3) {
            Reach::Cluster
        } else {
            Reach::Here
        };
        self.clients.push(client);
        self.reaches.push(reach);
        self.world
            .at(10_000 * number as u64, Event::ClientTick { client: number });
    }

    fn random(&mut self) -> Random {
        Random::new(self.world.random.next_u64())
    }

    fn add_key_scripts(&mut self, client: &mut Client, number: usize, shared: &Shared) {
        let (port, history) = (client.port.clone(), self.history.clone());
        let lanes = 1 + self.world.random.below(3);
        for _ in 0..lanes {
            let random = self.random();
            let keys = shared.keys.clone();
            client.run(keys::work(port.clone(), random, keys, history.clone(), number));
        }
        // Only where all clocks agree can be said when a key must be gone.
        let client_and_exact = (number, !self.mix.clocks);
        let random = self.random();
        let keys = shared.keys.clone();
        client.run(keys::fleeting(
            port.clone(),
            random,
            keys.clone(),
            history.clone(),
            client_and_exact,
        ));
        client.run(keys::pairs(port, keys, history, number));
    }

    /// What a client does to files that are its own.
    fn add_file_scripts(&mut self, client: &mut Client, number: usize, focus: Focus) {
        let (port, nodes) = (client.port.clone(), self.shape.nodes);
        let random = self.random();
        client.run(files::ranges(port.clone(), random, number, nodes));
        let random = self.random();
        client.run(files::own(port.clone(), random, number, nodes));
        if self.is_drawn(focus, 6) {
            let random = self.random();
            client.run(files::unnamed(port.clone(), random, number, !self.mix.clocks));
        }
        if self.is_drawn(focus, 6) {
            let listing: Rc<RefCell<SharedListing>> = Rc::default();
            let random = self.random();
            client.run(files::change(port.clone(), random, number, listing.clone()));
            let random = self.random();
            client.run(files::list(port, random, listing));
        }
    }

    /// What clients of files do where they meet.
    fn add_meetings(&mut self, client: &mut Client, number: usize, focus: Focus, shared: &Shared) {
        let port = client.port.clone();
        if self.is_drawn(focus, 3) {
            let random = self.random();
            let (history, contest) = (self.history.clone(), shared.contest.clone());
            client.run(files::contested(port.clone(), random, number, history, contest));
        }
        if self.is_drawn(focus, 3) {
            let random = self.random();
            client.run(files::append(port.clone(), random, number, shared.file.clone()));
        }
        if self.is_drawn(focus, 2) {
            let random = self.random();
            let (id, directory) = (client_id(number), shared.directory.clone());
            client.run(files::delegated(port.clone(), random, id, directory.clone()));
            client.run(files::await_recalls(port, id, directory));
        }
    }

    /// All of it where files are the focus, elsewhere one in `odds`.
    fn is_drawn(&mut self, focus: Focus, odds: u64) -> bool {
        focus == Focus::Files || self.world.random.chance(odds)
    }
}

fn client_id(number: usize) -> ClientId {
    ClientId(1000 + number as u64)
}

fn draw_shape(world: &mut World) -> Shape {
    let nodes = if world.random.chance(4) { 5 } else { 3 };
    let workers = 1 + world.random.below(2) as u16;
    let partitions = 3 + world.random.below(4) as u16;
    let replicas_of = |partition: u16| (0..3).map(move |copy| NodeNumber((partition + copy) % nodes + 1));
    let status = |number: u16| NodeStatus {
        number: NodeNumber(number),
        id: format!("node-{number}"),
        capnp: String::new(),
        resp: String::new(),
        http: String::new(),
        zone: String::new(),
        reachable: false,
        draining: false,
        disk_slow: false,
        refusal: None,
    };
    let statuses: Vec<NodeStatus> = (1..=nodes).map(status).collect();
    let members: Vec<_> = statuses
        .iter()
        .map(|node| (node.number, &node.id[..], ""))
        .collect();
    Shape {
        ring: Arc::new(Ring::new(&members, 128)),
        nodes,
        workers,
        partitions,
        placement: Arc::new((0..partitions).map(|it| replicas_of(it).collect()).collect()),
        snapshots: draw_snapshots(world),
        durability: match world.random.chance(6) {
            true => Durability::Memory,
            false => Durability::Disk,
        },
        statuses: Arc::new(statuses),
    }
}

/// Mostly small intervals, so that snapshots are taken, loaded and sent all the time.
fn draw_snapshots(world: &mut World) -> SnapshotConfig {
    let usual = SnapshotConfig::default();
    if world.random.chance(4) {
        return usual;
    }
    SnapshotConfig {
        interval_entries: world.between(5, 300),
        interval_us: world.between(500_000, 20_000_000),
        pause_us_min: world.between(10_000, 1_000_000),
        chunk_size_bytes: 1 << world.between(9, 15),
        tail_entries_max: world.random.below(3) * world.random.below(60),
        ..usual
    }
}
