//! Where a number comes from, machine, commit and command line; and how many become one.

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
        "load_before": read("/proc/loadavg").split(' ').next().unwrap_or("unknown"),
        "commit": commit.ok().filter(|output| output.status.success())
            .map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        "command": env::args().collect::<Vec<_>>().join(" "),
    })
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
