//! Directories that one client has for itself.
//!
//! A client that holds the delegation of a directory knows what is in it and decides by itself what happens to its
//! names and to the files that count in it: it tells programs that a change is done, and sends the change after. Nobody
//! else sees or changes any of that before the delegation came back.
//!
//! Invariant: what one partition holds back from others is only what is at home in it. A file elsewhere that has a
//! name in a delegated directory is as open to everybody as before.

use crate::ids::{ClientId, InodeId};

/// A step in the life of delegations, by one log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DelegationCommand {
    /// The client wants these directories for itself, and its lease here runs on for `lease_ms`. Answers `Opens`: as
    /// missing those it does not get, because another client has them, because they are under a quota or no
    /// directories of this partition; and whether its lease had not run out. If it had, nothing taken before counts.
    Take {
        client: ClientId,
        directories: Vec<InodeId>,
        lease_ms: u32,
    },
    /// It has done all it wants to do in them. Answers `Done`, whoever had them.
    GiveBack {
        client: ClientId,
        directories: Vec<InodeId>,
    },
}
