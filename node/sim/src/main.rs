//! `bark-sim`: plays seeds and tells which of them fail.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bark_sim::{Counts, Options, Report, run, run_twice};
use clap::Parser;

/// Plays whole clusters from seeds, each twice, and prints the seeds that fail.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// One seed.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// A range of seeds, A..B, B excluded.
    #[arg(long, value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Seeds played at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
    /// Play each seed once only, without comparing traces.
    #[arg(long)]
    once: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to {
        Ok((from, to))
    } else {
        Err("the range is empty".to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        trace: arguments.trace,
        ..Options::default()
    };
    let play = |seed| {
        if arguments.once || arguments.trace {
            run(seed, &options)
        } else {
            run_twice(seed, &options)
        }
    };
    if let Some(seed) = arguments.seed {
        let report = play(seed);
        println!("seed {seed}: {report:?}");
        return exit_code(report.failure.is_none());
    }
    // Panics inside a partition are caught and reported as the run's failure.
    std::panic::set_hook(Box::new(|_| {}));
    let (from, to) = arguments.seeds.unwrap_or((0, 1));
    let next = AtomicU64::new(from);
    let failed: Mutex<Vec<(u64, Report)>> = Mutex::default();
    let started = Instant::now();
    let (events, operations) = (AtomicU64::new(0), AtomicU64::new(0));
    let counts: Mutex<Counts> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let report = play(seed);
                    events.fetch_add(report.events, Ordering::Relaxed);
                    operations.fetch_add(report.operations, Ordering::Relaxed);
                    if let Ok(mut counts) = counts.lock() {
                        *counts = *counts + report.counts;
                    }
                    if let Some(reason) = &report.failure {
                        println!("seed {seed} failed: {reason}\n  {}", report.shape);
                        if let Ok(mut failed) = failed.lock() {
                            failed.push((seed, report));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    println!(
        "{} seeds, {} failed, {} events, {} key operations, {:.1} s",
        to - from,
        failed.len(),
        events.load(Ordering::Relaxed),
        operations.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64()
    );
    println!("{:?}", counts.into_inner().unwrap_or_default());
    exit_code(failed.is_empty())
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
