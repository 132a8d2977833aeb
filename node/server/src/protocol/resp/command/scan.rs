//! Commands over all keys: SCAN, KEYS, DBSIZE, RANDOMKEY, FLUSHALL.
//!
//! Partitions list keys in byte order. A cursor is a decimal number: the partition in the upper bits and 48
//! bits of a hash of the last key returned, or 0 for the start of the partition; 0 alone ends the scan.
//! So any node can go on with any cursor, and nothing is kept for scans that are never finished. Each
//! connection remembers its newest cursors with their keys; one it does not know costs a walk through the
//! partition to the first key with that hash.
//!
//! A key that is there during the whole scan is returned at least once: a page goes on behind the
//! remembered key, or behind the first key with its hash, which is that key or one before it; when that key
//! is gone and forgotten the partition begins again. The price of beginning again is keys returned twice,
//! which Redis' own SCAN allows.
//!
//! Invariants:
//! - What a scan keeps is bounded: REMEMBERED_MAX keys a connection.

use bark_schema::ids::PartitionId;
use bark_schema::limits::PAGE_ENTRIES_MAX;
use bark_schema::operation::{Command, Condition, Failure, Query, Reply};
use bytes::Bytes;

use super::{Action, Cluster, Merge, Planned, Session, glob, integer, is};
use crate::protocol::resp::reply::{Answer, OK};

const HASH_BITS: u32 = 48;
/// Scans that one connection goes on with quickly at the same time.
const REMEMBERED_MAX: usize = 8;
/// Partitions one SCAN looks at before it answers, be it with nothing.
const PARTITIONS_PER_CALL_MAX: usize = 64;
/// Bytes of keys one KEYS may gather.
const KEYS_SIZE_MAX: usize = 256 << 20;
const COUNT_DEFAULT: u32 = 10;

/// Never 0: that is the partition's start. FNV-1a, then a finalizer, because its upper bits mix badly.
fn hash(key: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash >> (64 - HASH_BITS)).max(1)
}

fn cursor_at(partition: PartitionId, key: &[u8]) -> u64 {
    u64::from(partition.0) << HASH_BITS | hash(key)
}

struct Scan {
    count: usize,
    pattern: Bytes,
    /// Keys of another type than string were asked for: there are none.
    nothing: bool,
}

pub fn scan(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let cursor: Option<u64> = std::str::from_utf8(&arguments[1])
        .ok()
        .and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or_else(|| Answer::error("invalid cursor"))?;
    let mut scan = Scan {
        count: COUNT_DEFAULT as usize,
        pattern: Bytes::from_static(b"*"),
        nothing: false,
    };
    for option in arguments[2..].chunks(2) {
        let [name, value] = option else {
            return Err(Answer::syntax_error());
        };
        if is(name, "count") {
            let count = integer(value)?;
            if count < 1 {
                return Err(Answer::syntax_error());
            }
            scan.count = usize::try_from(count)
                .unwrap_or(usize::MAX)
                .min(PAGE_ENTRIES_MAX as usize);
        } else if is(name, "match") {
            scan.pattern = value.clone();
        } else if is(name, "type") {
            scan.nothing = !is(value, "string");
        } else {
            return Err(Answer::syntax_error());
        }
    }
    let cluster = session.cluster.clone();
    Ok(Action::task(async move {
        match page(&cluster, cursor, &scan).await {
            Ok((cursor, keys)) => {
                let keys = keys.into_iter().map(Answer::Bulk).collect();
                Answer::Array(vec![Answer::text(cursor.to_string()), Answer::Array(keys)])
            }
            Err(failure) => Answer::failure(&failure),
        }
    }))
}

/// One page: the cursor to go on with and the keys that match.
async fn page(cluster: &Cluster, cursor: u64, scan: &Scan) -> Result<(u64, Vec<Bytes>), Failure> {
    let mut found = Vec::new();
    let mut seen = 0;
    let Ok(first) = u16::try_from(cursor >> HASH_BITS) else {
        return Ok((0, found));
    };
    let last = cluster.partition_count();
    let prefix = Bytes::copy_from_slice(glob::literal_prefix(&scan.pattern));
    let mut after = resume(cluster, cursor, &prefix).await?;
    for (looked, number) in (first..last).enumerate() {
        let partition = PartitionId(number);
        if seen >= scan.count || looked >= PARTITIONS_PER_CALL_MAX {
            return Ok((u64::from(number) << HASH_BITS, found));
        }
        let limit = (scan.count - seen) as u32;
        let (keys, more) = list(cluster, partition, std::mem::take(&mut after), &prefix, limit).await?;
        seen += keys.len();
        let end = keys.last().cloned();
        found.extend(
            keys.into_iter()
                .filter(|key| !scan.nothing && glob::matches(&scan.pattern, key)),
        );
        if let (true, Some(end)) = (more, end) {
            let cursor = cursor_at(partition, &end);
            remember(cluster, cursor, end);
            return Ok((cursor, found));
        }
    }
    Ok((0, found))
}

/// The key behind which the cursor's partition goes on; empty for its start.
async fn resume(cluster: &Cluster, cursor: u64, prefix: &Bytes) -> Result<Bytes, Failure> {
    let wanted = cursor & ((1 << HASH_BITS) - 1);
    let partition = PartitionId((cursor >> HASH_BITS) as u16);
    if wanted == 0 || partition.0 >= cluster.partition_count() {
        return Ok(Bytes::new());
    }
    let remembered = cluster
        .cursors
        .borrow()
        .iter()
        .find(|(known, _)| *known == cursor)
        .map(|(_, key)| key.clone());
    if let Some(key) = remembered {
        return Ok(key);
    }
    let mut after = Bytes::new();
    loop {
        let (keys, more) = list(cluster, partition, after, prefix, PAGE_ENTRIES_MAX).await?;
        if let Some(key) = keys.iter().find(|key| hash(key) == wanted) {
            return Ok(key.clone());
        }
        match keys.last() {
            Some(last) if more => after = last.clone(),
            _ => return Ok(Bytes::new()),
        }
    }
}

fn remember(cluster: &Cluster, cursor: u64, key: Bytes) {
    let mut cursors = cluster.cursors.borrow_mut();
    cursors.retain(|(known, _)| *known != cursor);
    if cursors.len() >= REMEMBERED_MAX {
        cursors.pop_front();
    }
    cursors.push_back((cursor, key));
}

async fn list(
    cluster: &Cluster,
    partition: PartitionId,
    after: Bytes,
    prefix: &Bytes,
    limit: u32,
) -> Result<(Vec<Bytes>, bool), Failure> {
    match cluster
        .gateway
        .query(
            partition,
            Query::KeyScan {
                after,
                prefix: prefix.clone(),
                limit,
            },
        )
        .await?
    {
        Reply::Keys { keys, more } => Ok((keys, more)),
        _ => Err(Failure::Busy(
            "a partition gave an answer of another kind".to_string(),
        )),
    }
}

pub fn keys(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let (cluster, pattern) = (session.cluster.clone(), arguments[1].clone());
    let prefix = Bytes::copy_from_slice(glob::literal_prefix(&pattern));
    Ok(Action::task(async move {
        let (mut found, mut size) = (Vec::new(), 0);
        for partition in cluster.partitions() {
            let mut after = Bytes::new();
            loop {
                let page = list(&cluster, partition, after, &prefix, PAGE_ENTRIES_MAX).await;
                let (keys, more) = match page {
                    Ok(page) => page,
                    Err(failure) => return Answer::failure(&failure),
                };
                after = keys.last().cloned().unwrap_or_default();
                for key in keys.into_iter().filter(|key| glob::matches(&pattern, key)) {
                    size += key.len();
                    found.push(Answer::Bulk(key));
                }
                if size > KEYS_SIZE_MAX {
                    return Answer::error("too many keys match: use SCAN");
                }
                if !more {
                    break;
                }
            }
        }
        Answer::Array(found)
    }))
}

pub fn random_key(session: &mut Session, _: &[Bytes]) -> Planned {
    let cluster = session.cluster.clone();
    Ok(Action::task(async move {
        let count = cluster.partition_count();
        let start = (cluster.gateway.random() % u64::from(count.max(1))) as u16;
        for offset in 0..count {
            let partition = PartitionId(((u32::from(start) + u32::from(offset)) % u32::from(count)) as u16);
            match list(&cluster, partition, Bytes::new(), &Bytes::new(), PAGE_ENTRIES_MAX).await {
                Ok((keys, _)) if keys.is_empty() => {}
                Ok((mut keys, _)) => {
                    let index = cluster.gateway.random() % keys.len() as u64;
                    return Answer::Bulk(keys.swap_remove(index as usize));
                }
                Err(failure) => return Answer::failure(&failure),
            }
        }
        Answer::Null
    }))
}

pub fn database_size(session: &mut Session, _: &[Bytes]) -> Planned {
    let queries = session
        .cluster
        .partitions()
        .map(|partition| (partition, Query::KeyCount))
        .collect();
    Ok(Action::Parts {
        queries,
        merge: Merge::Sum,
    })
}

/// Page by page, so that no log entry is large. Keys set while it runs may stay.
pub fn flush(session: &mut Session, arguments: &[Bytes]) -> Planned {
    match &arguments[1..] {
        [] => {}
        [word] if is(word, "sync") || is(word, "async") => {}
        _ => return Err(Answer::syntax_error()),
    }
    let cluster = session.cluster.clone();
    Ok(Action::task(async move {
        for partition in cluster.partitions() {
            let mut after = Bytes::new();
            loop {
                let page = list(&cluster, partition, after, &Bytes::new(), PAGE_ENTRIES_MAX).await;
                let (keys, more) = match page {
                    Ok(page) => page,
                    Err(failure) => return Answer::failure(&failure),
                };
                let Some(last) = keys.last().cloned() else { break };
                after = last;
                let command = Command::KeyDelete {
                    keys,
                    condition: Condition::Always,
                };
                if let Err(failure) = cluster.change(partition, command).await {
                    return Answer::failure(&failure);
                }
                if !more {
                    break;
                }
            }
        }
        OK
    }))
}

/// Keys of all partitions, for INFO; None if some partition does not answer.
pub async fn key_count(cluster: &Cluster, deadline_us: u64) -> Option<u64> {
    let asked: Vec<_> = cluster
        .partitions()
        .map(|partition| {
            let request = bark_schema::operation::Request::Query {
                partition,
                query: Query::KeyCount,
            };
            cluster
                .gateway
                .call(request, bark_core::worker::gateway::Reach::Cluster, deadline_us)
        })
        .collect();
    let mut total = 0;
    for answer in asked {
        match answer.await {
            Ok(Reply::Count(count)) => total += count,
            _ => return None,
        }
    }
    Some(total)
}
