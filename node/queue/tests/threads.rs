//! The queues on real threads and real memory: short, bounded runs that loom's small models cannot replace.
#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;

use bark_queue::{Full, SleepFlag, mpsc, notify, spsc};

/// Enough to wrap every ring thousands of times and still end within a second on a busy machine. Fewer where each
/// instruction is interpreted: scripts/nightly runs these under valgrind.
fn items_count() -> u64 {
    let wanted = std::env::var("BARK_QUEUE_TEST_ITEMS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

/// Pushes until there is room.
fn push_patiently<T>(mut value: T, mut push: impl FnMut(T) -> Result<(), Full<T>>) {
    while let Err(full) = push(value) {
        value = full.0;
        thread::yield_now();
    }
}

#[test]
fn spsc_keeps_order_one_by_one_and_in_batches() {
    // Goal: every value arrives once and in order. Method: the writer alternates pushes and batches, the reader takes and drains.
    let (mut producer, mut consumer) = spsc::channel::<Box<u64>>(64);
    let writer = thread::spawn(move || {
        let mut values = (0..items_count()).map(Box::new);
        while let Some(value) = values.next() {
            push_patiently(value, |value| producer.push(value));
            producer.push_batch(&mut values.by_ref().take(7));
        }
    });
    let mut expected = 0;
    while expected < items_count() {
        if let Some(value) = consumer.try_take() {
            assert_eq!(*value, expected);
            expected += 1;
        }
        for value in consumer.drain(5) {
            assert_eq!(*value, expected);
            expected += 1;
        }
    }
    writer.join().unwrap();
    assert!(consumer.is_closed() && consumer.is_empty());
}

#[test]
fn spsc_hands_the_value_back_when_full() {
    // Goal: the bound holds and nothing is swallowed. Method: fill to the rounded capacity, push once more, make room.
    let (mut producer, mut consumer) = spsc::channel(3);
    assert_eq!(producer.capacity(), 4);
    assert_eq!(producer.push_batch(&mut (0..9)), 4);
    assert_eq!(producer.push(99), Err(Full(99)));
    assert_eq!(producer.free(), 0);
    assert_eq!(consumer.drain(2).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(producer.push(99), Ok(()));
    assert_eq!((producer.len(), consumer.len()), (3, 3));
}

#[test]
fn spsc_drain_leaves_what_was_not_drawn() {
    // Goal: an early end of the loop loses nothing. Method: draw one of three, then take.
    let (mut producer, mut consumer) = spsc::channel(4);
    producer.push_batch(&mut (0..3));
    assert_eq!(consumer.drain(3).next(), Some(0));
    assert_eq!(consumer.try_take(), Some(1));
}

#[test]
fn queues_drop_what_nobody_took_exactly_once() {
    // Goal: no leak, no double drop, also after a forgotten drain. Method: count the handles to one Arc.
    let witness = Arc::new(());
    let (mut producer, mut consumer) = spsc::channel(8);
    for _ in 0..5 {
        assert!(producer.push_unpublished(Arc::clone(&witness)).is_ok());
    }
    producer.publish();
    let mut drain = consumer.drain(2);
    drop(drain.next());
    std::mem::forget(drain);
    assert!(!producer.is_closed());
    drop(consumer);
    assert!(producer.is_closed());
    drop(producer);
    assert_eq!(Arc::strong_count(&witness), 1);

    let (mut producer, mut consumer) = mpsc::channel(100, 1);
    for _ in 0..50 {
        assert!(producer.push(Arc::clone(&witness)).is_ok());
    }
    drop(consumer.try_take());
    assert!(producer.push(Arc::clone(&witness)).is_ok());
    drop(consumer);
    assert!(producer.is_closed());
    drop(producer);
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[test]
fn mpsc_keeps_the_order_of_each_of_eight_producers() {
    // Goal: contention neither loses nor doubles. Method: eight producers through small rings, and the first handle.
    let (first, mut consumer) = mpsc::channel(32, 9);
    let writers: Vec<_> = (0..8)
        .map(|index| {
            let mut producer = first.clone();
            thread::spawn(move || {
                for value in 0..items_count() / 8 {
                    push_patiently((index, Box::new(value)), |value| producer.push(value));
                }
            })
        })
        .collect();
    drop(first);
    let mut expected = [0; 8];
    loop {
        let is_closed = consumer.is_closed();
        match consumer.try_take() {
            Some((index, value)) => {
                assert_eq!(*value, expected[index]);
                expected[index] += 1;
            }
            None if is_closed => break,
            None => thread::yield_now(),
        }
    }
    assert_eq!(expected, [items_count() / 8; 8]);
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn mpsc_holds_its_capacity_for_each_producer() {
    // Goal: the promise of channel(). Method: one producer fills its ring, the other still finds its own room.
    let (mut first, mut consumer) = mpsc::channel(4, 2);
    let mut second = first.clone();
    for value in 0..4 {
        assert_eq!(first.push(value), Ok(()));
    }
    assert_eq!(first.push(9), Err(Full(9)));
    for value in 10..14 {
        assert_eq!(second.push(value), Ok(()));
    }
    let mut taken = Vec::new();
    assert_eq!(consumer.drain(100, |value| taken.push(value)), 8);
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3, 10, 11, 12, 13]);
    assert!(consumer.is_empty());
}

#[test]
fn mpsc_handles_may_come_and_go_more_often_than_there_are_rings() {
    // Goal: a ring is leased again, with what was left in it. Method: clone, push, drop, many times.
    let (first, mut consumer) = mpsc::channel(8, 3);
    let mut taken = Vec::new();
    for value in 0..100 {
        let mut producer = first.clone();
        producer.push(value).unwrap();
        drop(producer);
        if value % 7 == 0 {
            taken.extend(std::iter::from_fn(|| consumer.try_take()));
        }
    }
    drop(first);
    assert!(consumer.is_closed());
    taken.extend(std::iter::from_fn(|| consumer.try_take()));
    assert_eq!(taken, (0..100).collect::<Vec<_>>());
}

#[test]
fn mpsc_drain_is_bounded_and_goes_round() {
    // Goal: a bound does not starve the others. Method: two full rings, drained two at a time.
    let (mut first, mut consumer) = mpsc::channel(4, 2);
    let mut second = first.clone();
    for _ in 0..4 {
        first.push('a').unwrap();
        second.push('b').unwrap();
    }
    let mut order = String::new();
    while consumer.drain(2, |value| order.push(value)) > 0 {}
    assert!(order == "aabbaabb" || order == "bbaabbaa", "{order}");
}

#[test]
fn mesh_wakes_a_parked_consumer_and_loses_nothing() {
    // Goal: park and flag together neither hang nor lose. Method: four producers publish batches, the consumer parks on empty.
    let flag = SleepFlag::new();
    let (producers, mut consumer) = notify::mesh(4, 64, &flag);
    let reader = thread::spawn(move || {
        let mut expected = [0; 4];
        loop {
            let is_closed = consumer.is_closed();
            let count = consumer.drain(100, |index, value| {
                assert_eq!(value, expected[index]);
                expected[index] += 1;
            });
            if count > 0 {
                continue;
            }
            if is_closed {
                return expected;
            }
            flag.prepare_sleep();
            if consumer.is_empty() && !consumer.is_closed() {
                thread::park();
            }
            flag.cancel_sleep();
        }
    });
    let writers: Vec<_> = producers
        .into_iter()
        .map(|mut producer| {
            let reader = reader.thread().clone();
            thread::spawn(move || {
                for value in 0..items_count() / 4 {
                    push_patiently(value, |value| {
                        let result = producer.push(value);
                        if (value % 13 == 0 || result.is_err()) && producer.publish() {
                            reader.unpark();
                        }
                        result
                    });
                }
                if producer.publish() {
                    reader.unpark();
                }
                drop(producer);
                reader.unpark();
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(reader.join().unwrap(), [items_count() / 4; 4]);
}

#[test]
fn mesh_drain_is_bounded_and_fair() {
    // Goal: a bound does not starve the later rings. Method: three full rings, drained two at a time.
    let flag = SleepFlag::new();
    let (mut producers, mut consumer) = notify::mesh(3, 4, &flag);
    for producer in &mut producers {
        for value in 0..4 {
            producer.push(value).unwrap();
        }
        assert!(!producer.publish(), "nobody sleeps");
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        assert_eq!(consumer.drain(2, |index, _| order.push(index)), 2);
    }
    assert_eq!(order, [0, 0, 1, 1, 2, 2]);
    assert!(!consumer.is_empty());
    assert_eq!(consumer.drain(usize::MAX, |_, _| ()), 6);
    assert!(consumer.is_empty());
}

#[test]
fn mesh_publish_asks_for_one_wake_per_sleep() {
    // Goal: a batch of many producers wakes once. Method: two publishes to a sleeping consumer, then none new.
    let flag = SleepFlag::new();
    let (mut producers, mut consumer) = notify::mesh(2, 4, &flag);
    flag.prepare_sleep();
    assert!(consumer.is_empty());
    producers[0].push(1).unwrap();
    assert!(producers[0].publish());
    assert!(!producers[0].publish(), "nothing new");
    producers[1].push(2).unwrap();
    assert!(!producers[1].publish(), "already woken");
    flag.cancel_sleep();
    assert_eq!(consumer.drain(8, |_, _| ()), 2);
}
