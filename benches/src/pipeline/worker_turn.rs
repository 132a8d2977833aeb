//! The turn of a real worker, without sockets and without a log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bark_core::partition::{Partition, SnapshotConfig, Start};
use bark_core::random::Random;
use bark_core::time::Now;
use bark_core::worker::gateway::{CompletionSink, FoundKey, KeyAsker, KeySink};
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{Failure, Reply};
use bark_schema::placement;

use super::{Case, Draw, KEYS, key};

const PARTITIONS: u16 = 16;

/// Counts answers; copies a value as a connection would.
#[derive(Default)]
struct Answers {
    count: Cell<u64>,
    last: RefCell<Vec<u8>>,
}

impl CompletionSink for Answers {
    fn complete(&self, _token: u64, result: Result<Reply, Failure>) {
        // Only until the leader's first entry is applied.
        assert!(result.is_ok(), "{result:?}");
        self.count.set(self.count.get() + 1);
    }
}

impl KeySink for Answers {
    fn found(&self, _token: u64, found: Option<FoundKey<'_>>) {
        let mut last = self.last.borrow_mut();
        last.clear();
        last.extend_from_slice(found.map_or(&[], |found| &found.value[..]));
        self.count.set(self.count.get() + 1);
    }

    fn stored(&self, _token: u64) {
        self.count.set(self.count.get() + 1);
    }
}

/// A worker that leads all partitions, with every key in it.
struct Bench {
    worker: Worker,
    answers: Rc<Answers>,
    now: Now,
    asked: u64,
}

impl Bench {
    fn new() -> anyhow::Result<Bench> {
        let node = NodeNumber(1);
        let now = Now {
            monotonic_us: 0,
            unix_ns: 1_700_000_000_000_000_000,
        };
        let config = WorkerConfig {
            cluster: "bench".to_string(),
            node,
            worker: 0,
            worker_count: 1,
            partition_count: PARTITIONS,
            replicas: 1,
            durability: Durability::None,
            nodes: Arc::default(),
            placement: Arc::new(vec![vec![node]; usize::from(PARTITIONS)]),
            ring: Arc::default(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: SnapshotConfig::default(),
        };
        let open = |id| {
            let start = Start::new(PartitionId(id), PARTITIONS, vec![node]);
            let random = Random::new(u64::from(id));
            Partition::open(
                PartitionId(id),
                node,
                start,
                SnapshotConfig::default(),
                random,
                now,
            )
        };
        let partitions: Result<Vec<_>, _> = (0..PARTITIONS).map(open).collect();
        let mut bench = Bench {
            worker: Worker::new(config, partitions?, now, Random::new(1)),
            answers: Rc::default(),
            now,
            asked: 0,
        };
        (0..10).for_each(|_| bench.turn());
        for first in (0..KEYS).step_by(1000) {
            (first..first + 1000).for_each(|number| bench.ask(number, true));
            bench.turn();
        }
        Ok(bench)
    }

    fn ask(&mut self, number: u64, is_set: bool) {
        let key = key(number);
        let partition = placement::partition_of_key(&key, PARTITIONS);
        let asker = KeyAsker {
            sink: self.answers.clone(),
            token: self.asked,
        };
        let value = is_set.then_some(&[7; 64][..]);
        self.worker.gateway().submit_key(partition, &key, value, asker);
        self.asked += 1;
    }

    fn turn(&mut self) {
        self.now.monotonic_us += 100;
        self.now.unix_ns += 100_000;
        self.worker.turn(self.now, &mut Vec::new(), &mut Vec::new());
    }

    fn rate(&mut self, count: u64, batch_size: u64, wanted: fn(bool) -> bool) -> f64 {
        let mut draw = Draw::new(3);
        let start = Instant::now();
        for _ in 0..count.div_ceil(batch_size) {
            for _ in 0..batch_size {
                let (number, is_set) = draw.next();
                self.ask(number, wanted(is_set));
            }
            self.turn();
        }
        while self.answers.count.get() < self.asked {
            self.turn();
        }
        (count.div_ceil(batch_size) * batch_size) as f64 / start.elapsed().as_secs_f64()
    }
}

pub fn cases() -> Vec<Case> {
    let Ok(bench) = Bench::new() else {
        unreachable!("a partition in memory opens");
    };
    let bench = Rc::new(RefCell::new(bench));
    type Wanted = fn(bool) -> bool;
    let cases: [(&'static str, u64, Wanted); 5] = [
        ("worker turn, 64 commands, half SET", 64, |is_set| is_set),
        ("worker turn, 800 commands, half SET", 800, |is_set| is_set),
        ("worker turn, 800 GET", 800, |_| false),
        ("worker turn, 800 SET", 800, |_| true),
        ("worker turn, 3200 commands, half SET", 3200, |is_set| is_set),
    ];
    let make = |(name, batch_size, wanted): (&'static str, u64, Wanted)| {
        let bench = Rc::clone(&bench);
        Case {
            name,
            run: Box::new(move |count| bench.borrow_mut().rate(count, batch_size, wanted)),
        }
    };
    cases.into_iter().map(make).collect()
}
