//! Time on processors, from /proc: of some processes, all their threads together, and of the whole machine.

use std::fs;

/// Nanoseconds the processes' threads ran so far.
pub fn used_nanoseconds(process_ids: impl Iterator<Item = u32>) -> u64 {
    process_ids
        .filter_map(|id| fs::read_dir(format!("/proc/{id}/task")).ok())
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Nanoseconds all processors were busy so far, at the clock's 10 ms grain.
pub fn busy_nanoseconds() -> u64 {
    const TICK_NANOSECONDS: u64 = 10_000_000;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal
    let busy = numbers
        .take(8)
        .enumerate()
        .filter(|(column, _)| !matches!(column, 3 | 4));
    busy.filter_map(|(_, number)| number.parse::<u64>().ok())
        .sum::<u64>()
        * TICK_NANOSECONDS
}
