//! Lock-free queues between the threads of one node, and the protocol that wakes a sleeping reader.
//!
//! Previous: the network thread reads bytes. Next: a worker collects them at the start of its turn, and hands
//! replies back the same way.
//!
//! Design. A queue never blocks, never wakes anybody and never allocates while it is in use; it is bounded, and hands
//! the value back when it is full, so that the caller decides what to pause. Blocking is somebody else's trade
//! (`thread::park` for a worker, a poll for the network thread), joined to the queues only by [`SleepFlag`].
//!
//! | module | from → to | use |
//! | --- | --- | --- |
//! | [`spsc`] | one → one | network thread → worker, worker → worker |
//! | [`notify`] | many → one | workers → network thread: one ring per worker and a mask of who has something |
//! | [`mpsc`] | many → one | from any thread: log, disk, sibling workers; handles come and go |
//! | [`sleep_flag`] | | at most one wake-up per batch and sleeper |
//!
//! The price: a mesh of rings reserves memory for every pair, and is in order per producer only, not between them.
//!
//! Invariants
//! - All hand-written unsafe code of the project is in this crate; every block says which rule makes it sound.
//! - Every atomic operation that orders something names its partner.
//! - What is pushed is taken exactly once or dropped exactly once, in order per producer.
//! - Each queue has a model in `tests/loom.rs`; loom explores its interleavings.

pub mod mpsc;
pub mod notify;
pub mod sleep_flag;
pub mod spsc;

mod cache_padded;
mod full;
mod sync;

pub use full::Full;
pub use sleep_flag::SleepFlag;
