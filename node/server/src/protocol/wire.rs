//! The sending half of a connection, as protocol code sees it.
//!
//! Bytes gather in one buffer a connection and leave as one write when the worker's turn ends, so a pipeline
//! of a hundred commands costs one queue item. While the network has much unsent the wire is blocked: the
//! worker reads no more from that connection, and coroutines with large answers wait for room.
//!
//! Invariants:
//! - A wire is on the dirty list exactly once while it has bytes or a close to hand over.
//! - Nothing is written after `close`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Names a connection within its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireId(pub u64);

/// Wires with something to hand to the network thread; one list a worker.
#[derive(Clone, Default)]
pub struct DirtyWires(Rc<Dirty>);

#[derive(Default)]
struct Dirty {
    wires: RefCell<Vec<Wire>>,
    woke: Cell<bool>,
    /// Empty buffers that chunks came in: answers leave in them.
    spare: RefCell<Vec<Vec<u8>>>,
}

/// Buffers kept for answers: a turn rarely has answers for more connections, and 64 of 16 KiB are 1 MiB.
const SPARE_BUFFERS_MAX: usize = 64;

impl DirtyWires {
    pub fn take(&self) -> Vec<Wire> {
        std::mem::take(&mut *self.0.wires.borrow_mut())
    }

    pub fn is_empty(&self) -> bool {
        self.0.wires.borrow().is_empty()
    }

    /// Keeps the buffer of a chunk for the next answer, which then needs no memory of its own and brings the
    /// buffer back to the network thread. Returns it if there are enough.
    pub fn keep_buffer(&self, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        let mut spare = self.0.spare.borrow_mut();
        if spare.len() >= SPARE_BUFFERS_MAX {
            return Some(buffer);
        }
        buffer.clear();
        spare.push(buffer);
        None
    }

    /// Whether a coroutine found room since the last question: it wants a turn before the worker sleeps.
    pub fn take_woke(&self) -> bool {
        self.0.woke.take()
    }
}

/// Cheap to clone; writes after the connection is gone go nowhere.
#[derive(Clone)]
pub struct Wire(Rc<Inner>);

struct Inner {
    id: WireId,
    state: RefCell<State>,
    dirty: DirtyWires,
}

#[derive(Default)]
struct State {
    out: Vec<u8>,
    listed: bool,
    closing: bool,
    gone: bool,
    /// The network has much unsent.
    blocked: bool,
    /// The protocol has received more than it can work on.
    reading_paused: bool,
    /// What the network was last told about reading.
    pause_told: bool,
    waiting: Vec<Waker>,
}

impl Wire {
    pub fn new(id: WireId, dirty: DirtyWires) -> Wire {
        Wire(Rc::new(Inner {
            id,
            state: RefCell::default(),
            dirty,
        }))
    }

    pub fn id(&self) -> WireId {
        self.0.id
    }

    /// Appends to what leaves at the end of the turn.
    pub fn write(&self, bytes: &[u8]) {
        self.write_with(|out| out.extend_from_slice(bytes));
    }

    /// Lets `fill` append in place.
    pub fn write_with(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.state.borrow_mut();
        if state.gone || state.closing {
            return;
        }
        if state.out.capacity() == 0 {
            state.out = self.0.dirty.0.spare.borrow_mut().pop().unwrap_or_default();
        }
        fill(&mut state.out);
        self.list(&mut state);
    }

    /// Ends the connection once everything written has been sent.
    pub fn close(&self) {
        let mut state = self.0.state.borrow_mut();
        state.closing = true;
        self.list(&mut state);
        self.wake(&mut state);
    }

    pub fn is_closing(&self) -> bool {
        let state = self.0.state.borrow();
        state.closing || state.gone
    }

    /// The connection is gone: drops what was not sent.
    pub fn forget(&self) {
        let mut state = self.0.state.borrow_mut();
        state.gone = true;
        state.out = Vec::new();
        self.wake(&mut state);
    }

    /// What to send now, and whether to close after it.
    pub fn take(&self) -> (Vec<u8>, bool) {
        let mut state = self.0.state.borrow_mut();
        state.listed = false;
        if !state.blocked {
            self.wake(&mut state);
        }
        (std::mem::take(&mut state.out), state.closing)
    }

    /// The network has much unsent, or has sent it.
    pub fn set_blocked(&self, blocked: bool) {
        let mut state = self.0.state.borrow_mut();
        state.blocked = blocked;
        if !blocked {
            self.wake(&mut state);
        }
        self.list(&mut state);
    }

    pub fn is_blocked(&self) -> bool {
        self.0.state.borrow().blocked
    }

    /// Bytes that leave at the end of the turn.
    pub fn buffered_bytes(&self) -> usize {
        self.0.state.borrow().out.len()
    }

    /// Ready when fewer than `below` bytes wait here and the network takes more; or when nothing will
    /// ever be sent again.
    pub fn poll_room(&self, below: usize, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state.borrow_mut();
        if state.gone || state.closing || (!state.blocked && state.out.len() < below) {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }

    pub async fn room(&self, below: usize) {
        poll_fn(|context| self.poll_room(below, context)).await;
    }

    /// The protocol wants nothing more to be read from this connection for now, or wants it again.
    pub fn set_reading_paused(&self, paused: bool) {
        let mut state = self.0.state.borrow_mut();
        if state.reading_paused != paused {
            state.reading_paused = paused;
            self.list(&mut state);
        }
    }

    /// What the network must now be told about reading from this connection: to pause or to resume.
    pub fn take_pause_change(&self) -> Option<bool> {
        let mut state = self.0.state.borrow_mut();
        let pause = state.blocked || state.reading_paused;
        let changed = pause != state.pause_told && !state.gone;
        state.pause_told = pause;
        changed.then_some(pause)
    }

    fn wake(&self, state: &mut State) {
        for waker in state.waiting.drain(..) {
            self.0.dirty.0.woke.set(true);
            waker.wake();
        }
    }

    fn list(&self, state: &mut State) {
        if !state.listed {
            state.listed = true;
            self.0.dirty.0.wires.borrow_mut().push(self.clone());
        }
    }
}
