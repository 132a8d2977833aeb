//! Commands on several keys. Reads ask each partition at once; changes of several partitions are one
//! transaction; keys of one partition are one log entry.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::ids::PartitionId;
use bark_schema::operation::{Command, Condition, Expiry, Namespace, Query};
use bytes::Bytes;

use super::{Action, Merge, Planned, Render, Session, wrong_argument_count};
use crate::protocol::resp::reply::Answer;

/// Keys by the partition they live in, with their places among the arguments.
type Parts = BTreeMap<PartitionId, (Vec<Bytes>, Vec<usize>)>;

fn by_partition(session: &Session, keys: &[Bytes]) -> Result<Parts, Answer> {
    let mut parts = Parts::new();
    for (position, key) in keys.iter().enumerate() {
        let (keys, positions) = parts.entry(session.cluster.partition_of(key)?).or_default();
        keys.push(key.clone());
        positions.push(position);
    }
    Ok(parts)
}

pub fn get(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let mut queries = Vec::new();
    let mut places = Vec::new();
    for (partition, (keys, positions)) in by_partition(session, &arguments[1..])? {
        queries.push((partition, Query::KeyGetMany { keys }));
        places.push(positions);
    }
    Ok(Action::Parts {
        queries,
        merge: Merge::Values(places),
    })
}

pub fn exists(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let parts = by_partition(session, &arguments[1..])?;
    let queries = parts
        .into_iter()
        .map(|(partition, (keys, _))| (partition, Query::KeyExists { keys }));
    Ok(Action::Parts {
        queries: queries.collect(),
        merge: Merge::Sum,
    })
}

pub fn delete(session: &mut Session, arguments: &[Bytes]) -> Planned {
    // Once each: a key named twice is deleted, and counted, once.
    let keys: BTreeSet<&Bytes> = arguments[1..].iter().collect();
    let mut placed = Vec::with_capacity(keys.len());
    for key in keys {
        placed.push((session.cluster.partition_of(key)?, key.clone()));
    }
    let Some((partition, _)) = placed.first().cloned() else {
        return Err(wrong_argument_count("del"));
    };
    let render = Render::Count;
    if placed.iter().all(|(other, _)| *other == partition) {
        let keys = placed.into_iter().map(|(_, key)| key).collect();
        let command = Command::KeyDelete {
            keys,
            condition: Condition::Always,
        };
        return Ok(Action::Change {
            partition,
            command,
            render,
        });
    }
    Ok(Action::Namespace {
        operation: Namespace::KeyDeleteMany {
            partition,
            keys: placed,
        },
        render,
    })
}

pub fn set(session: &mut Session, arguments: &[Bytes]) -> Planned {
    if arguments.len().is_multiple_of(2) {
        return Err(wrong_argument_count("mset"));
    }
    // The last value of a key named twice counts.
    let pairs: BTreeMap<&Bytes, &Bytes> = arguments[1..]
        .chunks_exact(2)
        .map(|pair| (&pair[0], &pair[1]))
        .collect();
    let mut placed = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        session.cluster.check_value_size(value.len())?;
        placed.push((session.cluster.partition_of(key)?, key.clone(), value.clone()));
    }
    let Some((partition, key, value)) = placed.first().cloned() else {
        return Err(wrong_argument_count("mset"));
    };
    let render = Render::Done;
    if placed.len() == 1 {
        let (expiry, condition) = (Expiry::Never, Condition::Always);
        let command = Command::KeySet {
            key,
            value,
            expiry,
            condition,
            return_previous: false,
        };
        return Ok(Action::Change {
            partition,
            command,
            render,
        });
    }
    Ok(Action::Namespace {
        operation: Namespace::KeySetMany {
            partition,
            pairs: placed,
        },
        render,
    })
}
