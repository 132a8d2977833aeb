//! Room for frames that hold large values, shared by all connections of a worker.
//!
//! Previous in the flow: `client` and `capnp::guard`, whose decoders know from its table how large the next
//! frame will be. A frame above the size of a block needs room here before it is received: while there is none
//! its connection is not read, so ten thousand connections that each announce 64 MiB hold ten thousand chunks,
//! not their frames. The room is kept until the request in the frame was answered.
//!
//! Alternative: parts with an id, put together again by the receiver. They would let small requests pass a large one on
//! the same connection, which a second connection does as well, and need the same room for what is put together.
//!
//! Invariants:
//! - Frames with room of one worker hold ROOM_BYTES_MIN together, or are one alone.
//! - A frame that does not arrive within FRAME_TIME_US ends its connection: nobody holds room for nothing.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bark_core::worker::gateway::Gateway;
use bark_schema::frame::FrameDecoder;
use bark_schema::limits::{FRAME_ENVELOPE_MAX, FRAME_SIZE_MAX, MIB};

use super::Wire;

/// Eight values of the default limit.
const ROOM_BYTES_MIN: usize = 256 * MIB;
/// 64 MiB over a line of 5 Mbit/s.
const FRAME_TIME_US: u64 = 120_000_000;

/// The room of one worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct FrameRoom(Rc<Shared>);

#[derive(Default)]
struct Shared {
    held_bytes: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

/// Room for one frame; given back on drop.
pub struct Room {
    shared: Rc<Shared>,
    size_bytes: usize,
}

impl FrameRoom {
    async fn take(&self, size_bytes: usize) -> Room {
        poll_fn(|context| {
            let held = self.0.held_bytes.get();
            if held > 0 && held + size_bytes > ROOM_BYTES_MIN {
                self.0.waiting.borrow_mut().push(context.waker().clone());
                return Poll::Pending;
            }
            self.0.held_bytes.set(held + size_bytes);
            Poll::Ready(Room {
                shared: self.0.clone(),
                size_bytes,
            })
        })
        .await
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let held = self.shared.held_bytes.get();
        self.shared.held_bytes.set(held - self.size_bytes);
        for waker in self.shared.waiting.take() {
            waker.wake();
        }
    }
}

/// Largest frame of a client that logged in.
pub fn frame_size_max(value_size_max: usize) -> usize {
    (value_size_max + FRAME_ENVELOPE_MAX).max(FRAME_SIZE_MAX)
}

/// One connection's place at the door.
pub struct Intake {
    room: FrameRoom,
    gateway: Gateway,
    wire: Wire,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    /// Counts large frames: what was begun for an earlier one is void.
    frame: u64,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Small,
    Waiting,
    Arriving(Room),
}

impl Intake {
    pub fn new(room: FrameRoom, gateway: Gateway, wire: Wire) -> Intake {
        Intake {
            room,
            gateway,
            wire,
            state: Rc::default(),
        }
    }

    /// To be called after bytes came or a frame was taken: looks at what the decoder waits for. True while the
    /// connection must not be read; when that is over `resume` is called.
    pub fn waits_for_room(&self, frames: &FrameDecoder, resume: impl FnOnce() + 'static) -> bool {
        let mut state = self.state.borrow_mut();
        let size_bytes = match frames.awaited_size() {
            Some(size_bytes) if size_bytes > FRAME_SIZE_MAX => size_bytes,
            _ => return false,
        };
        match state.stage {
            Stage::Waiting => return true,
            Stage::Arriving(_) => return false,
            Stage::Small => {}
        }
        state.frame += 1;
        state.stage = Stage::Waiting;
        let (room, shared, frame) = (self.room.clone(), self.state.clone(), state.frame);
        let (gateway, wire) = (self.gateway.clone(), self.wire.clone());
        self.gateway.spawn(async move {
            let taken = room.take(size_bytes).await;
            if shared.borrow().frame != frame || wire.is_closing() {
                return;
            }
            shared.borrow_mut().stage = Stage::Arriving(taken);
            resume();
            gateway.sleep(FRAME_TIME_US).await;
            let state = shared.borrow();
            if state.frame == frame && matches!(state.stage, Stage::Arriving(_)) {
                tracing::debug!(size_bytes, "a frame did not arrive in time");
                wire.close();
            }
        });
        true
    }

    /// The frame has arrived whole: its room goes with it. None for a small one.
    pub fn arrived(&self) -> Option<Room> {
        let mut state = self.state.borrow_mut();
        match std::mem::take(&mut state.stage) {
            Stage::Small => None,
            Stage::Waiting => {
                state.frame += 1;
                None
            }
            Stage::Arriving(room) => Some(room),
        }
    }

    /// The connection is gone.
    pub fn end(&self) {
        self.arrived();
    }
}
