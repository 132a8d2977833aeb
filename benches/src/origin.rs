//! Where a number comes from, machine, commit and command line; in which order many are taken, and how they become one.

use std::{env, fs, process, thread};

use serde_json::{Value, json};

/// Reads it from the running system; what cannot be found is called unknown.
pub fn origin() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_information = read("/proc/cpuinfo");
    let model = cpu_information.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(": ")
            .map(|(_, name)| name.to_owned())
    });
    let cores_count = thread::available_parallelism().map_or(0, usize::from);
    let commit = process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .output();
    json!({
        "machine": format!("{}, {cores_count} cores, Linux {}", model.unwrap_or("unknown".into()), read("/proc/sys/kernel/osrelease").trim()),
        "load_before": load_average().to_string(),
        "commit": commit.ok().filter(|output| output.status.success())
            .map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        "command": env::args().collect::<Vec<_>>().join(" "),
    })
}

/// Processes that ran or waited for a processor or a disk, over the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The table's first lines.
pub fn print(origin: &Value) {
    for field in ["machine", "load_before", "commit", "command"] {
        println!("{field}: {}", origin[field].as_str().unwrap_or("unknown"));
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The numbers below `count` in an order that differs from round to round and not from run to run.
pub fn shuffled(count: usize, round: u64) -> Vec<usize> {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut order: Vec<usize> = (0..count).collect();
    for index in (1..count).rev() {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        order.swap(index, (state >> 33) as usize % (index + 1));
    }
    order
}
