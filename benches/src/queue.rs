//! What a hand-off between threads costs: our queues beside crossbeam-channel, std's mpsc and rtrb.
//!
//! Design. Two measurements per queue and number of producers, both with a consumer that polls all the time on
//! a core of its own:
//! - drain: all producers push as fast as there is room; elapsed time divided by items taken.
//! - push to take: one item in flight; producers take turns of [`TURN_ITEMS`] (the others are parked), so that the
//!   number is the queue's and not the backlog's. What one reading of the clock costs is subtracted. Items that took
//!   more than [`PREEMPTED_NANOSECONDS`] waited for a core, not for the queue; they are counted apart.
//!
//! Rounds are interleaved, every queue once a round, so that a noisy minute hits all; the table shows medians.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use bark_queue::{SleepFlag, mpsc, notify, spsc};
use core_affinity::CoreId;
use serde_json::json;

use crate::origin;

const CAPACITY: usize = 1024;
const TURN_ITEMS: u64 = 64;
/// What a producer that batches pushes before it publishes: a modest worker's turn.
const BATCH_ITEMS: usize = 16;
/// 50 us: hundreds of transfers of a cache line, and less than a time slice.
const PREEMPTED_NANOSECONDS: u64 = 50_000;
/// Polls without success before the core is offered to another thread: producers may outnumber cores.
const SPINS_MAX: u32 = 64;
/// The same with one item in flight, when nobody else wants the core: 64 would measure the scheduler.
const SPINS_MAX_LATENCY: u32 = 100_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds; the table shows their medians
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Items per measurement of throughput
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    items: u64,
}

trait Push: Send {
    fn push(&mut self, value: u64) -> bool;
    fn publish(&mut self) {}
}

trait Take {
    fn take(&mut self, each: &mut dyn FnMut(u64)) -> usize;
}

impl Push for spsc::Producer<u64> {
    fn push(&mut self, value: u64) -> bool {
        spsc::Producer::push(self, value).is_ok()
    }
}

impl Take for spsc::Consumer<u64> {
    fn take(&mut self, each: &mut dyn FnMut(u64)) -> usize {
        self.drain(CAPACITY).map(each).count()
    }
}

/// Publishes once in `BATCH_ITEMS`.
struct SpscBatch(spsc::Producer<u64>);

impl Push for SpscBatch {
    fn push(&mut self, value: u64) -> bool {
        let has_room = self.0.push_unpublished(value).is_ok();
        if !has_room || self.0.unpublished_len() >= BATCH_ITEMS {
            self.0.publish();
        }
        has_room
    }

    fn publish(&mut self) {
        self.0.publish();
    }
}

/// Publishes once in `batch_items`.
struct Mesh {
    producer: notify::Producer<u64>,
    unpublished: usize,
    batch_items: usize,
}

impl Push for Mesh {
    fn push(&mut self, value: u64) -> bool {
        let has_room = self.producer.push(value).is_ok();
        self.unpublished += usize::from(has_room);
        if !has_room || self.unpublished >= self.batch_items {
            self.publish();
        }
        has_room
    }

    fn publish(&mut self) {
        self.unpublished = 0;
        assert!(!self.producer.publish(), "this consumer never sleeps");
    }
}

impl Take for notify::Consumer<u64> {
    fn take(&mut self, each: &mut dyn FnMut(u64)) -> usize {
        self.drain(CAPACITY, |_, value| each(value))
    }
}

impl Take for mpsc::Consumer<u64> {
    fn take(&mut self, each: &mut dyn FnMut(u64)) -> usize {
        self.drain(CAPACITY, each)
    }
}

impl Push for mpsc::Producer<u64> {
    fn push(&mut self, value: u64) -> bool {
        mpsc::Producer::push(self, value).is_ok()
    }
}

impl Push for rtrb::Producer<u64> {
    fn push(&mut self, value: u64) -> bool {
        rtrb::Producer::push(self, value).is_ok()
    }
}

impl Push for crossbeam_channel::Sender<u64> {
    fn push(&mut self, value: u64) -> bool {
        self.try_send(value).is_ok()
    }
}

impl Push for std::sync::mpsc::Sender<u64> {
    fn push(&mut self, value: u64) -> bool {
        self.send(value).is_ok()
    }
}

/// Implements `Take` for a queue that gives one value at a time.
macro_rules! take_one_by_one {
    ($consumer:ty, $method:ident, $pattern:ident) => {
        impl Take for $consumer {
            fn take(&mut self, each: &mut dyn FnMut(u64)) -> usize {
                let mut count = 0;
                while count < CAPACITY {
                    let $pattern(value) = self.$method() else {
                        break;
                    };
                    each(value);
                    count += 1;
                }
                count
            }
        }
    };
}
take_one_by_one!(rtrb::Consumer<u64>, pop, Ok);
take_one_by_one!(crossbeam_channel::Receiver<u64>, try_recv, Ok);
take_one_by_one!(std::sync::mpsc::Receiver<u64>, try_recv, Ok);

type Ends = (Vec<Box<dyn Push>>, Box<dyn Take>);

/// A queue under test: name, most producers it takes, how to make one.
struct Subject(&'static str, usize, fn(usize) -> Ends);

fn single(producer: impl Push + 'static, consumer: impl Take + 'static) -> Ends {
    (vec![Box::new(producer)], Box::new(consumer))
}

fn cloned<P: Push + Clone + 'static>(count: usize, producer: P, consumer: impl Take + 'static) -> Ends {
    let producers = (0..count)
        .map(|_| Box::new(producer.clone()) as Box<dyn Push>)
        .collect();
    (producers, Box::new(consumer))
}

fn mesh(count: usize, batch_items: usize) -> Ends {
    let (producers, consumer) = notify::mesh(count, CAPACITY, &SleepFlag::new());
    let boxed = |producer| {
        Box::new(Mesh {
            producer,
            unpublished: 0,
            batch_items,
        }) as Box<dyn Push>
    };
    (producers.into_iter().map(boxed).collect(), Box::new(consumer))
}

const SUBJECTS: &[Subject] = &[
    Subject("bark spsc", 1, |_| {
        let (producer, consumer) = spsc::channel(CAPACITY);
        single(producer, consumer)
    }),
    Subject("bark spsc, batch 16", 1, |_| {
        let (producer, consumer) = spsc::channel(CAPACITY);
        single(SpscBatch(producer), consumer)
    }),
    Subject("rtrb", 1, |_| {
        let (producer, consumer) = rtrb::RingBuffer::new(CAPACITY);
        single(producer, consumer)
    }),
    Subject("bark notify mesh", 8, |count| mesh(count, 1)),
    Subject("bark notify mesh, batch 16", 8, |count| mesh(count, BATCH_ITEMS)),
    Subject("bark mpsc", 8, |count| {
        // One more: the handle that is cloned.
        let (producer, consumer) = mpsc::channel(CAPACITY, count + 1);
        cloned(count, producer, consumer)
    }),
    Subject("crossbeam bounded", 8, |count| {
        let (producer, consumer) = crossbeam_channel::bounded(CAPACITY);
        cloned(count, producer, consumer)
    }),
    Subject("crossbeam unbounded", 8, |count| {
        let (producer, consumer) = crossbeam_channel::unbounded();
        cloned(count, producer, consumer)
    }),
    Subject("std mpsc", 8, |count| {
        let (producer, consumer) = std::sync::mpsc::channel();
        cloned(count, producer, consumer)
    }),
];

/// Counts fruitless polls and yields when there were many in a row.
struct Patience {
    count: u32,
    spins_max: u32,
}

impl Patience {
    fn new(spins_max: u32) -> Patience {
        Patience { count: 0, spins_max }
    }

    fn wait(&mut self) {
        self.count += 1;
        if self.count.is_multiple_of(self.spins_max) {
            thread::yield_now()
        } else {
            std::hint::spin_loop()
        }
    }
}

/// The reader on one core, the writers on the others: on the same core an item waits for the scheduler, not the queue.
struct Cores(Vec<CoreId>);

impl Cores {
    /// To be asked for before the first pinning: a pinned thread, and those it starts, see one core only.
    fn of_this_process() -> Cores {
        Cores(core_affinity::get_core_ids().unwrap_or_default())
    }

    // A refusal leaves the thread where the system puts it, as does a machine of one core.
    fn pin_reader(&self) {
        if let [first, _, ..] = self.0[..] {
            core_affinity::set_for_current(first);
        }
    }

    fn pin_writer(&self, index: usize) {
        if let [_, others @ ..] = &self.0[..]
            && !others.is_empty()
        {
            core_affinity::set_for_current(others[index % others.len()]);
        }
    }
}

fn drain_nanoseconds(cores: &Cores, (producers, mut consumer): Ends, items: u64) -> f64 {
    let each_items = items.div_ceil(producers.len() as u64);
    let total = each_items * producers.len() as u64;
    let start = Instant::now();
    thread::scope(|scope| {
        for (index, mut producer) in producers.into_iter().enumerate() {
            scope.spawn(move || {
                cores.pin_writer(index);
                let mut patience = Patience::new(SPINS_MAX);
                for value in 0..each_items {
                    while !producer.push(value) {
                        patience.wait();
                    }
                }
                producer.publish();
            });
        }
        let (mut taken, mut sum) = (0, 0u64);
        let mut patience = Patience::new(SPINS_MAX);
        while taken < total {
            match consumer.take(&mut |value| sum = sum.wrapping_add(value)) {
                0 => patience.wait(),
                count => taken += count as u64,
            }
        }
        let expected = each_items * (each_items - 1) / 2 * (total / each_items);
        assert_eq!(sum, expected, "the queue lost or doubled a value");
    });
    start.elapsed().as_nanos() as f64 / total as f64
}

/// What reading the clock costs: the median of many readings in a row.
fn clock_nanoseconds() -> u64 {
    let mut costs: Vec<u64> = (0..1001)
        .map(|_| {
            let first = Instant::now();
            for _ in 0..16 {
                std::hint::black_box(Instant::now());
            }
            first.elapsed().as_nanos() as u64 / 17
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

/// Sorted push-to-take times in nanoseconds, the clock's own included.
fn push_to_take_nanoseconds(cores: &Cores, (producers, mut consumer): Ends, turns_count: u64) -> Vec<u64> {
    let start = Instant::now();
    let taken = AtomicU64::new(0);
    let producers_count = producers.len() as u64;
    let mut samples = Vec::with_capacity((turns_count * TURN_ITEMS) as usize);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, mut producer) in (0u64..).zip(producers) {
            let taken = &taken;
            let writer = scope.spawn(move || {
                cores.pin_writer(index as usize);
                for turn in (index..turns_count).step_by(producers_count as usize) {
                    while taken.load(Ordering::Acquire) < turn * TURN_ITEMS {
                        thread::park();
                    }
                    for item in turn * TURN_ITEMS..(turn + 1) * TURN_ITEMS {
                        let mut patience = Patience::new(SPINS_MAX_LATENCY);
                        while taken.load(Ordering::Acquire) < item {
                            patience.wait();
                        }
                        producer.push(start.elapsed().as_nanos() as u64);
                        producer.publish();
                    }
                }
            });
            threads.push(writer.thread().clone());
        }
        let mut patience = Patience::new(SPINS_MAX_LATENCY);
        while samples.len() < samples.capacity() {
            if consumer.take(&mut |pushed| samples.push(start.elapsed().as_nanos() as u64 - pushed)) == 0 {
                patience.wait();
                continue;
            }
            let count = samples.len() as u64;
            taken.store(count, Ordering::Release);
            if count.is_multiple_of(TURN_ITEMS) {
                threads[(count / TURN_ITEMS % producers_count) as usize].unpark();
            }
        }
    });
    samples.sort_unstable();
    samples
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let origin = origin::origin();
    let cores = Cores::of_this_process();
    cores.pin_reader();
    let cells: Vec<(&Subject, usize)> = [1, 2, 4, 8]
        .into_iter()
        .flat_map(|count| {
            SUBJECTS
                .iter()
                .filter(move |subject| count <= subject.1)
                .map(move |subject| (subject, count))
        })
        .collect();
    let clock = clock_nanoseconds();
    let mut measured = vec![[const { Vec::new() }; 4]; cells.len()];
    for _ in 0..arguments.rounds {
        for ((Subject(_, _, make), count), columns) in cells.iter().zip(&mut measured) {
            columns[0].push(drain_nanoseconds(&cores, make(*count), arguments.items));
            let samples = push_to_take_nanoseconds(&cores, make(*count), 64);
            let kept = samples.partition_point(|sample| *sample <= PREEMPTED_NANOSECONDS);
            let percentile = |percent: usize| {
                samples
                    .get(kept * percent / 100)
                    .map_or(f64::NAN, |sample| sample.saturating_sub(clock) as f64)
            };
            columns[1].push(percentile(50));
            columns[2].push(percentile(99));
            columns[3].push((samples.len() - kept) as f64 * 100.0 / samples.len() as f64);
        }
    }
    origin::print(&origin);
    println!(
        "items of 8 bytes, capacity {CAPACITY}, medians of {} interleaved rounds of {} items; {clock} ns of clock \
         subtracted\n",
        arguments.rounds, arguments.items
    );
    println!(
        "{:28} {:>9} {:>9} {:>8} {:>8} {:>8} {:>12}",
        "queue", "producers", "drain ns", "lowest", "p50 ns", "p99 ns", "preempted %"
    );
    let mut rows = Vec::new();
    for ((Subject(name, _, _), count), columns) in cells.iter().zip(measured) {
        let lowest = columns[0].iter().copied().fold(f64::INFINITY, f64::min);
        let [drain, p50, p99, preempted] = columns.map(origin::median);
        println!("{name:28} {count:>9} {drain:>9.1} {lowest:>8.1} {p50:>8.0} {p99:>8.0} {preempted:>12.1}");
        rows.push(json!({
            "queue": name, "producers": count, "drain_ns": drain, "drain_ns_lowest": lowest,
            "p50_ns": p50, "p99_ns": p99, "preempted_percent": preempted,
        }));
    }
    if let Some(path) = &arguments.json {
        let table = json!({"benchmark": "queue", "origin": origin, "rounds": arguments.rounds, "rows": rows});
        std::fs::write(path, format!("{table:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
