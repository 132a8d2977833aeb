//! One owner behind the node's queues, and maps that two threads share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Instant;

use bark_queue::{SleepFlag, notify, spsc};
use foldhash::fast::FixedState;

use super::{Case, Draw, KEYS, Key, Value, key};

pub const MUTEX: &str = "2 threads, Mutex<HashMap>";
pub const SHARDED: &str = "2 threads, 512 shards of RwLock<HashMap>";
pub const DASHMAP: &str = "2 threads, dashmap";

const SHARDS: usize = 512;
/// Batches on their way between generator and owner.
const BATCHES: usize = 16;

type Map = HashMap<Key, Value, FixedState>;

fn filled() -> Map {
    let mut map = Map::with_capacity_and_hasher(KEYS as usize, FixedState::default());
    map.extend((0..KEYS).map(|number| (key(number), [0; 64])));
    map
}

struct Command {
    key: Key,
    is_set: bool,
    /// Written by a SET; a GET's answer is copied here.
    value: Value,
}

fn carry_out(map: &mut Map, command: &mut Command) {
    match map.get_mut(&command.key) {
        Some(value) if command.is_set => *value = command.value,
        Some(value) => command.value = *value,
        None => unreachable!("every key is there"),
    }
}

pub fn cases() -> Vec<Case> {
    let mut owned = filled();
    let mut cases = vec![Case {
        name: "1 thread, HashMap",
        run: Box::new(move |count| {
            rate(count, || {
                let mut draw = Draw::new(1);
                for _ in 0..count {
                    carry_out(&mut owned, &mut command(&mut draw));
                }
            })
        }),
    }];
    // One map for all batch sizes: it is handed to the owner's thread and back.
    let shared_map = Arc::new(Mutex::new(filled()));
    for (batch_size, name) in [
        (1, "owner, spsc + notify, batch 1"),
        (16, "owner, spsc + notify, batch 16"),
        (64, "owner, spsc + notify, batch 64"),
        (256, "owner, spsc + notify, batch 256"),
    ] {
        let map = Arc::clone(&shared_map);
        cases.push(Case {
            name,
            run: Box::new(move |count| owner(&map, count, batch_size)),
        });
    }
    let mutex = Mutex::new(filled());
    cases.push(shared(MUTEX, move |command| {
        let mut map = mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        carry_out(&mut map, command);
    }));
    let shards: Vec<RwLock<Map>> = (0..SHARDS).map(|_| RwLock::new(Map::default())).collect();
    for number in 0..KEYS {
        if let Ok(mut map) = shards[shard(&key(number))].write() {
            map.insert(key(number), [0; 64]);
        }
    }
    cases.push(shared(SHARDED, move |command| {
        let lock = &shards[shard(&command.key)];
        if command.is_set {
            let mut map = lock.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            carry_out(&mut map, command);
        } else {
            let map = lock.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            command.value = map[&command.key];
        }
    }));
    let map = dashmap::DashMap::with_capacity_and_hasher(KEYS as usize, FixedState::default());
    (0..KEYS).for_each(|number| {
        map.insert(key(number), [0; 64]);
    });
    cases.push(shared(DASHMAP, move |command| {
        if command.is_set {
            map.insert(command.key, command.value);
        } else if let Some(value) = map.get(&command.key) {
            command.value = *value;
        }
    }));
    cases
}

/// Not the maps' own hash: that one places within the shard.
fn shard(key: &Key) -> usize {
    let (low, high) = (
        u64::from_le_bytes(key[..8].try_into().unwrap_or_default()),
        &key[8..],
    );
    let word = low ^ u64::from_le_bytes(high.try_into().unwrap_or_default()).rotate_left(29);
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize % SHARDS
}

fn command(draw: &mut Draw) -> Command {
    let (number, is_set) = draw.next();
    Command {
        key: key(number),
        is_set,
        value: [number as u8; 64],
    }
}

fn rate(count: u64, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    count as f64 / start.elapsed().as_secs_f64()
}

/// Both threads do half of the commands.
fn shared(name: &'static str, carry_out: impl Fn(&mut Command) + Send + Sync + 'static) -> Case {
    let carry_out = Arc::new(carry_out);
    let half = move |count: u64, seed: u64| {
        let mut draw = Draw::new(seed);
        for _ in 0..count / 2 {
            carry_out(&mut command(&mut draw));
        }
    };
    Case {
        name,
        run: Box::new(move |count| {
            rate(count, || {
                thread::scope(|scope| {
                    scope.spawn(|| half(count, 1));
                    half(count, 2);
                });
            })
        }),
    }
}

fn owner(map: &Mutex<Map>, count: u64, batch_size: usize) -> f64 {
    let batches_total = count.div_ceil(batch_size as u64);
    let (mut to_owner, mut from_generator) = spsc::channel::<Vec<Command>>(BATCHES);
    let (mut producers, mut answers) = notify::mesh::<Vec<Command>>(1, BATCHES, &SleepFlag::new());
    let mut to_generator = producers.remove(0);
    rate(batches_total * batch_size as u64, || {
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut map = map.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let mut done = 0;
                while done < batches_total {
                    let before = done;
                    for mut batch in from_generator.drain(BATCHES) {
                        batch.iter_mut().for_each(|command| carry_out(&mut map, command));
                        assert!(to_generator.push(batch).is_ok(), "there are only so many batches");
                        done += 1;
                    }
                    assert!(!to_generator.publish(), "this generator never sleeps");
                    if done == before {
                        std::hint::spin_loop();
                    }
                }
            });
            let mut draw = Draw::new(1);
            let mut idle: Vec<Vec<Command>> = (0..BATCHES).map(|_| Vec::with_capacity(batch_size)).collect();
            let (mut sent, mut answered) = (0, 0);
            while answered < batches_total {
                while sent < batches_total
                    && let Some(mut batch) = idle.pop()
                {
                    batch.clear();
                    batch.extend((0..batch_size).map(|_| command(&mut draw)));
                    assert!(to_owner.push(batch).is_ok(), "there are only so many batches");
                    sent += 1;
                }
                if answers.drain(BATCHES, |_, batch| idle.push(batch)) == 0 {
                    std::hint::spin_loop();
                }
                answered = sent - (BATCHES - idle.len()) as u64;
            }
        });
    })
}
