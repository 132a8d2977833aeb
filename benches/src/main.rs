//! One binary with every benchmark: `cargo run --release -p bark-benches -- NAME [--json FILE]`.
//!
//! Design. A benchmark is a module with an `Arguments` struct and `run`, a line in [`Benchmark`], and a line in
//! [`NAMES`]. It prints where it ran before what it measured, because a number without its machine is a rumour.

mod cluster;
mod files;
mod growth;
mod origin;
mod pipeline;
mod processor;
mod queue;
mod resp;

use clap::{Parser, Subcommand};

/// What `list` prints: name and one sentence.
const NAMES: &[(&str, &str)] = &[
    (
        "queue",
        "hand-off between threads: ns per item and push-to-take latency",
    ),
    (
        "pipeline",
        "keys without sockets: queues and one owner beside shared maps, and a worker's whole turn",
    ),
    (
        "resp",
        "keys over sockets: one node and three beside Redis, memcached and etcd",
    ),
    (
        "files",
        "files on the mount of three nodes beside the local disk and libfuse's pass-through example",
    ),
    (
        "growth",
        "a partition of 1 k to 1 M files: memory, time of one operation, snapshots; a file of 1 TiB; the block store",
    ),
];

#[derive(Parser)]
#[command(
    name = "bark-benches",
    version,
    about = "Benchmarks of BarkFS beside the peers they name"
)]
struct CommandLine {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Name the benchmarks
    List,
    /// Hand-off between threads: ns per item and push-to-take latency
    Queue(queue::Arguments),
    /// Keys without sockets: queues and one owner beside shared maps, and a worker's whole turn
    Pipeline(pipeline::Arguments),
    /// Keys over sockets: one node and three beside Redis, memcached and etcd
    Resp(resp::Arguments),
    /// Files on the mount of three nodes beside the local disk and libfuse's pass-through example
    Files(files::Arguments),
    /// One process of `files`
    #[command(hide = true)]
    FilesWorker(files::WorkerArguments),
    /// A partition of 1 k to 1 M files: memory, time of one operation, snapshots; a file of 1 TiB; the block store
    Growth(growth::Arguments),
}

fn main() -> anyhow::Result<()> {
    match CommandLine::parse().benchmark {
        Benchmark::List => {
            for (name, sentence) in NAMES {
                println!("{name:10} {sentence}");
            }
            Ok(())
        }
        Benchmark::Queue(arguments) => queue::run(&arguments),
        Benchmark::Pipeline(arguments) => pipeline::run(&arguments),
        Benchmark::Resp(arguments) => resp::run(&arguments),
        Benchmark::Files(arguments) => files::run(&arguments),
        Benchmark::FilesWorker(arguments) => files::run_worker(&arguments),
        Benchmark::Growth(arguments) => growth::run(&arguments),
    }
}
