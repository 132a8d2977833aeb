//! Keys and values: each operation is one request to the partition of its key, or one to each partition.
//!
//! Invariants:
//! - A change of one key is one command at one partition; of several keys, one atomic operation.
//! - A page of a scan is in byte order over all partitions and skips nothing.

use std::collections::BTreeMap;

use bark_schema::ids::PartitionId;
use bark_schema::limits::{KEY_SIZE_MAX, MIB, PAGE_ENTRIES_MAX, VALUE_SIZE_MAX};
use bark_schema::operation::{Command, Condition, Expiry, KeyValue, Namespace, Query, Refusal, Reply};
use bytes::Bytes;
use futures::future::try_join_all;

use crate::{Client, Error};

/// Values above this are sent when the leader was found.
const LEADER_FIRST_SIZE: usize = MIB;

/// How a key is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetOptions {
    pub expiry: Expiry,
    pub condition: Condition,
    pub return_previous: bool,
}

impl Default for SetOptions {
    /// Whatever was there before is replaced and the new value does not expire.
    fn default() -> SetOptions {
        SetOptions {
            expiry: Expiry::Never,
            condition: Condition::Always,
            return_previous: false,
        }
    }
}

/// What became of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOutcome {
    /// False when the condition did not hold.
    pub applied: bool,
    pub version: u64,
    pub previous: Option<Bytes>,
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    pub keys: Vec<Bytes>,
    /// Go on after the last key.
    pub more: bool,
}

/// The key-value face of a cluster.
///
/// ```no_run
/// # async fn example(client: bark_client::Client) -> Result<(), bark_client::Error> {
/// let keys = client.keys();
/// keys.put(b"user:1", "Ada").await?;
/// assert_eq!(keys.get(b"user:1").await?.map(|found| found.value), Some("Ada".into()));
/// assert_eq!(keys.delete(&["user:1".into()]).await?, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Keys {
    client: Client,
}

impl Keys {
    pub(crate) fn new(client: Client) -> Keys {
        Keys { client }
    }

    /// The value with its version and expiry; none if the key is not there.
    pub async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, Error> {
        let query = Query::KeyGet { key: checked(key)? };
        match self.query(key, query).await? {
            Reply::Value(value) => Ok(value),
            other => Err(Error::protocol(shown(key), &other)),
        }
    }

    /// Sets a key, whatever was there.
    pub async fn put(&self, key: &[u8], value: impl Into<Bytes>) -> Result<SetOutcome, Error> {
        self.set(key, value, SetOptions::default()).await
    }

    /// Sets a key on a condition, with an expiry.
    pub async fn set(
        &self,
        key: &[u8],
        value: impl Into<Bytes>,
        options: SetOptions,
    ) -> Result<SetOutcome, Error> {
        let value = value.into();
        self.check_size(key, value.len())?;
        if value.len() > LEADER_FIRST_SIZE {
            // Who leads is worth a question: a node that does not would be sent all of it for nothing.
            let partition = self.client.partition_of_key(key);
            let _ = self.client.partition_status(partition).await;
        }
        let command = Command::KeySet {
            key: checked(key)?,
            value,
            expiry: options.expiry,
            condition: options.condition,
            return_previous: options.return_previous,
        };
        match self.command(key, command).await? {
            Reply::Set {
                applied,
                version,
                previous,
            } => Ok(SetOutcome {
                applied,
                version,
                previous,
            }),
            other => Err(Error::protocol(shown(key), &other)),
        }
    }

    /// Largest value the cluster takes, in bytes.
    pub fn value_size_max(&self) -> usize {
        match self.client.welcome().value_size_max {
            0 => VALUE_SIZE_MAX,
            said => (said as usize).min(VALUE_SIZE_MAX),
        }
    }

    /// Refused here, before it is sent: a node would end the connection on it.
    fn check_size(&self, key: &[u8], size_bytes: usize) -> Result<(), Error> {
        let size_max = self.value_size_max();
        match size_bytes <= size_max {
            true => Ok(()),
            false => Err(Error::Refused {
                subject: shown(key),
                refusal: Refusal::FileTooLarge,
                sentence: format!("{size_bytes} bytes, a value has at most {size_max}"),
            }),
        }
    }

    /// Removes keys, all or none, and says how many were there.
    pub async fn delete(&self, keys: &[Bytes]) -> Result<u64, Error> {
        let Some(first) = keys.first() else {
            return Ok(0);
        };
        let subject = shown(first);
        let placed = self.placed(keys)?;
        let partition = self.client.partition_of_key(first);
        let result = match placed.iter().all(|(home, _)| *home == partition) {
            true => {
                let command = Command::KeyDelete {
                    keys: keys.to_vec(),
                    condition: Condition::Always,
                };
                self.client.command(partition, command).await
            }
            false => {
                let keys = placed;
                let operation = Namespace::KeyDeleteMany { partition, keys };
                self.client.namespace(operation).await
            }
        };
        match result {
            Ok(Reply::Count(count)) => Ok(count),
            Ok(other) => Err(Error::protocol(subject, &other)),
            Err(failure) => Err(Error::new(subject, failure)),
        }
    }

    /// Sets several keys, all or none.
    pub async fn set_many(&self, pairs: Vec<(Bytes, Bytes)>) -> Result<(), Error> {
        let Some((first, _)) = pairs.first() else {
            return Ok(());
        };
        let subject = shown(first);
        let partition = self.client.partition_of_key(first);
        let pairs = pairs
            .into_iter()
            .map(|(key, value)| {
                checked(&key)?;
                Ok((self.client.partition_of_key(&key), key, value))
            })
            .collect::<Result<_, Error>>()?;
        let operation = Namespace::KeySetMany { partition, pairs };
        match self.client.namespace(operation).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Error::new(subject, failure)),
        }
    }

    /// Adds to a decimal number, 0 if the key is not there, and answers the sum.
    pub async fn increment(&self, key: &[u8], by: i64) -> Result<i64, Error> {
        let command = Command::KeyIncrement {
            key: checked(key)?,
            by,
        };
        match self.command(key, command).await? {
            Reply::Number(number) => Ok(number),
            other => Err(Error::protocol(shown(key), &other)),
        }
    }

    /// How many of the keys are there; one given twice counts twice.
    pub async fn exists(&self, keys: &[Bytes]) -> Result<u64, Error> {
        let counts = self.by_partition(keys)?.into_iter().map(|(partition, places)| {
            let keys: Vec<Bytes> = places.iter().map(|place| keys[*place].clone()).collect();
            async move {
                let subject = shown(&keys[0]);
                match self.client.query(partition, Query::KeyExists { keys }).await {
                    Ok(Reply::Count(count)) => Ok(count),
                    Ok(other) => Err(Error::protocol(subject, &other)),
                    Err(failure) => Err(Error::new(subject, failure)),
                }
            }
        });
        Ok(try_join_all(counts).await?.into_iter().sum())
    }

    /// The values in the order of the keys. Atomic within each partition.
    pub async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Error> {
        let asked = self.by_partition(keys)?.into_iter().map(|(partition, places)| {
            let keys: Vec<Bytes> = places.iter().map(|place| keys[*place].clone()).collect();
            async move {
                let subject = shown(&keys[0]);
                match self.client.query(partition, Query::KeyGetMany { keys }).await {
                    Ok(Reply::Values(values)) if values.len() == places.len() => Ok((places, values)),
                    Ok(other) => Err(Error::protocol(subject, &other)),
                    Err(failure) => Err(Error::new(subject, failure)),
                }
            }
        });
        let mut found = vec![None; keys.len()];
        for (places, values) in try_join_all(asked).await? {
            for (place, value) in places.into_iter().zip(values) {
                found[place] = value;
            }
        }
        Ok(found)
    }

    /// Up to `limit` keys after `after` that start with `prefix`, in byte order, from all partitions.
    pub async fn scan(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<KeyPage, Error> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let pages = self.client.router().partitions().map(|partition| {
            let query = Query::KeyScan {
                after: Bytes::copy_from_slice(after),
                prefix: Bytes::copy_from_slice(prefix),
                limit,
            };
            async move {
                match self.client.query(partition, query).await {
                    Ok(Reply::Keys { keys, more }) => Ok(KeyPage { keys, more }),
                    Ok(other) => Err(Error::protocol(partition.to_string(), &other)),
                    Err(failure) => Err(Error::new(partition.to_string(), failure)),
                }
            }
        });
        Ok(merge(try_join_all(pages).await?, limit as usize))
    }

    /// How many keys there are.
    pub async fn count(&self) -> Result<u64, Error> {
        let counts = self.client.router().partitions().map(|partition| async move {
            match self.client.query(partition, Query::KeyCount).await {
                Ok(Reply::Count(count)) => Ok(count),
                Ok(other) => Err(Error::protocol(partition.to_string(), &other)),
                Err(failure) => Err(Error::new(partition.to_string(), failure)),
            }
        });
        Ok(try_join_all(counts).await?.into_iter().sum())
    }

    async fn query(&self, key: &[u8], query: Query) -> Result<Reply, Error> {
        let result = self.client.query(self.client.partition_of_key(key), query).await;
        result.map_err(|failure| Error::new(shown(key), failure))
    }

    async fn command(&self, key: &[u8], command: Command) -> Result<Reply, Error> {
        let result = self
            .client
            .command(self.client.partition_of_key(key), command)
            .await;
        result.map_err(|failure| Error::new(shown(key), failure))
    }

    fn placed(&self, keys: &[Bytes]) -> Result<Vec<(PartitionId, Bytes)>, Error> {
        keys.iter()
            .map(|key| Ok((self.client.partition_of_key(key), checked(key)?)))
            .collect()
    }

    /// Positions in `keys`, by partition.
    fn by_partition(&self, keys: &[Bytes]) -> Result<BTreeMap<PartitionId, Vec<usize>>, Error> {
        let mut places: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            checked(key)?;
            let partition = self.client.partition_of_key(key);
            places.entry(partition).or_default().push(place);
        }
        Ok(places)
    }
}

/// One page out of one from each partition. Beyond the end of a page that was cut nothing is known of its
/// partition, so the merged page ends there at the latest.
fn merge(pages: Vec<KeyPage>, limit: usize) -> KeyPage {
    let horizon = pages
        .iter()
        .filter(|page| page.more)
        .filter_map(|page| page.keys.last().cloned())
        .min();
    let mut more = pages.iter().any(|page| page.more && !page.keys.is_empty());
    let mut keys: Vec<Bytes> = pages.into_iter().flat_map(|page| page.keys).collect();
    keys.sort_unstable();
    if let Some(horizon) = horizon {
        keys.retain(|key| *key <= horizon);
    }
    if keys.len() > limit {
        keys.truncate(limit);
        more = true;
    }
    KeyPage { keys, more }
}

fn checked(key: &[u8]) -> Result<Bytes, Error> {
    match key.len() > KEY_SIZE_MAX {
        true => Err(Error::refused(shown(key), Refusal::NameTooLong)),
        false => Ok(Bytes::copy_from_slice(key)),
    }
}

/// A key for people: at most its first 64 bytes.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[..key.len().min(64)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&'static str], more: bool) -> KeyPage {
        KeyPage {
            keys: keys
                .iter()
                .map(|key| Bytes::from_static(key.as_bytes()))
                .collect(),
            more,
        }
    }

    #[test]
    fn merged_page_ends_where_a_partition_was_cut() {
        // Goal: a scan skips nothing. Method: one partition cut early, one complete, several limits.
        let pages = || vec![page(&["a", "d"], true), page(&["b", "c", "e", "f"], false)];
        assert_eq!(merge(pages(), 10), page(&["a", "b", "c", "d"], true));
        assert_eq!(merge(pages(), 2), page(&["a", "b"], true));
        assert_eq!(
            merge(vec![page(&["a"], false), page(&[], false)], 10),
            page(&["a"], false)
        );
    }
}
