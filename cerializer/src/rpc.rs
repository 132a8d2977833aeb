//! The schema's methods called with JSON: what `/v1/rpc/{Interface}/{method}` rests on.
//!
//! `methods` is the table of what can be called, `arguments` makes a message out of JSON, `session` carries the
//! call to a node over capnp-rpc on a thread of its own (its objects belong to one thread) and makes JSON of the
//! results.
//!
//! Invariants:
//! - Arguments are checked against the schema before a node sees anything of them.
//! - A call is sent once. One whose connection broke may have happened, and that is what is answered.

mod arguments;
mod methods;
mod session;
mod stream;

pub use arguments::message;
pub use methods::{INTERFACES, Interface, Method, Target};
pub use session::{Call, Sessions};
