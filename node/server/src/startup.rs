//! Putting a node together: files first, then threads, sockets last, so that nobody is answered by a node
//! that cannot keep a promise.
//!
//! Previous in the flow: `main`. Next: `network`, `worker_thread`, `log_thread`, `storage_thread`.
//!
//! Invariants:
//! - The data directory belongs to one process: its lock file is held while the node runs.
//! - A data directory of another cluster or node is refused before anything in it is read.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bark_core::block_store::BlockStoreConfig;
use bark_core::identity::{self, Identity};
use bark_core::log::{Log, LogConfig};
use bark_core::members::Members;
use bark_core::open::{self, Opened};
use bark_core::partition::SnapshotConfig;
use bark_core::random::Random;
use bark_core::worker::{CleaningConfig, Worker, WorkerConfig};
use bark_schema::ids::PartitionId;
use bark_schema::operation::NodeStatus;

use crate::config::Config;
use crate::file_disk::FileDisk;
use crate::mailbox::{self, Mail, MailSender};
use crate::network::{self, ConnectionCount, NetworkConfig, NetworkThread, Sockets};
use crate::peer_links::PeerLinks;
use crate::pipeline::{self, ConnectionKind, PipelineConfig};
use crate::protocol::{Context, Settings};
use crate::reactor::{self, EventWatcher, WatcherHandle};
use crate::worker_thread::{self, WorkerParts};
use crate::{log_thread, storage_thread};

/// Connections of a node; each idle one costs about a hundred bytes.
const CONNECTIONS_MAX: usize = 12_000;
/// Descriptors beside connections: log, blocks, listeners.
const OPEN_FILES_BESIDE: usize = 512;
/// Items and bytes on their way to one worker; beyond, its sockets are not read.
const RING_ITEMS_MAX: usize = 4096;
const RING_BYTES_MAX: u64 = 16 << 20;
/// Unsent bytes of a connection before its worker is told, and before it is closed.
const OUTGOING_BYTES_SOFT_MAX: usize = 256 << 10;
const OUTGOING_BYTES_MAX: usize = 256 << 20;
/// A peer in the same cluster accepts within milliseconds, or its machine is off.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Data { path: PathBuf, source: std::io::Error },
    #[error("{path}: another process uses this data directory")]
    InUse { path: PathBuf },
    #[error("{path}: {source}")]
    Identity { path: PathBuf, source: identity::Error },
    #[error(
        "{path}: the cluster file changed in what is fixed for ever (name, nodes, replicas, partitions, vnodes)"
    )]
    ClusterChanged { path: PathBuf },
    #[error(
        "{path}/log: the log is gone, and without replicas nobody else has its data; bring it back from a backup, or \
         start from an empty directory"
    )]
    LogMissing { path: PathBuf },
    #[error(
        "{path}/identity: there is a log beside it but no identity record; bring the record back, or start this node \
         from an empty directory and it will get its data from the others"
    )]
    IdentityMissing { path: PathBuf },
    #[error(transparent)]
    Open(#[from] open::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Reactor(#[from] reactor::Error),
    #[error("peer {id}: {address}: not an address of the form HOST:PORT with a numeric host")]
    PeerAddress { id: String, address: String },
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

impl Error {
    /// It stays until somebody changes the configuration or names another data directory.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Error::Identity { .. }
                | Error::ClusterChanged { .. }
                | Error::LogMissing { .. }
                | Error::IdentityMissing { .. }
                | Error::PeerAddress { .. }
                | Error::InUse { .. }
        )
    }
}

/// A running node.
pub struct Node {
    mails: Vec<MailSender>,
    workers: Vec<JoinHandle<()>>,
    networks: Vec<(WatcherHandle<Sockets>, JoinHandle<()>)>,
    log: JoinHandle<()>,
    storage: JoinHandle<()>,
    identity: Identity,
    disk: FileDisk,
    _lock: File,
}

impl Node {
    /// Starts everything and returns when the sockets listen.
    pub fn start(config: &Config) -> Result<Node, Error> {
        let data = |source| Error::Data {
            path: config.data.clone(),
            source,
        };
        let mut disk = FileDisk::open(&config.data).map_err(data)?;
        let lock = lock(&config.data)?;
        let digest = config.cluster.digest();
        let worker_configs = worker_configs(config);
        let identity = examine(config, digest, &worker_configs[0], &mut disk)?;

        // Without a thread of its own the loop runs on the worker's.
        let loops_count = usize::from(config.network_threads.max(1));
        let listeners = [
            network::bind(config.capnp, ConnectionKind::Capnp, loops_count)?,
            network::bind(config.resp, ConnectionKind::Resp, loops_count)?,
            network::bind(config.http, ConnectionKind::Http, loops_count)?,
        ];
        network::raise_open_files_limit(CONNECTIONS_MAX + OPEN_FILES_BESIDE)?;

        let mut log_disk = FileDisk::open(&config.data).map_err(data)?;
        let mut storage_disk = FileDisk::open(&config.data).map_err(data)?;
        let (log_config, block_config) = (LogConfig::default(), BlockStoreConfig::default());
        let first = &worker_configs[0];
        let Opened {
            log,
            storage,
            mut starts,
            rejoining,
        } = open::open(&mut log_disk, &mut storage_disk, first, log_config, block_config)?;
        // Only now: a start that fails before leaves a directory the next one takes for what it is.
        identity.store(&mut disk).map_err(|source| Error::Identity {
            path: config.data.clone(),
            source,
        })?;
        if rejoining {
            tracing::info!(
                "this node is new here or may have forgotten what it acknowledged: each partition votes again when \
                 all its other replicas have answered once"
            );
        }

        let mut watchers = Vec::new();
        for _ in 0..loops_count {
            watchers.push(EventWatcher::<Sockets>::open()?);
        }
        let wakers: Vec<_> = watchers.iter().map(|watcher| watcher.handle().waker()).collect();
        let pipeline_config = PipelineConfig {
            workers_count: worker_configs.len(),
            ring_items_max: RING_ITEMS_MAX,
            ring_bytes_max: RING_BYTES_MAX,
        };
        let (network_ports, mut worker_ports) = pipeline::build(&wakers, pipeline_config);
        let connections = ConnectionCount::new(CONNECTIONS_MAX);
        let mut loops = Vec::new();
        let mut listeners = listeners.map(Vec::into_iter);
        for (watcher, port) in watchers.into_iter().zip(network_ports) {
            let network_config = NetworkConfig {
                connections: connections.clone(),
                outgoing_bytes_soft_max: OUTGOING_BYTES_SOFT_MAX,
                outgoing_bytes_max: OUTGOING_BYTES_MAX,
                connect_timeout: CONNECT_TIMEOUT,
                flush_timeout: FLUSH_TIMEOUT,
            };
            let own_listeners = listeners.iter_mut().filter_map(Iterator::next).collect();
            loops.push(NetworkThread::open(watcher, port, own_listeners, network_config)?);
        }
        // With one loop and no thread for it, it goes to the one worker there is.
        let mut loop_of_worker = None;
        if config.network_threads == 0
            && let (Some(waker), Some(port)) = (wakers.first(), worker_ports.first_mut())
        {
            port.sleep_in(waker.clone());
            loop_of_worker = loops.pop();
        }

        // Every worker, the log, the disk and this thread may send to each mailbox.
        let senders_max = worker_configs.len() + 3;
        let (mails, mailboxes): (Vec<_>, Vec<_>) = worker_ports
            .iter()
            .map(|port| mailbox::mailbox(port.waker(), senders_max))
            .unzip();

        let settings = Arc::new(Settings {
            version: env!("CARGO_PKG_VERSION"),
            cluster: config.cluster.clone(),
            node: config.node,
            map_digest: digest,
            incarnation: identity.incarnation,
            rejoining: AtomicBool::new(rejoining),
            log_position: AtomicU64::new(log.durable_position()),
            members: Arc::new(Mutex::new(load_members(&mut disk))),
            value_size_max: config.value_size_max,
            started_unix_s: unix_now().as_secs(),
        });
        let durability = config.cluster.durability;
        let (log_sender, log) = log_thread::start(log, log_disk, durability, mails.clone(), settings.clone())
            .map_err(Error::Thread)?;
        let (storage_sender, storage) = storage_thread::start(
            storage,
            storage_disk,
            config.data.clone(),
            mails.clone(),
            settings.clone(),
        )
        .map_err(Error::Thread)?;

        let mut workers = Vec::new();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        for ((worker_config, port), mailbox) in worker_configs.into_iter().zip(worker_ports).zip(mailboxes) {
            let peers = PeerLinks::new(peer_addresses(config)?.into_iter(), std::time::Instant::now());
            let parts = WorkerParts {
                index: worker_config.worker,
                port,
                network: loop_of_worker.take(),
                mailbox,
                siblings: mails.clone(),
                log: log_sender.clone(),
                storage: storage_sender.clone(),
                peers,
                rejoining,
            };
            let own: Vec<PartitionId> = starts
                .keys()
                .copied()
                .filter(|id| worker_config.worker_of(*id) == worker_config.worker)
                .collect();
            let mut own_starts = own
                .iter()
                .filter_map(|id| Some((*id, starts.remove(id)?)))
                .collect();
            let settings = settings.clone();
            // The network thread has the first core.
            let core = config
                .pin
                .then(|| cores.get(1 + usize::from(worker_config.worker)).copied())
                .flatten();
            let name = format!("worker-{}", worker_config.worker);
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                pin(core);
                worker_thread::run(parts, move |now| {
                    let mut random = Random::new(seed());
                    let partitions = match open::partitions(&mut own_starts, &worker_config, now, &mut random)
                    {
                        Ok(partitions) => partitions,
                        Err(error) => {
                            tracing::error!(%error, "the partitions cannot be opened");
                            std::process::exit(1);
                        }
                    };
                    let worker = Worker::new(worker_config, partitions, now, random);
                    let context = Context {
                        gateway: worker.gateway(),
                        settings,
                        frame_room: Default::default(),
                        peer_inbox: Default::default(),
                        members_changed: Default::default(),
                    };
                    (worker, context)
                });
            });
            workers.push(thread.map_err(Error::Thread)?);
        }
        drop((log_sender, storage_sender));

        let mut networks = Vec::new();
        for network in loops {
            let handle = network.handle();
            let core = config.pin.then(|| cores.first().copied()).flatten();
            let thread = std::thread::Builder::new()
                .name("network".to_string())
                .spawn(move || {
                    pin(core);
                    if let Err(error) = network.run() {
                        tracing::error!(%error, "the network thread stopped");
                        std::process::exit(1);
                    }
                });
            networks.push((handle, thread.map_err(Error::Thread)?));
        }
        Ok(Node {
            mails,
            workers,
            networks,
            log,
            storage,
            identity,
            disk,
            _lock: lock,
        })
    }

    /// Stops taking requests, makes everything durable and notes that this was a clean end.
    pub fn stop(mut self) {
        for mail in &mut self.mails {
            mail.send(Mail::Stop);
        }
        drop(self.mails);
        for worker in self.workers {
            report(worker.join(), "worker");
        }
        report(self.log.join(), "log");
        report(self.storage.join(), "storage");
        for (handle, thread) in self.networks {
            handle.stop();
            report(thread.join(), "network");
        }
        self.identity.clean_shutdown = true;
        if let Err(error) = self.identity.store(&mut self.disk) {
            tracing::warn!(%error, "the clean end could not be noted");
        }
    }
}

fn report(joined: std::thread::Result<()>, name: &str) {
    if joined.is_err() {
        tracing::error!(name, "a thread panicked");
    }
}

fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("lock");
    let at = |source| Error::Data {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::InUse {
            path: data.to_path_buf(),
        }),
    }
}

/// Reads the identity record, refuses what does not belong together, and returns the record of the life that begins.
/// It is stored by the caller, when the log is open. What this node may have forgotten is marked before that.
fn examine(
    config: &Config,
    map_digest: u64,
    worker_config: &WorkerConfig,
    disk: &mut FileDisk,
) -> Result<Identity, Error> {
    let path = config.data.clone();
    let at = |source| Error::Identity {
        path: path.clone(),
        source,
    };
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_string();
    let has_log = Log::exists(disk, open::LOG_DIRECTORY).map_err(open::Error::from)?;
    let rejoining = open::is_marked_rejoining(disk)?;
    let incarnation = match Identity::load(disk).map_err(at)? {
        Some(found) => {
            found.expect(&config.cluster.name, &config.node_id).map_err(at)?;
            if found.map_digest != map_digest {
                return Err(Error::ClusterChanged { path });
            }
            if !has_log && !rejoining && worker_config.has_only_copies() {
                return Err(Error::LogMissing { path });
            }
            if found.must_rejoin(config.cluster.durability, &boot_id) {
                tracing::warn!("the machine went down while this node acknowledged from memory");
                open::mark_rejoining(disk)?;
            }
            // Without its log it is as good as another disk: the others shall hear of it from an operator.
            if has_log || rejoining {
                found.incarnation
            } else {
                new_incarnation()
            }
        }
        None if has_log && !rejoining => return Err(Error::IdentityMissing { path }),
        None => new_incarnation(),
    };
    Ok(Identity {
        cluster: config.cluster.name.clone(),
        node: config.node_id.clone(),
        number: config.node,
        map_digest,
        incarnation,
        boot_id,
        clean_shutdown: false,
    })
}

/// Never 0, which says that none is known.
fn new_incarnation() -> u64 {
    seed() | 1
}

/// Which disks of the other nodes are known. If that cannot be read, those they come with are taken for known.
fn load_members(disk: &mut FileDisk) -> Members {
    Members::load(disk).unwrap_or_else(|error| {
        tracing::warn!(%error, "starting without it");
        Members::default()
    })
}

fn worker_configs(config: &Config) -> Vec<WorkerConfig> {
    let cluster = &config.cluster;
    let ring = cluster.ring();
    let placement: Vec<_> = (0..cluster.partitions)
        .map(|partition| ring.partition_replicas(PartitionId(partition), usize::from(cluster.replicas)))
        .collect();
    let own_count = placement
        .iter()
        .filter(|replicas| replicas.contains(&config.node))
        .count();
    let placement = Arc::new(placement);
    let nodes: Vec<NodeStatus> = cluster
        .nodes
        .iter()
        .map(|node| NodeStatus {
            number: node.number,
            id: node.id.clone(),
            capnp: node.capnp.clone(),
            resp: node.resp.clone(),
            http: node.http.clone(),
            zone: node.zone.clone(),
            reachable: false,
            draining: false,
            disk_slow: false,
            refusal: None,
        })
        .collect();
    let nodes = Arc::new(nodes);
    let ring = Arc::new(cluster.ring());
    (0..config.workers)
        .map(|worker| WorkerConfig {
            cluster: cluster.name.clone(),
            node: config.node,
            worker,
            worker_count: config.workers,
            partition_count: cluster.partitions,
            replicas: cluster.replicas,
            durability: cluster.durability,
            nodes: nodes.clone(),
            placement: placement.clone(),
            ring: ring.clone(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: SnapshotConfig::shared_by(own_count),
        })
        .collect()
}

fn peer_addresses(config: &Config) -> Result<Vec<(bark_schema::ids::NodeNumber, SocketAddr)>, Error> {
    let peers = config
        .cluster
        .nodes
        .iter()
        .filter(|node| node.number != config.node);
    peers
        .map(|node| match node.capnp.parse() {
            Ok(address) => Ok((node.number, address)),
            Err(_) => Err(Error::PeerAddress {
                id: node.id.clone(),
                address: node.capnp.clone(),
            }),
        })
        .collect()
}

fn pin(core: Option<core_affinity::CoreId>) {
    if let Some(core) = core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(
            core = core.id,
            "this thread could not be pinned to its core; it runs anywhere"
        );
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Differs between nodes, workers and starts: session names and election timeouts must not collide.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let read =
        File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    match read {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => unix_now().as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32),
    }
}
