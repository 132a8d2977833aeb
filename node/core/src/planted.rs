//! Defects put in on purpose, to see that the simulator finds them. Never part of a release.

use std::cell::Cell;

/// What is wrong in this thread, if anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Defect {
    #[default]
    Nothing,
    /// Repeated requests are not recognised: each is applied again.
    ApplyTwice,
    /// A file without a name goes when it is due, whoever has it open.
    OpenDropped,
    /// A page behind an entry that went meanwhile begins one entry too late.
    PageSkips,
    /// Whoever asks about a directory that a client has for itself is answered, though changes are on their way.
    DelegationSeen,
    /// Ordered changes are applied in the order in which they come.
    OrderIgnored,
}

thread_local! {
    static DEFECT: Cell<Defect> = const { Cell::new(Defect::Nothing) };
}

pub fn plant(defect: Defect) {
    DEFECT.set(defect);
}

pub(crate) fn is_planted(defect: Defect) -> bool {
    DEFECT.get() == defect
}
