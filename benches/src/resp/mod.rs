//! What a key costs over a socket: BarkFS beside Redis, memcached and etcd.
//!
//! Design. All servers run side by side, idle but for the one under load, each in its setting; what one keeps only in
//! memory is compared with peers that do the same, what is synced before the answer with peers that sync. A cell is
//! a server, a verb and a depth of pipelining; rounds go over all cells in a new order each, so that a noisy minute
//! hits everybody. The table shows medians over the rounds.
//!
//! Two figures a cell. Operations per second are what a user sees, and mean little while others use the machine. Server
//! CPU per operation (all threads of all processes, from /proc/PID/task/*/schedstat) hardly depends on that, so the
//! ratio of that is printed beside the ratio of speed.
//!
//! The load generator shares the machine. Every byte of every reply is compared with what it must be.

mod load;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{origin, processor};
use load::{Load, Verb};
use servers::{Place, Promise, Server};

const CONNECTIONS: usize = 50;
const DEPTHS: [usize; 3] = [1, 16, 64];
const WARM_UP: Duration = Duration::from_millis(150);

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds; the table shows their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 600, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..))]
    milliseconds: u64,
    /// Only servers whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Only this depth of pipelining
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Also run `etcdctl check perf --load=xl`, a minute
    #[arg(long)]
    etcd: bool,
    /// Data of the servers; a new directory below it is made and removed
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
}

struct Cell {
    server: usize,
    verb: Verb,
    depth: usize,
    operations_per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let origin = origin::origin();
    let directory = tempfile::Builder::new()
        .prefix("bark-bench-resp-")
        .tempdir_in(&arguments.directory)?;
    // Beside this program: `scripts/bench` builds both.
    let bark_node = std::env::current_exe()?.with_file_name("bark-node");
    ensure!(bark_node.exists(), "{}: not built", bark_node.display());
    let place = Place {
        directory: directory.path().to_owned(),
        bark_node,
    };
    let servers = start(&place, &arguments.only)?;
    for server in &servers {
        load::fill(&server.addresses, server.dialect).with_context(|| format!("filling {}", server.name))?;
    }
    let mut cells = cells(&servers, arguments.depth);
    let mut foreign_cores = Vec::new();
    for round in 0..arguments.rounds {
        for index in origin::shuffled(cells.len(), u64::from(round)) {
            let cell = &mut cells[index];
            let server = &servers[cell.server];
            let foreign = measure(server, cell, arguments.milliseconds, u64::from(round))
                .with_context(|| format!("{} {}", server.name, cell.verb.name()))?;
            foreign_cores.push(foreign);
        }
    }
    let etcd = if arguments.etcd { Some(etcd(&place)?) } else { None };
    let foreign = origin::median(foreign_cores);
    origin::print(&origin);
    println!(
        "{CONNECTIONS} connections, {} keys of 16 B, values of {} B, medians of {} shuffled rounds of {} ms a cell; \
         client on the same machine; others used {foreign:.2} cores (median)",
        load::KEYS,
        load::VALUE_BYTES,
        arguments.rounds,
        arguments.milliseconds
    );
    for server in &servers {
        println!("  {:20} {}", server.name, server.setting);
    }
    let rows = print_table(&servers, cells);
    if let Some(line) = &etcd {
        println!("\netcd, `etcdctl check perf --load=xl`, one node: {line}");
    }
    if let Some(path) = &arguments.json {
        let table = json!({
            "benchmark": "resp", "origin": origin, "rounds": arguments.rounds, "foreign_cores": foreign,
            "settings": servers.iter().map(|server| (server.name, &server.setting)).collect::<Vec<_>>(),
            "rows": rows, "etcd_check_perf": etcd,
        });
        std::fs::write(path, format!("{table:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn start(place: &Place, only: &str) -> anyhow::Result<Vec<Server>> {
    type Start = (&'static str, fn(&Place, &'static str) -> anyhow::Result<Server>);
    let starts: [Start; 6] = [
        ("redis", |place, name| place.redis(name, Promise::Memory)),
        ("memcached", |place, _| place.memcached()),
        ("bark none", |place, name| place.bark(name, Promise::Memory)),
        ("redis always", |place, name| place.redis(name, Promise::Disk)),
        ("bark disk", |place, name| place.bark(name, Promise::Disk)),
        ("bark 3 nodes", |place, name| place.bark(name, Promise::Quorum)),
    ];
    let wanted = starts.iter().filter(|(name, _)| name.contains(only));
    wanted.map(|(name, start)| start(place, name)).collect()
}

fn cells(servers: &[Server], depth: Option<usize>) -> Vec<Cell> {
    let mut cells = Vec::new();
    for verb in [Verb::Get, Verb::Set] {
        for depth in DEPTHS
            .into_iter()
            .filter(|one| depth.is_none_or(|only| only == *one))
        {
            for server in 0..servers.len() {
                cells.push(Cell {
                    server,
                    verb,
                    depth,
                    operations_per_second: Vec::new(),
                    cpu_us: Vec::new(),
                    p50_us: Vec::new(),
                    p99_us: Vec::new(),
                });
            }
        }
    }
    cells
}

/// Adds one measurement to the cell; the processors that neither this process nor the server used.
fn measure(server: &Server, cell: &mut Cell, milliseconds: u64, seed: u64) -> anyhow::Result<f64> {
    let addresses: &[SocketAddr] = &server.addresses;
    let mut load = Load::new(
        addresses,
        server.dialect,
        cell.verb,
        CONNECTIONS,
        cell.depth,
        seed,
    )?;
    load.run(WARM_UP, false)?;
    let server_used = || processor::used_nanoseconds(server.process_ids());
    let own_used = || processor::used_nanoseconds([std::process::id()].into_iter());
    let before = (
        server_used(),
        own_used(),
        processor::busy_nanoseconds(),
        Instant::now(),
    );
    let seen = load.run(Duration::from_millis(milliseconds), true)?;
    let server_cpu = server_used() - before.0;
    let elsewhere =
        processor::busy_nanoseconds().saturating_sub(before.2 + server_cpu + (own_used() - before.1));
    let operations = seen.operations.max(1) as f64;
    cell.operations_per_second
        .push(operations / seen.elapsed.as_secs_f64());
    cell.cpu_us.push(server_cpu as f64 / 1000.0 / operations);
    let percentile = |percent: usize| {
        let position =
            (seen.latencies_us.len() * percent / 100).min(seen.latencies_us.len().saturating_sub(1));
        seen.latencies_us.get(position).copied().map_or(0.0, f64::from)
    };
    cell.p50_us.push(percentile(50));
    cell.p99_us.push(percentile(99));
    Ok(elsewhere as f64 / before.3.elapsed().as_nanos() as f64)
}

/// Each row beside Redis with the same promise; three nodes beside one Redis that syncs.
fn print_table(servers: &[Server], cells: Vec<Cell>) -> Vec<Value> {
    struct Row {
        server: usize,
        verb: Verb,
        depth: usize,
        speed: f64,
        cpu: f64,
        p50: f64,
        p99: f64,
    }
    let rows: Vec<Row> = cells
        .into_iter()
        .map(|cell| Row {
            server: cell.server,
            verb: cell.verb,
            depth: cell.depth,
            speed: origin::median(cell.operations_per_second),
            cpu: origin::median(cell.cpu_us),
            p50: origin::median(cell.p50_us),
            p99: origin::median(cell.p99_us),
        })
        .collect();
    println!(
        "\n{:4} {:>4} {:14} {:>11} {:>9} {:>9} {:>10} {:>10}  compared with",
        "verb", "P", "server", "ops/s", "p50 us", "p99 us", "CPU us/op", "x ops/s"
    );
    let mut out = Vec::new();
    for row in &rows {
        let server = &servers[row.server];
        let peer_name = match server.promise {
            Promise::Memory => "redis",
            Promise::Disk | Promise::Quorum => "redis always",
        };
        let peer = rows.iter().find(|other| {
            servers[other.server].name == peer_name && (other.verb, other.depth) == (row.verb, row.depth)
        });
        let ratios = peer.map(|peer| (row.speed / peer.speed, row.cpu / peer.cpu));
        print!(
            "{:4} {:>4} {:14} {:>11.0} {:>9.0} {:>9.0} {:>10.3}",
            row.verb.name(),
            row.depth,
            server.name,
            row.speed,
            row.p50,
            row.p99,
            row.cpu
        );
        match ratios {
            Some((speed, cpu)) if server.name != peer_name => {
                println!(" {speed:>10.2}  {peer_name} (CPU/op x {cpu:.2})");
            }
            _ => println!(),
        }
        out.push(json!({
            "verb": row.verb.name(), "pipeline": row.depth, "server": server.name,
            "operations_per_second": row.speed, "p50_us": row.p50, "p99_us": row.p99,
            "cpu_us_per_operation": row.cpu, "peer": peer_name,
            "speed_ratio": ratios.map(|it| it.0), "cpu_ratio": ratios.map(|it| it.1),
        }));
    }
    out
}

/// What etcd's own load generator says; it stops at 15,000 writes/s.
fn etcd(place: &Place) -> anyhow::Result<String> {
    let (server, endpoint) = place.etcd()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let control = |words: &[&str]| {
        Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoint}"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("etcdctl")
    };
    while !control(&["endpoint", "health"])?.status.success() {
        ensure!(Instant::now() < deadline, "etcd did not start");
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = processor::used_nanoseconds(server.process_ids());
    let report = control(&["check", "perf", "--load=xl"])?;
    let cpu = processor::used_nanoseconds(server.process_ids()) - before;
    let text =
        String::from_utf8_lossy(&report.stdout).into_owned() + &String::from_utf8_lossy(&report.stderr);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("hroughput") || line.contains("lowest"))
        .map(str::trim)
        .collect();
    Ok(format!("{}; {:.1} s of CPU", lines.join("; "), cpu as f64 / 1e9))
}
