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
use std::task::{Context, Poll, Waker};

use bark_schema::frame::FrameDecoder;
use bark_schema::limits::{FRAME_SIZE_MAX, MIB};
use bytes::Bytes;
use capnp::message::ReaderOptions;
use capnp::serialize::BufferSegments;
use capnp_rpc::rpc_capnp::message;

use crate::protocol::Wire;

/// Calls open at once on a connection: at 2.5 KB each the library then holds 2.5 MiB.
const CALLS_MAX: usize = 1024;
/// Bytes of their parameters. One call is always admitted.
const CALL_BYTES_MAX: usize = 16 * MIB;
/// Answers on the wire that the network has not taken yet.
const UNSENT_BYTES_MAX: usize = 16 * MIB;
/// Received and not shown: above this the socket is not read.
const WAITING_BYTES_MAX: usize = 8 * MIB;
/// Calls not finished by the client; the library keeps an entry for each until then.
const UNFINISHED_MAX: usize = 256 * 1024;

pub type Frame = capnp::message::Reader<BufferSegments<Bytes>>;

pub struct Guard {
    wire: Wire,
    state: RefCell<State>,
}

struct State {
    frames: FrameDecoder,
    /// By question id: open calls and the bytes of their frames.
    calls: BTreeMap<u32, usize>,
    call_bytes: usize,
    /// Questions the library still has an entry for.
    unfinished: BTreeSet<u32>,
    waker: Option<Waker>,
    ended: bool,
}

impl Guard {
    pub fn new(wire: Wire) -> Guard {
        let state = State {
            frames: FrameDecoder::new(FRAME_SIZE_MAX),
            calls: BTreeMap::new(),
            call_bytes: 0,
            unfinished: BTreeSet::new(),
            waker: None,
            ended: false,
        };
        Guard {
            wire,
            state: RefCell::new(state),
        }
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
        self.pace(&state);
        let Some(bytes) = next else { return Poll::Pending };
        let size_bytes = bytes.len();
        let frame = Frame::new(BufferSegments::new(bytes, READER_OPTIONS)?, READER_OPTIONS);
        state.count(&frame, size_bytes)?;
        Poll::Ready(Ok(Some(frame)))
    }

    /// A call was answered: its place is free. `is_finished`: the client was told not to say so itself.
    pub fn returned(&self, question: u32, is_finished: bool) {
        let mut state = self.state.borrow_mut();
        if is_finished {
            state.unfinished.remove(&question);
        }
        if let Some(size_bytes) = state.calls.remove(&question) {
            state.call_bytes -= size_bytes;
            state.wake();
        }
    }

    fn pace(&self, state: &State) {
        self.wire
            .set_reading_paused(state.frames.buffered_bytes() > WAITING_BYTES_MAX);
    }
}

/// A handler may look at everything in a frame four times; pointers that overlap are caught by that.
const READER_OPTIONS: ReaderOptions = ReaderOptions {
    traversal_limit_in_words: Some(4 * FRAME_SIZE_MAX / 8),
    nesting_limit: 64,
};

impl State {
    fn has_room(&self) -> bool {
        self.calls.len() < CALLS_MAX && self.call_bytes < CALL_BYTES_MAX
    }

    fn count(&mut self, frame: &Frame, size_bytes: usize) -> capnp::Result<()> {
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
                self.call_bytes += size_bytes;
                self.call_bytes -= self.calls.insert(question, size_bytes).unwrap_or(0);
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
