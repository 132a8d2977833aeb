//! What must hold after any history: equal replicas, exact snapshots, exact counters, exactly-once.

use super::full_scan::check_everything;
use super::workload::{OPERATIONS, proposals};
use super::*;
use crate::random::Random;
use crate::state::{Error, StateLoader, each_table};

#[test]
fn replicas_that_apply_the_same_entries_are_equal() {
    // Goal: hash and replies agree at every index; digest and counters equal a full scan.
    for seed in 1..=4 {
        let mut states = [Machine::new().state, Machine::new().state];
        for (index, proposal) in (1..).zip(proposals(seed)) {
            let [left, right] = states.each_mut().map(|state| state.apply(index, &proposal));
            assert_eq!(left, right);
            assert_eq!(states[0].hash(), states[1].hash(), "seed {seed} index {index}");
            if index % 50 == 0 {
                check_everything(&mut states[0]);
            }
        }
        assert!(
            states[0].inodes.len() > 5 && states[0].garbage.len() > 5,
            "the workload does something"
        );
    }
}

#[test]
fn a_snapshot_is_the_state_as_it_was_though_entries_go_on() {
    // Goal: begin at a random index, draw small chunks between entries, load in odd pieces: equal.
    for seed in 1..=12 {
        let mut random = Random::new(seed);
        let begin = random.below(OPERATIONS * 3 / 4);
        let mut state = Machine::new().state;
        let mut mark = None;
        let mut snapshot = Vec::new();
        for (index, proposal) in (1..).zip(proposals(seed)) {
            let _ = state.apply(index, &proposal);
            if index == begin {
                mark = Some(state.begin_snapshot());
            }
            if random.chance(3) {
                snapshot.extend(
                    state
                        .snapshot_chunk(random.below(2_000) as usize)
                        .unwrap_or_default(),
                );
            }
        }
        while let Some(chunk) = state.snapshot_chunk(1_000) {
            snapshot.extend(chunk);
        }
        each_table!(shared state, table, assert_eq!(table.saved_rows(), 0));
        let Some(mark) = mark else { continue };
        let mut loader = StateLoader::new();
        for piece in snapshot.chunks(1 + random.below(999) as usize) {
            loader.feed(piece).unwrap();
        }
        let mut loaded = loader.finish().unwrap();
        assert_eq!(
            (loaded.applied(), loaded.hash()),
            (mark.index, mark.hash),
            "seed {seed}"
        );
        check_everything(&mut loaded);
    }
}

#[test]
fn a_loaded_state_goes_on_like_the_one_it_was_taken_from() {
    let history = proposals(77);
    let (first, second) = history.split_at(1_000);
    let mut state = Machine::new().state;
    for (index, proposal) in (1..).zip(first) {
        let _ = state.apply(index, proposal);
    }
    state.begin_snapshot();
    let mut loader = StateLoader::new();
    while let Some(chunk) = state.snapshot_chunk(64 * 1024) {
        loader.feed(&chunk).unwrap();
    }
    let mut loaded = loader.finish().unwrap();
    for (index, proposal) in (1_001..).zip(second) {
        assert_eq!(state.apply(index, proposal), loaded.apply(index, proposal));
    }
    assert_eq!(state.hash(), loaded.hash());
}

#[test]
fn repeating_any_request_changes_nothing() {
    // Goal: straight after it and at the end, a recorded request gives the same reply, no row changes.
    let mut state = Machine::new().state;
    let mut index = 0;
    for proposal in proposals(5) {
        index += 1;
        let first = state.apply(index, &proposal);
        let is_plain = !matches!(
            proposal.command,
            Command::Prepare { .. }
                | Command::Decide { .. }
                | Command::Finish { .. }
                | Command::Forget { .. }
        );
        let id = proposal.id.unwrap();
        if is_plain && state.recorded(&id).is_some() {
            let digest = state.tables_digest();
            index += 1;
            assert_eq!(state.apply(index, &proposal), first);
            assert_eq!(state.tables_digest(), digest);
        }
    }
}

#[test]
fn damaged_snapshots_are_refused_without_panic() {
    // Goal: any flipped bit, cut end or garbage is an error.
    let mut state = Machine::new().state;
    for (index, proposal) in (1..).zip(proposals(3).into_iter().take(300)) {
        let _ = state.apply(index, &proposal);
    }
    state.begin_snapshot();
    let mut snapshot = Vec::new();
    while let Some(chunk) = state.snapshot_chunk(4_000) {
        snapshot.extend(chunk);
    }
    let load = |bytes: &[u8]| {
        let mut loader = StateLoader::new();
        loader.feed(bytes)?;
        loader.finish()
    };
    assert!(load(&snapshot).is_ok());
    assert_eq!(load(&[]).err(), Some(Error::Incomplete));
    let mut random = Random::new(1);
    for _ in 0..500 {
        let position = random.below(snapshot.len() as u64) as usize;
        assert!(load(&snapshot[..position]).is_err());
        let mut damaged = snapshot.clone();
        damaged[position] ^= 1 << random.below(8);
        assert!(load(&damaged).is_err(), "bit flip at {position}");
    }
}
