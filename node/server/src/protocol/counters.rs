//! What the node's connections did, for INFO and for metrics.
//!
//! Process-wide, because one process is one node; protocols add once a chunk, not once a command.
//! Relaxed throughout: counts guard no other memory.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

static RESP_COMMANDS: AtomicU64 = AtomicU64::new(0);
static RESP_CONNECTIONS: AtomicI64 = AtomicI64::new(0);
static RESP_CONNECTIONS_TOTAL: AtomicU64 = AtomicU64::new(0);

pub fn resp_connection_opened() {
    RESP_CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    RESP_CONNECTIONS_TOTAL.fetch_add(1, Ordering::Relaxed);
}

pub fn resp_connection_closed() {
    RESP_CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
}

pub fn add_resp_commands(count: u64) {
    RESP_COMMANDS.fetch_add(count, Ordering::Relaxed);
}

pub fn resp_commands() -> u64 {
    RESP_COMMANDS.load(Ordering::Relaxed)
}

pub fn resp_connections() -> i64 {
    RESP_CONNECTIONS.load(Ordering::Relaxed)
}

pub fn resp_connections_total() -> u64 {
    RESP_CONNECTIONS_TOTAL.load(Ordering::Relaxed)
}

/// Bytes of memory this process occupies; None where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
