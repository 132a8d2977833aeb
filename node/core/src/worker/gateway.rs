//! The handle through which protocol code and coroutines use the cluster.
//!
//! A request that crosses partitions, nodes and disks reads as straight code: `gateway.query(…).await`.
//! Coroutines run on the worker's own single-threaded executor, inside its turn; whatever they ask is
//! routed within the same turn. Time is the turn's, so a simulated worker waits in simulated time.
//!
//! Invariants:
//! - Nothing here leaves the worker's thread.
//! - Every call ends: by an answer, or by its deadline with one of the three outcomes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, DiskRefusal, Failure, NodeRequest, Query, Reply, Request, RequestId};
use futures::FutureExt;

pub use crate::partition::event::{CompletionSink, FoundKey, KeyAsker, KeySink};
use crate::random::Random;
use crate::time::Now;
use crate::worker::WorkerConfig;
use crate::worker::traces::{Note, Recorder};

/// How long a call may take unless the caller says otherwise.
pub const DEADLINE_DEFAULT_US: u64 = 10_000_000;
/// Inode numbers set aside with one log entry.
const INODE_NUMBERS_AT_ONCE: u32 = 1024;
/// "No session": the command carries its own exactly-once name.
pub const NO_SESSION: RequestId = RequestId {
    client: ClientId(0),
    sequence: 0,
    acknowledged_below: 0,
};

/// Where a request may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Wherever its leader is; retried until the deadline.
    Cluster,
    /// Here or nowhere: a `NotLeader` goes back to the asker, who learns from it.
    Here,
    /// At that node only.
    Node(NodeNumber),
    /// At that worker of this node only.
    Sibling(u16),
}

/// Who waits for a call.
pub enum Waiter {
    Future(Rc<RefCell<Slot>>),
    Sink {
        sink: Rc<dyn CompletionSink>,
        token: u64,
    },
    /// A plain SET that had to become a call; its name ends with it.
    KeySet {
        asker: KeyAsker,
        partition: PartitionId,
        id: RequestId,
    },
    Peer {
        node: NodeNumber,
        id: u64,
    },
    /// The call it came in, whose asker wants to know where the time goes.
    Traced {
        outer: crate::partition::event::CallId,
    },
    Sibling {
        worker: u16,
        call: crate::partition::event::CallId,
    },
}

#[derive(Default)]
pub struct Slot {
    result: Option<Result<Reply, Failure>>,
    waker: Option<Waker>,
}

impl Slot {
    pub fn fill(&mut self, result: Result<Reply, Failure>) {
        self.result = Some(result);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

pub struct NewCall {
    pub request: Request,
    pub reach: Reach,
    pub deadline_us: u64,
    pub waiter: Waiter,
}

/// What protocol code and coroutines hand in, in order.
pub enum Submitted {
    Call(Box<NewCall>),
    Key(KeyOperation),
}

/// A plain read or SET of one key; the bytes lie in the queue's own buffer.
pub struct KeyOperation {
    pub partition: PartitionId,
    pub asker: KeyAsker,
    pub start: usize,
    pub key_size: u32,
    /// None: a read.
    pub value_size: Option<u32>,
}

/// Submissions and the bytes of those for single keys.
#[derive(Default)]
pub struct SubmittedQueue {
    pub items: VecDeque<Submitted>,
    pub bytes: Vec<u8>,
}

/// Session numbering of this worker towards one partition.
#[derive(Default)]
struct Sequences {
    next: u64,
    unanswered: std::collections::BTreeSet<u64>,
}

pub struct Shared {
    pub config: WorkerConfig,
    pub now: Cell<Now>,
    pub submitted: RefCell<SubmittedQueue>,
    pub executor: async_executor::LocalExecutor<'static>,
    pub random: RefCell<Random>,
    pub peers: RefCell<std::collections::BTreeSet<NodeNumber>>,
    /// Connected or not, they take no part until an operator lets them in.
    pub refused: RefCell<BTreeMap<NodeNumber, DiskRefusal>>,
    timers: RefCell<BTreeMap<(u64, u64), Waker>>,
    timer_count: Cell<u64>,
    client: ClientId,
    /// Blocks this worker named.
    block_count: Cell<u64>,
    sequences: RefCell<BTreeMap<PartitionId, Sequences>>,
    /// Inode numbers set aside for this worker and not used yet.
    inode_numbers: RefCell<BTreeMap<PartitionId, std::ops::Range<u64>>>,
}

/// Cheap to clone; one a worker.
#[derive(Clone)]
pub struct Gateway {
    shared: Rc<Shared>,
    /// The client whose request is carried out.
    client: Option<ClientId>,
    /// What is asked is noted here, for somebody who wants to know where the time goes.
    recorder: Option<Recorder>,
}

impl Gateway {
    pub fn new(config: WorkerConfig, now: Now, mut random: Random) -> Gateway {
        // 0 means "no session".
        let client = ClientId(random.next_u64() | 1);
        let shared = Shared {
            config,
            now: Cell::new(now),
            submitted: RefCell::default(),
            executor: async_executor::LocalExecutor::new(),
            random: RefCell::new(random),
            peers: RefCell::default(),
            refused: RefCell::default(),
            timers: RefCell::default(),
            timer_count: Cell::new(0),
            client,
            block_count: Cell::new(0),
            sequences: RefCell::default(),
            inode_numbers: RefCell::default(),
        };
        Gateway {
            shared: Rc::new(shared),
            client: None,
            recorder: None,
        }
    }

    /// Asks in the name of a client, who may have directories for itself.
    pub fn on_behalf_of(&self, client: ClientId) -> Gateway {
        Gateway {
            client: Some(client),
            ..self.clone()
        }
    }

    /// Notes what is asked.
    pub(super) fn recording(&self, recorder: Recorder) -> Gateway {
        Gateway {
            recorder: Some(recorder),
            ..self.clone()
        }
    }

    pub fn config(&self) -> &WorkerConfig {
        &self.shared.config
    }

    pub fn now(&self) -> Now {
        self.shared.now.get()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Runs a coroutine on this worker. A panic ends it alone; a call it was to answer runs into its deadline.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let contained = async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!("a coroutine panicked; the worker goes on without it");
            }
        };
        self.shared.executor.spawn(contained).detach();
    }

    /// The nodes this one can talk to, itself included.
    pub fn reachable(&self, node: NodeNumber) -> bool {
        node == self.shared.config.node
            || (self.shared.peers.borrow().contains(&node)
                && !self.shared.refused.borrow().contains_key(&node))
    }

    /// Why this node takes nothing from that one.
    pub fn refusal(&self, node: NodeNumber) -> Option<DiskRefusal> {
        self.shared.refused.borrow().get(&node).copied()
    }

    pub fn random(&self) -> u64 {
        self.shared.random.borrow_mut().next_u64()
    }

    /// Hands in a request whose answer goes to `sink`.
    pub fn submit(
        &self,
        request: Request,
        reach: Reach,
        deadline_us: u64,
        sink: Rc<dyn CompletionSink>,
        token: u64,
    ) {
        let waiter = Waiter::Sink { sink, token };
        self.submit_call(NewCall {
            request,
            reach,
            deadline_us,
            waiter,
        });
    }

    fn submit_call(&self, call: NewCall) {
        let mut submitted = self.shared.submitted.borrow_mut();
        submitted.items.push_back(Submitted::Call(Box::new(call)));
    }

    /// Hands in a read (`value` None) or an unconditional SET without expiry of one key, wherever it lives.
    /// It keeps its place among the other requests to the partition, and takes until
    /// [`DEADLINE_DEFAULT_US`] at most.
    pub fn submit_key(&self, partition: PartitionId, key: &[u8], value: Option<&[u8]>, asker: KeyAsker) {
        let queue = &mut *self.shared.submitted.borrow_mut();
        let start = queue.bytes.len();
        queue.bytes.extend_from_slice(key);
        queue.bytes.extend_from_slice(value.unwrap_or_default());
        queue.items.push_back(Submitted::Key(KeyOperation {
            partition,
            asker,
            start,
            key_size: key.len() as u32,
            value_size: value.map(|value| value.len() as u32),
        }));
    }

    /// Asks and waits.
    pub fn call(&self, request: Request, reach: Reach, deadline_us: u64) -> Answer {
        let slot = Rc::new(RefCell::new(Slot::default()));
        let waiter = Waiter::Future(slot.clone());
        let (request, note) = match &self.recorder {
            None => (request, None),
            Some(recorder) => {
                let node = match reach {
                    Reach::Node(node) => node,
                    _ => self.shared.config.node,
                };
                let (request, note) = recorder.note(request, node, self.now().monotonic_us);
                (request, Some(Box::new((note, self.shared.clone()))))
            }
        };
        self.submit_call(NewCall {
            request,
            reach,
            deadline_us,
            waiter,
        });
        Answer { slot, note }
    }

    pub async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        let deadline_us = self.now().monotonic_us + DEADLINE_DEFAULT_US;
        let query = match self.client {
            Some(client) => Query::By {
                client,
                query: Box::new(query),
            },
            None => query,
        };
        self.call(Request::Query { partition, query }, Reach::Cluster, deadline_us)
            .await
    }

    /// A command that names itself for the exactly-once tables (transactions), or is harmless to repeat.
    pub async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        self.command_as(NO_SESSION, partition, command).await
    }

    pub async fn command_as(
        &self,
        id: RequestId,
        partition: PartitionId,
        command: Command,
    ) -> Result<Reply, Failure> {
        let deadline_us = self.now().monotonic_us + DEADLINE_DEFAULT_US;
        self.call(
            Request::Command {
                partition,
                id,
                command,
            },
            Reach::Cluster,
            deadline_us,
        )
        .await
    }

    pub fn node(&self, node: NodeNumber, request: NodeRequest) -> Answer {
        let deadline_us = self.now().monotonic_us + DEADLINE_DEFAULT_US;
        self.call(Request::Node(request), Reach::Node(node), deadline_us)
    }

    /// A name for a change this worker makes for somebody without a session of his own.
    /// [`Gateway::finish_request`] must follow when its answer is known.
    pub fn begin_request(&self, partition: PartitionId) -> RequestId {
        let mut sequences = self.shared.sequences.borrow_mut();
        let sequences = sequences.entry(partition).or_default();
        sequences.next += 1;
        sequences.unanswered.insert(sequences.next);
        let acknowledged_below = sequences.unanswered.first().copied().unwrap_or(sequences.next);
        RequestId {
            client: self.shared.client,
            sequence: sequences.next,
            acknowledged_below,
        }
    }

    /// A name for one more SET of a run that ends with sequence `last`. None: it simply is the next one of the
    /// run, and ends with it. Some: other requests came between, so a new run begins under this name.
    pub(crate) fn name_in_run(&self, partition: PartitionId, last: Option<u64>) -> Option<RequestId> {
        if let Some(last) = last
            && let Some(sequences) = self.shared.sequences.borrow_mut().get_mut(&partition)
            && sequences.next == last
        {
            sequences.next += 1;
            return None;
        }
        Some(self.begin_request(partition))
    }

    /// A SET of a run goes on under its own name, to be ended by [`Gateway::finish_request`].
    pub(crate) fn resume_request(&self, partition: PartitionId, id: RequestId) {
        let mut sequences = self.shared.sequences.borrow_mut();
        sequences
            .entry(partition)
            .or_default()
            .unanswered
            .insert(id.sequence);
    }

    pub fn finish_request(&self, partition: PartitionId, id: RequestId) {
        if let Some(sequences) = self.shared.sequences.borrow_mut().get_mut(&partition) {
            sequences.unanswered.remove(&id.sequence);
        }
    }

    /// A number for a directory that a transaction gives birth to in `home`. Numbers are set aside in the
    /// partition's log a thousand at a time; those left when the node stops are never used.
    pub(crate) async fn next_directory_inode(&self, home: PartitionId) -> Result<InodeId, Failure> {
        loop {
            if let Some(numbers) = self.shared.inode_numbers.borrow_mut().get_mut(&home)
                && let Some(counter) = numbers.next()
            {
                return Ok(InodeId::new(home, counter));
            }
            match self
                .command(
                    home,
                    Command::ReserveInodes {
                        count: INODE_NUMBERS_AT_ONCE,
                    },
                )
                .await?
            {
                Reply::Count(first) => {
                    let numbers = first..first + u64::from(INODE_NUMBERS_AT_ONCE);
                    self.shared.inode_numbers.borrow_mut().insert(home, numbers);
                }
                other => return Err(crate::request::unexpected(&other)),
            }
        }
    }

    /// A name for a block this worker makes for files of `home`.
    pub fn new_block(&self, home: PartitionId) -> BlockId {
        let counter = self.shared.block_count.get() + 1;
        self.shared.block_count.set(counter);
        BlockId::new(self.shared.client, home, counter)
    }

    /// Waits in the worker's time.
    pub fn sleep(&self, duration_us: u64) -> Sleep {
        self.shared.timer_count.set(self.shared.timer_count.get() + 1);
        let key = (
            self.now().monotonic_us + duration_us,
            self.shared.timer_count.get(),
        );
        Sleep {
            gateway: self.clone(),
            key,
        }
    }

    /// When the next sleeper wants to be woken.
    pub(super) fn next_timer_us(&self) -> Option<u64> {
        self.shared
            .timers
            .borrow()
            .keys()
            .next()
            .map(|(deadline, _)| *deadline)
    }

    pub(super) fn wake_sleepers(&self) {
        let now = self.now().monotonic_us;
        loop {
            let mut timers = self.shared.timers.borrow_mut();
            match timers.first_entry() {
                Some(first) if first.key().0 <= now => first.remove().wake(),
                _ => break,
            }
        }
    }
}

/// Resolves when the call was answered.
pub struct Answer {
    slot: Rc<RefCell<Slot>>,
    note: Option<Box<(Note, Rc<Shared>)>>,
}

impl Future for Answer {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = {
            let mut slot = self.slot.borrow_mut();
            match slot.result.take() {
                Some(result) => result,
                None => {
                    slot.waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        Poll::Ready(match self.note.take() {
            None => result,
            Some(noted) => {
                let (note, shared) = *noted;
                note.end(result, shared.now.get().monotonic_us)
            }
        })
    }
}

/// Resolves when the worker's time reached the deadline.
pub struct Sleep {
    gateway: Gateway,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.gateway.shared.timers.borrow_mut();
        if self.gateway.now().monotonic_us >= self.key.0 {
            timers.remove(&self.key);
            return Poll::Ready(());
        }
        timers.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.gateway.shared.timers.borrow_mut().remove(&self.key);
    }
}
