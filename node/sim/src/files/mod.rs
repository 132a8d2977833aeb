//! What clients do to files, and what must come of it.
//!
//! | script | whose files | how it is judged |
//! | --- | --- | --- |
//! | `owner` | a tree of its own | every answer is foretold by the `reference` tree, refusals by their kind |
//! | `bytes` | a few of its own | each byte, against plain vectors |
//! | `unnamed` | its own, open and without a name | kept as long as a lease says, with what was written |
//! | `listing` | a directory that changes while it is listed | what is there throughout is listed once |
//! | `locks` | a number all add to, each under a lock | no addition is lost, and none is done under a lost lock |
//! | `append` | one that all append to | whole records, each once, where its answer said |
//! | `delegated` | a directory that clients have for themselves in turn | what was told to be done is found |
//! | `contested` | few names for all | each name's history is linearizable |
//! | `crowd` | few names for all | the tree it leaves behind |
//!
//! Invariants:
//! - What was touched by an operation whose outcome is not known is put aside, as far as it may reach: the
//!   request may still take effect at any time.

use bark_schema::operation::NewInode;
use bark_schema::policy::PolicyChange;
use bytes::Bytes;

mod append;
mod contested;
mod crowd;
mod delegated;
mod listing;
mod locks;
mod owner;
mod ranges;
mod reader;
mod reference;
mod unnamed;

pub use self::append::{SharedFile, append};
pub use self::contested::{Contest, contested};
pub use self::crowd::{SharedTree, crowd};
pub use self::delegated::{SharedDirectory, await_recalls, delegated};
pub use self::listing::{SharedListing, change, list};
pub use self::locks::{SharedNumber, add_under_lock};
pub use self::owner::own;
pub use self::ranges::ranges;
pub use self::unnamed::unnamed;

const WORK_DEADLINE_MS: u64 = 8_000;
const VERIFY_DEADLINE_MS: u64 = 20_000;
const ATTRIBUTES: NewInode = NewInode {
    mode: 0o755,
    owner: 1,
    group: 1,
    policy: PolicyChange {
        block_size: None,
        replicas: None,
        allocate: None,
    },
    xattrs: Vec::new(),
};

fn name(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
