//! Stands between the socket and capnp-rpc: whole frames only, and no more calls than there is room for.
//!
//! Left alone the library allocates and zeroes what a frame's header claims, 64 MiB for 16 bytes received;
//! it has no limit on calls under way, and it keeps every answer until the client says it is finished. Here
//! a frame is shown when all of it has arrived; calls are counted from their arrival to their return, and
//! while too many are open, or the client does not take its answers, no frame is shown. The bytes then wait,
//! and above a limit the socket is not read any more.
//!
//! A frame is a slice of the chunk it arrived in: nothing is copied on the way to the handlers.
//!
//! Invariants:
//! - Memory held for a connection is bounded by what it sent, and that by the limits here.
//! - Frames are shown in the order they came, none is passed over.
//! - After the end nothing is shown and nothing waits.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bark_schema::frame::FrameDecoder;
use bark_schema::limits::MIB;
use bytes::Bytes;
use capnp::message::ReaderOptions;
use capnp::serialize::BufferSegments;
use capnp_rpc::rpc_capnp::message;

use crate::protocol::Wire;
use crate::protocol::frame_room::{Intake, Room};

/// Calls open at once on a connection: at 2.5 KB each the library then holds 2.5 MiB.
const CALLS_MAX: usize = 1024;
/// Bytes of their parameters. One call is always admitted.
const CALL_BYTES_MAX: usize = 16 * MIB;
/// Answers on the wire that the network has not taken yet.
const UNSENT_BYTES_MAX: usize = 16 * MIB;
/// Received and not shown: above this the socket is not read, unless a frame is not complete yet.
const WAITING_BYTES_MAX: usize = 8 * MIB;
/// Calls not finished by the client; the library keeps an entry for each until then.
const UNFINISHED_MAX: usize = 256 * 1024;

pub type Frame = capnp::message::Reader<BufferSegments<Bytes>>;

pub struct Guard {
    itself: Weak<Guard>,
    wire: Wire,
    intake: Intake,
    reader_options: ReaderOptions,
    state: RefCell<State>,
}

struct State {
    frames: FrameDecoder,
    /// By question id: open calls and their frames.
    calls: BTreeMap<u32, Call>,
    call_bytes: usize,
    /// Questions the library still has an entry for.
    unfinished: BTreeSet<u32>,
    waker: Option<Waker>,
    ended: bool,
}

/// What an open call holds.
struct Call {
    size_bytes: usize,
    _room: Option<Room>,
}

impl Guard {
    pub fn new(wire: Wire, intake: Intake, frame_size_max: usize) -> Rc<Guard> {
        let state = State {
            frames: FrameDecoder::new(frame_size_max),
            calls: BTreeMap::new(),
            call_bytes: 0,
            unfinished: BTreeSet::new(),
            waker: None,
            ended: false,
        };
        // A handler may look at everything in a frame four times; pointers that overlap are caught by that.
        let reader_options = ReaderOptions {
            traversal_limit_in_words: Some(4 * frame_size_max / 8),
            nesting_limit: 64,
        };
        Rc::new_cyclic(|itself| Guard {
            itself: itself.clone(),
            wire,
            intake,
            reader_options,
            state: RefCell::new(state),
        })
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Bytes from the socket.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        state.frames.push(bytes);
        self.pace(&state);
        state.wake();
    }

    /// The connection is gone.
    pub fn end(&self) {
        let mut state = self.state.borrow_mut();
        state.ended = true;
        self.intake.end();
        state.wake();
    }

    /// The next frame, once there is one and room for what it asks; none after the end.
    pub fn poll_frame(&self, context: &mut Context<'_>) -> Poll<capnp::Result<Option<Frame>>> {
        let mut state = self.state.borrow_mut();
        if state.ended {
            return Poll::Ready(Ok(None));
        }
        state.waker = Some(context.waker().clone());
        if !state.has_room() || self.wire.poll_room(UNSENT_BYTES_MAX, context).is_pending() {
            return Poll::Pending;
        }
        let next = state
            .frames
            .next()
            .map_err(|error| capnp::Error::failed(error.to_string()))?;
        let room = next.as_ref().and_then(|_| self.intake.arrived());
        self.pace(&state);
        let Some(bytes) = next else { return Poll::Pending };
        let size_bytes = bytes.len();
        let frame = Frame::new(
            BufferSegments::new(bytes, self.reader_options)?,
            self.reader_options,
        );
        state.count(
            &frame,
            Call {
                size_bytes,
                _room: room,
            },
        )?;
        Poll::Ready(Ok(Some(frame)))
    }

    /// A call was answered: its place is free. `is_finished`: the client was told not to say so itself.
    pub fn returned(&self, question: u32, is_finished: bool) {
        let mut state = self.state.borrow_mut();
        if is_finished {
            state.unfinished.remove(&question);
        }
        if let Some(call) = state.calls.remove(&question) {
            state.call_bytes -= call.size_bytes;
            state.wake();
        }
    }

    fn pace(&self, state: &State) {
        let itself = self.itself.clone();
        let resume = move || {
            if let Some(guard) = itself.upgrade() {
                guard.pace(&guard.state.borrow());
            }
        };
        let frames = &state.frames;
        let enough = frames.buffered_bytes() > WAITING_BYTES_MAX && frames.awaited_size().is_none();
        self.wire
            .set_reading_paused(self.intake.waits_for_room(frames, resume) || enough);
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.calls.len() < CALLS_MAX && self.call_bytes < CALL_BYTES_MAX
    }

    fn count(&mut self, frame: &Frame, of: Call) -> capnp::Result<()> {
        match frame.get_root::<message::Reader<'_>>()?.which() {
            Ok(message::Call(call)) => {
                let question = call?.get_question_id();
                self.unfinished.insert(question);
                if self.unfinished.len() > UNFINISHED_MAX {
                    return Err(capnp::Error::failed(format!(
                        "{UNFINISHED_MAX} answers were never finished"
                    )));
                }
                // A question id used twice is for the library to refuse; the count must only not go wrong.
                self.call_bytes += of.size_bytes;
                let twice = self.calls.insert(question, of);
                self.call_bytes -= twice.map_or(0, |call| call.size_bytes);
            }
            Ok(message::Finish(finish)) => {
                self.unfinished.remove(&finish?.get_question_id());
            }
            _ => {}
        }
        Ok(())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
