//! Models of the queues: loom runs each one under every interleaving (up to a number of preemptions) and every value
//! that the memory model lets a load return.
//!
//! Run: `RUSTFLAGS="--cfg loom" cargo test -p bark-queue --test loom --release`
//!
//! Values are `Arc`s of loom, which fail the model when one leaks. A lost wake-up shows as a deadlock.
#![cfg(loom)]

use bark_queue::{SleepFlag, mpsc, notify, spsc};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// 3: a bound on time (seconds, not hours), not a proof: nobody has yet seeded mistakes to see which bound finds them.
fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// What a sleeper blocks on: like a park token or an eventfd, it remembers a wake that comes first.
#[derive(Default)]
struct WakeToken {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl WakeToken {
    fn wake(&self) {
        *self.is_set.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn block(&self) {
        let mut is_set = self.is_set.lock().unwrap();
        while !*is_set {
            is_set = self.changed.wait(is_set).unwrap();
        }
        *is_set = false;
    }
}

#[test]
fn spsc_hands_over_in_order_across_the_wrap() {
    // Goal: no loss, no reorder, no race on a slot that is used again. Method: 3 values through 2 slots.
    check(|| {
        let (mut producer, mut consumer) = spsc::channel(2);
        let writer = thread::spawn(move || {
            for value in 0..3 {
                let mut value = Arc::new(value);
                while let Err(full) = producer.push(value) {
                    value = full.0;
                    thread::yield_now();
                }
            }
        });
        for expected in 0..3 {
            let value = loop {
                match consumer.try_take() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*value, expected);
        }
        writer.join().unwrap();
    });
}

#[test]
fn spsc_batch_appears_whole_and_leftovers_are_dropped() {
    // Goal: publish() makes a batch visible at once; what nobody takes is dropped. Method: drain once at any moment.
    check(|| {
        let (mut producer, mut consumer) = spsc::channel(4);
        let writer = thread::spawn(move || {
            for value in 0..2 {
                producer.push_unpublished(Arc::new(value)).unwrap();
            }
            producer.publish();
            producer.push_unpublished(Arc::new(2)).unwrap();
        });
        let taken: Vec<i32> = consumer.drain(4).map(|value| *value).collect();
        assert!([&[][..], &[0, 1], &[0, 1, 2]].contains(&&taken[..]), "{taken:?}");
        drop(consumer);
        writer.join().unwrap();
    });
}

#[test]
fn spsc_closed_means_that_the_last_value_is_visible() {
    // Goal: closed, then empty, is the end. Method: look at closed first, then take, while the producer leaves.
    check(|| {
        let (mut producer, mut consumer) = spsc::channel(2);
        let writer = thread::spawn(move || {
            producer.push_unpublished(Arc::new(())).unwrap();
        });
        if consumer.is_closed() {
            assert!(consumer.try_take().is_some());
        }
        writer.join().unwrap();
    });
}

#[test]
fn mpsc_delivers_each_value_once_and_in_order_per_producer() {
    // Goal: nothing is lost, doubled or reordered. Method: two producers push while the consumer takes.
    check(|| {
        let (mut first, mut consumer) = mpsc::channel(4, 2);
        let mut second = first.clone();
        let first_writer = thread::spawn(move || {
            first.push(Arc::new(10)).unwrap();
            first.push(Arc::new(11)).unwrap();
        });
        let second_writer = thread::spawn(move || {
            second.push(Arc::new(20)).unwrap();
        });
        let mut taken = Vec::new();
        taken.extend(consumer.try_take().map(|value| *value));
        first_writer.join().unwrap();
        second_writer.join().unwrap();
        assert!(consumer.is_closed());
        taken.extend(std::iter::from_fn(|| consumer.try_take()).map(|value| *value));
        let of_first: Vec<i32> = taken.iter().copied().filter(|value| *value < 20).collect();
        assert_eq!(of_first, [10, 11]);
        assert_eq!(taken.len(), 3);
    });
}

#[test]
fn mpsc_ring_goes_from_a_dropped_producer_to_the_next_in_order() {
    // Goal: a ring leased again is written on where it ended, while the consumer reads it. Method: two rings; one
    // producer pushes and leaves, another thread clones, which gets that ring, and pushes.
    check(|| {
        let (first, mut consumer) = mpsc::channel(2, 2);
        let mut second = first.clone();
        let leaver = thread::spawn(move || {
            second.push(Arc::new(1)).unwrap();
            drop(second);
            let mut third = first.clone();
            third.push(Arc::new(2)).unwrap();
        });
        let mut taken = Vec::new();
        taken.extend(consumer.try_take().map(|value| *value));
        leaver.join().unwrap();
        assert!(consumer.is_closed());
        consumer.drain(8, |value| taken.push(*value));
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn mpsc_with_a_sleep_flag_leaves_no_sleeper_with_a_value() {
    // Goal: push, then ask the flag, never loses a wake-up. Method: the consumer blocks when it finds nothing; loom
    // reports a deadlock if a wake is missing.
    check(|| {
        let (mut first, mut consumer) = mpsc::channel(2, 2);
        let mut second = first.clone();
        let flag = SleepFlag::new();
        let token = Arc::new(WakeToken::default());
        let push = |producer: &mut mpsc::Producer<u32>, flag: &SleepFlag, token: &WakeToken| {
            producer.push(1).unwrap();
            if flag.must_wake() {
                token.wake();
            }
        };
        let (writer_flag, writer_token) = (flag.clone(), Arc::clone(&token));
        let writer = thread::spawn(move || push(&mut second, &writer_flag, &writer_token));
        let (other_flag, other_token) = (flag.clone(), Arc::clone(&token));
        let other = thread::spawn(move || push(&mut first, &other_flag, &other_token));
        let mut taken = 0;
        while taken < 2 {
            if consumer.try_take().is_some() {
                taken += 1;
                continue;
            }
            flag.prepare_sleep();
            if consumer.is_empty() {
                token.block();
            }
            flag.cancel_sleep();
        }
        writer.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn sleep_flag_never_loses_a_wake_and_elects_one_waker() {
    // Goal: the sleeper sees the work or is woken, by one writer. Method: two writers, one sleeper that blocks once.
    check(|| {
        let flag = SleepFlag::new();
        let token = Arc::new(WakeToken::default());
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (flag, token) = (flag.clone(), Arc::clone(&token));
                let (mut work, ring) = spsc::channel(1);
                let writer = thread::spawn(move || {
                    work.push(1).unwrap();
                    let must_wake = flag.must_wake();
                    if must_wake {
                        token.wake();
                    }
                    must_wake
                });
                (ring, writer)
            })
            .collect();
        flag.prepare_sleep();
        if writers.iter().all(|(ring, _)| ring.is_empty()) {
            token.block();
            assert!(writers.iter().any(|(ring, _)| !ring.is_empty()));
        }
        flag.cancel_sleep();
        let wakes = writers
            .into_iter()
            .filter_map(|(_, writer)| writer.join().unwrap().then_some(()))
            .count();
        assert!(wakes <= 1);
    });
}

/// Runs a consumer that sleeps whenever the mesh is empty against `batches` published by each of `producers_count`.
fn check_mesh(producers_count: usize, batches: &'static [usize], drain_max: usize) {
    check(move || {
        let flag = SleepFlag::new();
        let token = Arc::new(WakeToken::default());
        let (producers, mut consumer) = notify::mesh(producers_count, 4, &flag);
        let writers: Vec<_> = producers
            .into_iter()
            .map(|mut producer| {
                let token = Arc::clone(&token);
                thread::spawn(move || {
                    let mut next = 0;
                    for batch in batches {
                        for _ in 0..*batch {
                            producer.push(Arc::new(next)).unwrap();
                            next += 1;
                        }
                        if producer.publish() {
                            token.wake();
                        }
                    }
                })
            })
            .collect();
        let mut expected = vec![0; producers_count];
        let total = producers_count * batches.iter().sum::<usize>();
        let mut taken = 0;
        while taken < total {
            let count = consumer.drain(drain_max, |index, value| {
                assert_eq!(*value, expected[index]);
                expected[index] += 1;
            });
            taken += count;
            if count > 0 {
                continue;
            }
            flag.prepare_sleep();
            if consumer.is_empty() {
                token.block();
            }
            flag.cancel_sleep();
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn mesh_of_two_delivers_everything_to_a_consumer_that_sleeps() {
    // Goal: no publish is missed, whichever producer sets its bit when. Method: one item each, sleep on empty.
    check_mesh(2, &[1], 8);
}

#[test]
fn mesh_may_skip_the_bit_that_is_still_set() {
    // Goal: the second publish of a producer may find its bit set and do nothing. Method: two batches, sleep on empty.
    check_mesh(1, &[1, 1], 8);
}

#[test]
fn mesh_bounded_drain_remembers_what_it_left() {
    // Goal: a ring that was not emptied is looked at again without its bit. Method: batches of two, one item a drain.
    check_mesh(1, &[2, 1], 1);
}
