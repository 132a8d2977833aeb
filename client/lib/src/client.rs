//! The client: a session, a connection to each node, and the clock that drives them.
//!
//! One mutex holds the session. A lock is held for as long as the session takes to decide, never across an
//! await, so that a reply is matched on the connection's own task without a hop to a driver.
//!
//! Invariants:
//! - What is in flight, requests and the replies they ask for, stays within BYTES_IN_FLIGHT_MAX.
//! - Dropping the last clone ends every task; dropping a call's future abandons the call.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bark_schema::cluster_file;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::limits::{KIB, MIB};
use bark_schema::message::Welcome;
use bark_schema::operation::{
    ClusterStatus, Command, Failure, Namespace, NodeRequest, PartitionStatus, Query, Reply, UnixNanos,
};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;

use crate::connection::{self, Connection, Established, Handover, Login};
use crate::error::Error;
use crate::files::{Files, Hedges};
use crate::keys::Keys;
use crate::placing::Placing;
use crate::router::Router;
use crate::session::{self, Call, CallId, Session, SessionConfig};
use crate::trace::TracedCall;

/// Enough for eight blocks each of a dozen files at once.
const BYTES_IN_FLIGHT_MAX: usize = 64 * MIB;
/// A call without bulk still costs this much: envelope, bookkeeping.
const CALL_COST_MIN: usize = KIB;

/// Where to find the cluster.
#[derive(Clone, Debug)]
pub enum Source {
    /// `host:port` of the Cap'n Proto port of some nodes; one that answers is enough.
    Nodes(Vec<String>),
    /// A cluster file.
    File(PathBuf),
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub cluster: Source,
    /// How long an operation may take, retries included. Changes end after eight minutes whatever it says.
    pub deadline: Duration,
    /// Shown at login; empty where the cluster asks for none.
    pub token: Bytes,
    /// Owner and group of what this client creates.
    pub owner: u32,
    pub group: u32,
    /// Every call is looked at on its way, for [`Client::take_traces`].
    pub traced: bool,
}

impl ClientConfig {
    /// 30 seconds, no token, the owner and group of this process.
    pub fn new(cluster: Source) -> ClientConfig {
        let process = std::fs::metadata("/proc/self").ok();
        ClientConfig {
            cluster,
            deadline: Duration::from_secs(30),
            token: Bytes::new(),
            owner: process.as_ref().map_or(0, MetadataExt::uid),
            group: process.as_ref().map_or(0, MetadataExt::gid),
            traced: false,
        }
    }
}

/// A connection to a cluster. Clones are cheap and share everything.
///
/// ```no_run
/// # use bark_client::{Client, ClientConfig, Source};
/// # async fn example() -> Result<(), bark_client::Error> {
/// let source = Source::File("cluster.toml".into());
/// let client = Client::connect(ClientConfig::new(source)).await?;
/// assert_eq!(client.keys().increment(b"visits", 1).await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    config: ClientConfig,
    welcome: Welcome,
    router: Router,
    client: ClientId,
    next_counter: AtomicU64,
    placing: Placing,
    hedges: Hedges,
    started: Instant,
    state: Mutex<State>,
    budget: Semaphore,
    timer: Arc<Notify>,
    /// Of calls that ended, if they are traced.
    traces: Mutex<Vec<TracedCall>>,
}

#[derive(Debug)]
struct State {
    session: Session,
    connections: BTreeMap<NodeNumber, Connection>,
    waiting: HashMap<CallId, Waiting>,
    /// What the timer task sleeps until; told when the session wants to be woken earlier.
    timer_at: Option<u64>,
}

/// Who is told how a call ended.
enum Waiting {
    Caller(oneshot::Sender<Result<Reply, Failure>>),
    Ordered(OrderedEnd),
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Waiting::Caller(_) => "Caller",
            Waiting::Ordered(_) => "Ordered",
        })
    }
}

/// Is told the end of an ordered change, while the client is locked: it must not call the client.
pub type OrderedEnd = Box<dyn FnOnce(Result<Reply, Failure>) + Send>;

/// A change under a delegation.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderedChange {
    pub partition: PartitionId,
    /// When programs were told that it is done.
    pub time: UnixNanos,
    /// The number, set aside before, of the inode it makes.
    pub inode: Option<InodeId>,
    /// Somebody waits until it is applied: it does not wait for company at the leader.
    pub awaited: bool,
    pub command: Command,
}

impl Client {
    /// Finds a node that answers and learns the cluster from it. The others are connected to when needed.
    ///
    /// Errors: `Unavailable` naming every address tried, `Configuration` for an unusable cluster file.
    pub async fn connect(config: ClientConfig) -> Result<Client, Error> {
        let (cluster, addresses) = addresses(&config.cluster)?;
        let login = Login {
            token: config.token.clone(),
            cluster,
        };
        let mut reasons = Vec::new();
        for address in &addresses {
            match connection::open(address, &login).await {
                Ok((established, welcome)) => {
                    return Ok(Client::start(config, address.clone(), established, welcome));
                }
                Err(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        Err(Error::Unavailable {
            subject: "cluster".into(),
            reason: format!("no node answers ({})", reasons.join("; ")),
        })
    }

    fn start(config: ClientConfig, address: String, established: Established, welcome: Welcome) -> Client {
        let random = || RandomState::new().hash_one(std::process::id());
        let client = ClientId(random());
        let router = Router::new(&welcome);
        let mut session_config = SessionConfig::new(client, random());
        session_config.traced = config.traced;
        let session = Session::new(session_config, router.topology(welcome.node));
        let shared = Arc::new(Shared {
            router,
            client,
            next_counter: AtomicU64::new(1),
            placing: Placing::new(random()),
            hedges: Hedges::new(),
            started: Instant::now(),
            state: Mutex::new(State {
                session,
                connections: BTreeMap::new(),
                waiting: HashMap::new(),
                timer_at: None,
            }),
            budget: Semaphore::new(BYTES_IN_FLIGHT_MAX / KIB),
            timer: Arc::new(Notify::new()),
            traces: Mutex::default(),
            config,
            welcome,
        });
        let mut first = Some(established);
        let mut state = shared.lock();
        for node in &shared.welcome.nodes {
            // The address that answered is known to work from here, whatever the cluster file calls it.
            let (address, established) = match node.number == shared.welcome.node {
                true => (address.clone(), first.take()),
                false => (node.capnp.clone(), None),
            };
            let login = Login {
                token: shared.config.token.clone(),
                cluster: Some(shared.welcome.cluster.clone()),
            };
            let back = Arc::downgrade(&shared);
            let connection = Connection::start(node.number, address, login, back, established);
            state.connections.insert(node.number, connection);
        }
        drop(state);
        tokio::spawn(run_timer(Arc::downgrade(&shared), shared.timer.clone()));
        Client { shared }
    }

    /// Keys and values.
    pub fn keys(&self) -> Keys {
        Keys::new(self.clone())
    }

    /// Files and directories.
    pub fn files(&self) -> Files {
        Files::new(self.clone())
    }

    pub(crate) fn hedges(&self) -> &Hedges {
        &self.shared.hedges
    }

    /// What the cluster knows this client by.
    pub fn id(&self) -> ClientId {
        self.shared.client
    }

    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// The cluster as the first node described it.
    pub fn welcome(&self) -> &Welcome {
        &self.shared.welcome
    }

    /// The nodes that hold a partition, in ring order.
    pub fn partition_replicas(&self, partition: PartitionId) -> Vec<NodeNumber> {
        self.shared.router.partition_replicas(partition)
    }

    /// The partition a key lives in.
    pub fn partition_of_key(&self, key: &[u8]) -> PartitionId {
        self.shared.router.partition_of_key(key)
    }

    /// What one node, or any, knows of the cluster.
    pub async fn cluster_status(&self, node: Option<NodeNumber>) -> Result<ClusterStatus, Error> {
        let (subject, call) = match node {
            Some(node) => (
                node.to_string(),
                Call::NamedNode(node, NodeRequest::ClusterStatus),
            ),
            None => ("cluster".into(), Call::AnyNode(NodeRequest::ClusterStatus)),
        };
        match self.call(call).await {
            Ok(Reply::Cluster(status)) => Ok(status),
            Ok(other) => Err(Error::protocol(subject, &other)),
            Err(failure) => Err(Error::new(subject, failure)),
        }
    }

    /// Whether `node` shall lead nothing, until it is told otherwise or starts again. It begins at once; its
    /// status tells when it leads nothing any more.
    pub async fn drain(&self, node: NodeNumber, drain: bool) -> Result<(), Error> {
        self.tell_node(node, NodeRequest::Drain { drain }).await
    }

    /// Has `asked` take the disk that `node` came with, or comes with next, for its new one.
    pub async fn admit(&self, asked: NodeNumber, node: NodeNumber) -> Result<(), Error> {
        self.tell_node(asked, NodeRequest::Admit { node }).await
    }

    async fn tell_node(&self, node: NodeNumber, request: NodeRequest) -> Result<(), Error> {
        match self.call(Call::NamedNode(node, request)).await {
            Ok(Reply::Done) => Ok(()),
            Ok(other) => Err(Error::protocol(node.to_string(), &other)),
            Err(failure) => Err(Error::new(node.to_string(), failure)),
        }
    }

    /// Counters and position of a partition, from its leader.
    pub async fn partition_status(&self, partition: PartitionId) -> Result<PartitionStatus, Error> {
        let subject = partition.to_string();
        match self.query(partition, Query::PartitionStatus).await {
            Ok(Reply::Partition(status)) => Ok(status),
            Ok(other) => Err(Error::protocol(subject, &other)),
            Err(failure) => Err(Error::new(subject, failure)),
        }
    }

    /// Makes one call and waits for its end. Dropping the future gives the call up.
    pub async fn call(&self, call: Call) -> Result<Reply, Failure> {
        self.call_within(call, self.shared.config.deadline).await
    }

    /// The same for a change whose outcome must be known, if that can be: it is repeated for as long as the nodes remember it.
    pub async fn insist(&self, call: Call) -> Result<Reply, Failure> {
        self.call_within(call, Duration::MAX).await
    }

    async fn call_within(&self, call: Call, patience: Duration) -> Result<Reply, Failure> {
        let transfer_ms = session::transfer_ms(call.bulk_bytes());
        let cost = (cost_bytes(&call).min(BYTES_IN_FLIGHT_MAX) / KIB) as u32;
        let _permit = self.shared.budget.acquire_many(cost).await;
        let (sender, receiver) = oneshot::channel();
        let mut traced = self
            .shared
            .config
            .traced
            .then(|| TracedCall::begin(&call, self.shared.started));
        let id = {
            let mut state = self.shared.lock();
            let now = self.shared.now();
            let deadline = now
                .saturating_add(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX))
                .saturating_add(transfer_ms);
            let id = state.session.begin(now, call, deadline);
            state.waiting.insert(id, Waiting::Caller(sender));
            self.shared.pump(&mut state, now);
            id
        };
        let guard = AbandonOnDrop {
            shared: &self.shared,
            id,
        };
        let result = receiver.await;
        drop(guard);
        if let Some(mut traced) = traced.take() {
            traced.end(self.shared.lock().session.take_trace(id), self.shared.started);
            self.traces().push(traced);
        }
        result.unwrap_or_else(|_| Err(Failure::Unknown("the client is shutting down".into())))
    }

    /// Where the time of the calls went that ended since it was asked last, if the configuration says so.
    pub fn take_traces(&self) -> Vec<TracedCall> {
        std::mem::take(&mut *self.traces())
    }

    fn traces(&self) -> MutexGuard<'_, Vec<TracedCall>> {
        // Pushing to it and taking it are all that happens to it.
        self.shared.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a change and comes back at once; `end` hears how it ended. Says whether the kernel has it already, and
    /// so sends it even if this process ends. Changes of one partition are sent in the order of the calls of this.
    pub fn send_ordered(&self, change: OrderedChange, end: OrderedEnd) -> bool {
        let OrderedChange {
            partition,
            time,
            inode,
            awaited,
            command,
        } = change;
        let mut state = self.shared.lock();
        let now = self.shared.now();
        let call = Call::Ordered {
            partition,
            time,
            inode,
            awaited,
            command,
        };
        // The session ends it in time.
        let id = state.session.begin(now, call, u64::MAX);
        state.waiting.insert(id, Waiting::Ordered(end));
        self.shared.pump(&mut state, now)
    }

    /// The ordered changes of a partition that were out have ended: the next one counts on none of them.
    pub fn end_order(&self, partition: PartitionId) {
        self.shared.lock().session.end_order(partition);
    }

    pub(crate) async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.call(Call::Query { partition, query }).await
    }

    pub(crate) async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        self.call(Call::Command { partition, command }).await
    }

    pub(crate) async fn namespace(&self, operation: Namespace) -> Result<Reply, Failure> {
        self.call(Call::Namespace(operation)).await
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    pub(crate) fn placing(&self) -> &Placing {
        &self.shared.placing
    }

    /// A number this client has not used before.
    pub(crate) fn next_counter(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.shared.next_counter.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for a block of files whose inodes live in `home`.
    pub(crate) fn new_block(&self, home: PartitionId) -> BlockId {
        BlockId::new(self.shared.client, home, self.next_counter())
    }
}

struct AbandonOnDrop<'a> {
    shared: &'a Shared,
    id: CallId,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.waiting.remove(&self.id).is_some() {
            state.session.abandon(self.id);
        }
    }
}

impl Shared {
    pub(crate) fn on_reply(&self, node: NodeNumber, frame_id: u64, result: Result<Reply, Failure>) {
        self.event(|session, now| session.on_reply(now, node, frame_id, result));
    }

    pub(crate) fn on_disconnect(&self, node: NodeNumber) {
        self.event(|session, now| session.on_disconnect(now, node));
    }

    pub(crate) fn on_unsent(&self, node: NodeNumber, frame_id: u64) {
        self.event(|session, now| session.on_unsent(now, node, frame_id));
    }

    pub(crate) fn on_progress(&self, node: NodeNumber) {
        self.event(|session, now| session.on_progress(now, node));
    }

    fn event(&self, event: impl FnOnce(&mut Session, u64)) {
        let mut state = self.lock();
        let now = self.now();
        event(&mut state.session, now);
        self.pump(&mut state, now);
    }

    /// Carries out what the session wants after an event. Says whether the kernel has everything that was sent.
    fn pump(&self, state: &mut State, now: u64) -> bool {
        let mut are_written = true;
        while let Some(outgoing) = state.session.poll_send(now) {
            let (node, frame_id) = (outgoing.node, outgoing.frame_id);
            let connection = state.connections.get(&node);
            let handover = connection.map_or(Handover::Refused, |connection| connection.send(outgoing));
            are_written &= handover == Handover::Written;
            if handover == Handover::Refused {
                state.session.on_unsent(now, node, frame_id);
            }
        }
        while let Some((call, result)) = state.session.take_completed() {
            match state.waiting.remove(&call) {
                // The caller may have gone away between; nobody is left to tell.
                Some(Waiting::Caller(caller)) => drop(caller.send(result)),
                Some(Waiting::Ordered(end)) => end(result),
                None => {}
            }
        }
        let wanted = state.session.next_wake();
        if wanted.is_some_and(|wanted| state.timer_at.is_none_or(|at| wanted < at)) {
            state.timer_at = wanted;
            self.timer.notify_one();
        }
        are_written
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not make the session's state wrong: it is changed by whole events.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ticks the session when it wants to be woken. Ends with the client.
async fn run_timer(shared: Weak<Shared>, notify: Arc<Notify>) {
    loop {
        let wake = {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let mut state = shared.lock();
            let now = shared.now();
            state.session.on_tick(now);
            // Nobody need wake this task: it looks at the next wake itself, below.
            state.timer_at = Some(0);
            shared.pump(&mut state, now);
            state.timer_at = state.session.next_wake();
            state
                .timer_at
                .map(|at| shared.started + Duration::from_millis(at))
        };
        match wake {
            Some(wake) => {
                tokio::select! {
                    () = tokio::time::sleep_until(wake) => {}
                    () = notify.notified() => {}
                }
            }
            None => notify.notified().await,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.timer.notify_one();
    }
}

/// The cluster's name, if the source says it, and where its nodes may be.
fn addresses(source: &Source) -> Result<(Option<String>, Vec<String>), Error> {
    let unusable = |subject: String, reason: String| Error::Configuration { subject, reason };
    match source {
        Source::Nodes(nodes) if nodes.is_empty() => Err(unusable("cluster".into(), "no node given".into())),
        Source::Nodes(nodes) => Ok((None, nodes.clone())),
        Source::File(path) => {
            let subject = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| Error::local(&subject, error))?;
            let file =
                cluster_file::parse(&text).map_err(|error| unusable(subject.clone(), error.to_string()))?;
            let nodes = file.nodes.into_iter().map(|node| node.capnp);
            Ok((Some(file.name), nodes.collect()))
        }
    }
}

/// Bytes a call keeps in flight, on the way out or on the way back.
fn cost_bytes(call: &Call) -> usize {
    let answer = match call {
        Call::NamedNode(_, NodeRequest::BlockGet { length, .. })
        | Call::AnyNode(NodeRequest::BlockGet { length, .. }) => *length as usize,
        _ => 0,
    };
    CALL_COST_MIN + call.bulk_bytes() + answer
}
