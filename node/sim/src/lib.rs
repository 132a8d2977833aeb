//! Whole BarkFS clusters in one thread, from a seed.
//!
//! The nodes run the real core and the clients the real session; messages cross a simulated network as
//! encoded frames, and what is written goes to simulated disks. Time, dice, crashes and delays come from
//! the seed, so a failing seed replays bit for bit.
//!
//! `world` is time, `network` and `cluster` are what runs in it, `client`, `keys` and `files` use it, `fault`
//! breaks it, `simulation` plays one run, `checker`, `tree` and `ledger` judge it.
//!
//! Invariants:
//! - One seed gives one trace: each seed can be run twice and the digests of all events compared.
//! - No check is weaker because of a fault: operations whose outcome is unknown are told apart by the client.

mod checker;
mod client;
mod cluster;
mod counts;
mod doctor;
mod fault;
mod files;
mod keys;
mod ledger;
mod network;
mod simulation;
mod tree;
mod usage;
mod world;

pub use counts::Counts;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A defect put in on purpose, to see that it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    Nothing,
    /// The log says a batch is durable before it is synced.
    AckBeforeSync,
    /// A restarted node does not remember whom it voted for.
    VoteForgotten,
    /// One of the core's own. Needs the feature `planted-bugs`.
    #[cfg(feature = "planted-bugs")]
    InCore(bark_core::planted::Defect),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print every event.
    pub trace: bool,
    pub planted: Planted,
}

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub failure: Option<String>,
    /// Digest of everything that happened.
    pub trace: u64,
    pub events: u64,
    pub virtual_us: u64,
    /// Key operations judged by the checker.
    pub operations: u64,
    pub counts: Counts,
    pub shape: String,
}

/// Plays one seed once.
pub fn run(seed: u64, options: &Options) -> Report {
    plant(options.planted);
    let report = catch_unwind(AssertUnwindSafe(|| {
        simulation::Simulation::new(seed, options).run()
    }));
    plant(Planted::Nothing);
    report.unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
            .unwrap_or_default();
        Report {
            failure: Some(format!("panic: {reason}")),
            trace: 0,
            events: 0,
            virtual_us: 0,
            operations: 0,
            counts: Counts::default(),
            shape: String::new(),
        }
    })
}

/// Plays a seed twice; differing traces are a failure of their own.
pub fn run_twice(seed: u64, options: &Options) -> Report {
    let first = run(seed, options);
    if first.failure.is_some() {
        return first;
    }
    let second = run(seed, options);
    if first != second {
        let failure = Some(format!("two runs differ: {first:?} and {second:?}"));
        return Report { failure, ..first };
    }
    first
}

#[cfg(feature = "planted-bugs")]
fn plant(planted: Planted) {
    use bark_core::planted::{self, Defect};
    planted::plant(match planted {
        Planted::InCore(defect) => defect,
        _ => Defect::Nothing,
    });
}

#[cfg(not(feature = "planted-bugs"))]
fn plant(_: Planted) {}
