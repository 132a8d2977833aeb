//! A few seeds of everything, each twice: quick enough for every change.

use bark_sim::{Counts, Options, run_twice};

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimization")]
fn twenty_seeds_hold_and_replay_bit_for_bit() {
    // Goal: no check fails under faults, and the digest of every event is the same the second time.
    let mut counts = Counts::default();
    for seed in 0..20 {
        let report = run_twice(seed, &Options::default());
        assert_eq!(report.failure, None, "seed {seed}: {}", report.shape);
        assert!(report.operations > 0, "seed {seed} did nothing");
        counts = counts + report.counts;
    }
    assert!(counts.snapshots_taken > 0, "no snapshot was taken: {counts:?}");
    assert!(
        counts.snapshots_loaded > 0,
        "none was loaded at start: {counts:?}"
    );
    assert!(counts.snapshots_installed > 0, "none was sent: {counts:?}");
    let looked_at = [
        counts.late_copies,
        counts.plain_answers,
        counts.unnamed_reads,
        counts.listings,
        counts.append_reads,
        counts.additions_under_lock,
    ];
    assert!(
        looked_at.iter().all(|count| *count > 0),
        "a script did nothing: {counts:?}"
    );
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimization")]
fn seeds_that_failed_once_hold() {
    // Goal: what was found stays fixed; each line is a seed and the story of what it found.
    for line in include_str!("seeds/fixed.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let (seed, story) = line.split_once(' ').unwrap_or((line, ""));
        let seed: u64 = seed.parse().expect("a line begins with its seed");
        let report = run_twice(seed, &Options::default());
        assert_eq!(report.failure, None, "seed {seed} ({story}): {}", report.shape);
    }
}
