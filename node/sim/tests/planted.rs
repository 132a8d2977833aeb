//! The simulator finds defects put in on purpose: a check that never fails is no check.

use bark_core::planted::Defect;
use bark_sim::{Options, Planted, run};

/// Seeds each planted defect must be found in.
const SEEDS_MAX: u64 = 50;
/// Those of a defect that takes a change of leaders in the middle of a burst of changes to one directory.
const RARE_SEEDS_MAX: u64 = 400;

fn first_failure(planted: Planted) -> Option<(u64, String)> {
    first_failure_below(SEEDS_MAX, planted)
}

fn first_failure_below(seeds_max: u64, planted: Planted) -> Option<(u64, String)> {
    let options = Options {
        planted,
        ..Options::default()
    };
    (0..seeds_max).find_map(|seed| run(seed, &options).failure.map(|reason| (seed, reason)))
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    // Goal: what a node promised and lost with its power is missed by some check.
    assert!(first_failure(Planted::AckBeforeSync).is_some());
}

#[test]
fn a_request_applied_twice_is_found() {
    // Goal: retries after lost answers make the second application visible.
    assert!(first_failure(Planted::InCore(Defect::ApplyTwice)).is_some());
}

#[test]
fn a_forgotten_vote_is_found() {
    // Goal: a restarted voter votes again in the same term, and two leaders of one term are seen.
    assert!(first_failure(Planted::VoteForgotten).is_some());
}

#[test]
fn a_file_dropped_while_it_is_open_is_found() {
    // Goal: content without a name is asked for as long as a lease keeps it.
    assert!(first_failure(Planted::InCore(Defect::OpenDropped)).is_some());
}

#[test]
fn a_page_that_skips_an_entry_is_found() {
    // Goal: listings go on behind entries that are removed meanwhile, and miss nothing.
    assert!(first_failure(Planted::InCore(Defect::PageSkips)).is_some());
}

#[test]
fn a_delegated_directory_that_others_see_is_found() {
    // Goal: what a holder told is done is missed by who looks before it has arrived.
    assert!(first_failure(Planted::InCore(Defect::DelegationSeen)).is_some());
}

#[test]
fn ordered_changes_in_another_order_are_found() {
    // Goal: changes that overtake each other are refused, though they were told to be done.
    assert!(first_failure_below(RARE_SEEDS_MAX, Planted::InCore(Defect::OrderIgnored)).is_some());
}
