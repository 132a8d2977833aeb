//! Defects put in on purpose, to see that the simulator finds them. Never part of a release.

use std::cell::Cell;

thread_local! {
    /// Repeated requests are not recognised: each is applied again.
    pub static APPLY_TWICE: Cell<bool> = const { Cell::new(false) };
}
