//! The queues on real threads and real memory: short, bounded runs that loom's small models cannot replace.
#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;

use bark_queue::{Full, SleepFlag, mpsc, notify, spsc};

/// Enough to wrap every ring thousands of times and still end within a second on a busy machine.
const ITEMS_COUNT: u64 = 100_000;

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
        let mut values = (0..ITEMS_COUNT).map(Box::new);
        while let Some(value) = values.next() {
            push_patiently(value, |value| producer.push(value));
            producer.push_batch(&mut values.by_ref().take(7));
        }
    });
    let mut expected = 0;
    while expected < ITEMS_COUNT {
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
    // Goal: recycling under contention neither loses nor doubles. Method: eight producers through a small queue.
    let (first, mut consumer) = mpsc::channel(32, 8);
    let writers: Vec<_> = (0..8)
        .map(|index| {
            let mut producer = first.clone();
            thread::spawn(move || {
                for value in 0..ITEMS_COUNT / 8 {
                    push_patiently((index, Box::new(value)), |value| producer.push(value).map(|_| ()));
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
    assert_eq!(expected, [ITEMS_COUNT / 8; 8]);
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn mpsc_holds_its_capacity_although_others_cache_nodes() {
    // Goal: the promise of channel(). Method: three producers cache a magazine each, the fourth fills the queue.
    let (mut first, mut consumer) = mpsc::channel(5, 4);
    let mut others = [first.clone(), first.clone(), first.clone()];
    for producer in &mut others {
        assert!(producer.push(0).is_ok());
    }
    while consumer.try_take().is_some() {}
    let mut pushed = 0;
    while first.push(1).is_ok() {
        pushed += 1;
    }
    assert!(pushed >= 5, "{pushed}");
    assert_eq!(std::iter::from_fn(|| consumer.try_take()).count(), pushed);
}

#[test]
fn mpsc_says_when_the_queue_was_empty() {
    // Goal: was_empty is exact while the consumer rests. Method: push, push, take all, push.
    let (mut producer, mut consumer) = mpsc::channel(4, 1);
    assert!(producer.push(1).unwrap().was_empty);
    assert!(!producer.push(2).unwrap().was_empty);
    assert_eq!(
        (consumer.try_take(), consumer.try_take(), consumer.try_take()),
        (Some(1), Some(2), None)
    );
    assert!(producer.push(3).unwrap().was_empty);
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
                for value in 0..ITEMS_COUNT / 4 {
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
    assert_eq!(reader.join().unwrap(), [ITEMS_COUNT / 4; 4]);
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
