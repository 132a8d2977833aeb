//! Clients: the real session of each, and the scripts that use it as straight code.
//!
//! A script is a coroutine: it calls through its [`Port`], sleeps in virtual time and writes history. It
//! is polled after every event of its client until it waits for something again.
//!
//! Invariants:
//! - Every request a script makes goes through `bark_client::session::Session`.
//! - A call that ended is told to the script in the order the session ended it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bark_client::session::{Call, CallId, Session};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::{Failure, Outcome, Refusal, Reply};

use crate::counts::Counts;
use crate::network::ConnectionId;

/// How a run is going, as everybody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Faults happen, scripts work.
    Work,
    /// Everything is repaired; scripts end what they do.
    Drain,
    /// Scripts look whether everything acknowledged is there.
    Verify,
}

/// What the scripts of all clients share with the simulation.
pub struct Stage {
    pub phase: Cell<Phase>,
    pub failure: RefCell<Option<String>>,
    /// The node whose disk did harm to what it keeps: it may say so instead of answering.
    pub damaged: Cell<Option<u16>>,
    pub counts: Cell<Counts>,
}

impl Stage {
    pub fn count(&self, counts: Counts) {
        self.counts.set(self.counts.get() + counts);
    }

    /// Ends the run with a reason. The first one counts.
    pub fn fail(&self, reason: String) {
        self.failure.borrow_mut().get_or_insert(reason);
    }
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum Fate {
    Done(Reply),
    Refused(Refusal, String),
    /// Certainly nothing happened.
    Nothing,
    /// It may have happened, or may still.
    Unsure,
}

/// What a script works with.
#[derive(Clone)]
pub struct Port(Rc<PortState>);

struct PortState {
    now_us: Cell<u64>,
    next_ticket: Cell<u64>,
    asked: RefCell<VecDeque<(u64, Call, u64)>>,
    answers: RefCell<BTreeMap<u64, Result<Reply, Failure>>>,
    sleepers: RefCell<Vec<u64>>,
    stage: Rc<Stage>,
}

impl Port {
    fn new(stage: Rc<Stage>) -> Port {
        Port(Rc::new(PortState {
            now_us: Cell::new(0),
            next_ticket: Cell::new(0),
            asked: RefCell::default(),
            answers: RefCell::default(),
            sleepers: RefCell::default(),
            stage,
        }))
    }

    pub fn now_us(&self) -> u64 {
        self.0.now_us.get()
    }

    pub fn stage(&self) -> &Stage {
        &self.0.stage
    }

    /// Makes a request that must end within `deadline_ms`.
    pub async fn call(&self, call: Call, deadline_ms: u64) -> Result<Reply, Failure> {
        self.begin(call, deadline_ms).await
    }

    /// Makes it at once, whether or not anybody waits for the answer yet.
    pub fn begin(
        &self,
        call: Call,
        deadline_ms: u64,
    ) -> impl Future<Output = Result<Reply, Failure>> + use<> {
        let ticket = self.0.next_ticket.get();
        self.0.next_ticket.set(ticket + 1);
        self.0.asked.borrow_mut().push_back((ticket, call, deadline_ms));
        let port = self.clone();
        Until(move || port.0.answers.borrow_mut().remove(&ticket))
    }

    /// Makes a request that changes something.
    pub async fn change(&self, call: Call, deadline_ms: u64) -> Fate {
        match self.call(call, deadline_ms).await {
            Ok(reply) => Fate::Done(reply),
            Err(Failure::Refused(Refusal::Internal, sentence)) => {
                self.stage().fail(format!("internal error: {sentence}"));
                Fate::Nothing
            }
            Err(Failure::Refused(refusal, sentence)) => Fate::Refused(refusal, sentence),
            Err(failure) if failure.outcome() == Outcome::Unknown => Fate::Unsure,
            Err(_) => Fate::Nothing,
        }
    }

    pub async fn sleep(&self, duration_us: u64) {
        let at_us = self.now_us() + duration_us;
        self.0.sleepers.borrow_mut().push(at_us);
        Until(|| (self.now_us() >= at_us).then_some(())).await;
    }

    /// Waits for a phase of the run.
    pub async fn phase(&self, phase: Phase) {
        Until(|| (self.0.stage.phase.get() >= phase).then_some(())).await;
    }

    pub fn works(&self) -> bool {
        self.0.stage.phase.get() == Phase::Work
    }
}

/// Resolves when the closure finds something. Scripts are polled whenever anything happened.
struct Until<F>(F);

impl<F: Fn() -> Option<T> + Unpin, T> Future for Until<F> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        match (self.0)() {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        }
    }
}

pub enum Link {
    Connecting(Vec<Vec<u8>>, Vec<u64>),
    Up(ConnectionId),
}

pub struct Client {
    pub session: Session,
    pub port: Port,
    scripts: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    calls: BTreeMap<CallId, u64>,
    pub links: BTreeMap<NodeNumber, Link>,
    pub tick_at_us: u64,
    /// Changes that will come a second time when they were answered, by the number of their frame.
    pub copies: BTreeMap<u64, Vec<u8>>,
}

impl Client {
    pub fn new(session: Session, stage: Rc<Stage>) -> Client {
        Client {
            session,
            port: Port::new(stage),
            scripts: Vec::new(),
            calls: BTreeMap::new(),
            links: BTreeMap::new(),
            tick_at_us: 0,
            copies: BTreeMap::new(),
        }
    }

    pub fn run(&mut self, script: impl Future<Output = ()> + 'static) {
        self.scripts.push(Box::pin(script));
    }

    pub fn is_done(&self) -> bool {
        self.scripts.is_empty()
    }

    /// Lets scripts go on until all of them wait.
    pub fn poll(&mut self, now_us: u64) {
        self.port.0.now_us.set(now_us);
        self.port.0.sleepers.borrow_mut().retain(|at_us| *at_us > now_us);
        self.session.on_tick(now_us / 1000);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            while let Some((call, result)) = self.session.take_completed() {
                if let Some(ticket) = self.calls.remove(&call) {
                    self.port.0.answers.borrow_mut().insert(ticket, result);
                }
            }
            self.scripts
                .retain_mut(|script| script.as_mut().poll(&mut context).is_pending());
            let asked: Vec<_> = self.port.0.asked.borrow_mut().drain(..).collect();
            if asked.is_empty() {
                break;
            }
            for (ticket, call, deadline_ms) in asked {
                let now_ms = now_us / 1000;
                let id = self.session.begin(now_ms, call, now_ms + deadline_ms);
                self.calls.insert(id, ticket);
            }
        }
    }

    pub fn next_wake_us(&self) -> Option<u64> {
        let session = self
            .session
            .next_wake()
            .filter(|at| *at < u64::MAX / 2000)
            .map(|at| at * 1000);
        let sleeper = self.port.0.sleepers.borrow().iter().copied().min();
        session.into_iter().chain(sleeper).min()
    }
}
