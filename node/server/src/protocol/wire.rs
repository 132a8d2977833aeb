//! The sending half of a connection, as protocol code sees it.
//!
//! Bytes gather in one buffer a connection and leave as one write when the worker's turn ends, so a pipeline
//! of a hundred commands costs one queue item. A wire counts what it was given and not yet sent; above the
//! limit the worker pauses reading that connection until the client has taken what it asked for.
//!
//! Invariants:
//! - A wire is on the dirty list exactly once while it has bytes or a close to hand over.
//! - Nothing is written after `close`.

use std::cell::RefCell;
use std::rc::Rc;

/// Names a connection within its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireId(pub u64);

/// Wires with something to hand to the network thread; one list a worker.
#[derive(Clone, Default)]
pub struct DirtyWires(Rc<RefCell<Vec<Wire>>>);

impl DirtyWires {
    pub fn take(&self) -> Vec<Wire> {
        std::mem::take(&mut *self.0.borrow_mut())
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
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
}

impl Wire {
    pub fn new(id: WireId, dirty: DirtyWires) -> Wire {
        Wire(Rc::new(Inner { id, state: RefCell::default(), dirty }))
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
        fill(&mut state.out);
        self.list(&mut state);
    }

    /// Ends the connection once everything written has been sent.
    pub fn close(&self) {
        let mut state = self.0.state.borrow_mut();
        state.closing = true;
        self.list(&mut state);
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
    }

    /// What to send now, and whether to close after it.
    pub fn take(&self) -> (Vec<u8>, bool) {
        let mut state = self.0.state.borrow_mut();
        state.listed = false;
        (std::mem::take(&mut state.out), state.closing)
    }

    fn list(&self, state: &mut State) {
        if !state.listed {
            state.listed = true;
            self.0.dirty.0.borrow_mut().push(self.clone());
        }
    }
}
