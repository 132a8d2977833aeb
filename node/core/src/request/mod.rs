//! Requests that take more than one partition or more than memory: straight code over the gateway.
//!
//! `namespace` decides what a directory operation touches, `transaction` carries it through two-phase
//! commit, `recovery` finishes what a lost coordinator left, `walk` follows paths, `block` replicates data,
//! `pack` moves small writes into blocks, `defragment` joins files in pieces, `collect` drops blocks nobody
//! needs, `mend` makes copies that are missing or bad anew, `scrub` reads all copies of a node, `usage` adds up what directories take, `quota` keeps the limits of that.

mod block;
pub mod collect;
pub mod defragment;
pub mod mend;
pub mod namespace;
pub mod node;
pub mod pack;
pub mod quota;
pub mod recovery;
pub mod scrub;
mod transaction;
pub mod usage;
mod walk;

use bark_schema::operation::{Failure, Refusal, Reply};

/// An answer of a kind the question cannot have: a defect, told as such.
pub(crate) fn unexpected(reply: &Reply) -> Failure {
    tracing::error!(?reply, "a partition gave an answer of another kind");
    Failure::refused(Refusal::Internal, "a partition gave an answer of another kind")
}
