//! Keys in the hands of a client.

use std::collections::BTreeMap;
use std::rc::Rc;

use bark_schema::codec;
use bark_schema::generated::client_capnp::key_value;
use bark_schema::ids::PartitionId;
use bark_schema::limits::{KEY_SIZE_MAX, PAGE_ENTRIES_MAX};
use bark_schema::operation::{Command, Condition, Expiry, Failure, Namespace, Query, Reply};
use bark_schema::placement;
use bytes::Bytes;
use capnp::data_list;
use futures::future::try_join_all;

use super::authority::{Authority, Held, exception, invalid, unexpected};

/// Keys in one call.
const KEYS_MAX: u32 = 4096;
/// What a key or a small value may take in an answer.
const ITEM_SIZE_BYTES: usize = 256;

pub struct KeyValue {
    authority: Authority,
    _held: Held,
}

impl KeyValue {
    pub fn new(authority: Authority) -> capnp::Result<KeyValue> {
        let held = authority.connection.hold().map_err(exception)?;
        Ok(KeyValue {
            authority,
            _held: held,
        })
    }

    fn partition_of(&self, key: &[u8]) -> PartitionId {
        placement::partition_of_key(key, self.authority.gateway().config().partition_count)
    }

    fn check_value(&self, value: &[u8]) -> capnp::Result<()> {
        let settings = &self.authority.connection.context.settings;
        settings.check_value(value.len()).map_err(exception)
    }

    /// Keys by the partition they live in, each with its place in the list asked.
    fn by_partition(&self, keys: &[Bytes]) -> BTreeMap<PartitionId, Vec<(usize, Bytes)>> {
        let mut by_partition: BTreeMap<PartitionId, Vec<(usize, Bytes)>> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            by_partition
                .entry(self.partition_of(key))
                .or_default()
                .push((place, key.clone()));
        }
        by_partition
    }

    async fn count(&self, keys: &[Bytes]) -> Result<u64, Failure> {
        let asked = self.by_partition(keys).into_iter().map(|(partition, keys)| {
            let keys = keys.into_iter().map(|(_, key)| key).collect();
            self.authority.query(partition, Query::KeyExists { keys })
        });
        let mut total = 0;
        for reply in try_join_all(asked).await? {
            match reply {
                Reply::Count(count) => total += count,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(total)
    }

    async fn delete_keys(&self, keys: &[Bytes]) -> Result<u64, Failure> {
        let mut by_partition = self.by_partition(keys);
        let first = match by_partition.pop_first() {
            None => return Ok(0),
            Some(first) => first,
        };
        let reply = if by_partition.is_empty() {
            let (partition, keys) = first;
            let keys = keys.into_iter().map(|(_, key)| key).collect();
            self.authority
                .command(
                    partition,
                    Command::KeyDelete {
                        keys,
                        condition: Condition::Always,
                    },
                )
                .await?
        } else {
            let keys: Vec<_> = keys
                .iter()
                .map(|key| (self.partition_of(key), key.clone()))
                .collect();
            let partition = keys[0].0;
            self.authority
                .namespace(Namespace::KeyDeleteMany { partition, keys })
                .await?
        };
        match reply {
            Reply::Count(count) => Ok(count),
            other => Err(unexpected(&other)),
        }
    }

    async fn values(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, Failure> {
        let asked = self
            .by_partition(keys)
            .into_iter()
            .map(async |(partition, keys)| {
                let (places, keys): (Vec<usize>, Vec<Bytes>) = keys.into_iter().unzip();
                match self
                    .authority
                    .query(partition, Query::KeyGetMany { keys })
                    .await?
                {
                    Reply::Values(values) if values.len() == places.len() => Ok((places, values)),
                    other => Err(unexpected(&other)),
                }
            });
        let mut all = vec![None; keys.len()];
        for (places, values) in try_join_all(asked).await? {
            for (place, value) in places.into_iter().zip(values) {
                all[place] = value;
            }
        }
        Ok(all)
    }

    /// One page in byte order, put together from a page of every partition.
    async fn scan_page(
        &self,
        prefix: Bytes,
        after: Bytes,
        limit: u32,
    ) -> Result<(Vec<Bytes>, bool), Failure> {
        let count = self.authority.gateway().config().partition_count;
        let asked = (0..count).map(|partition| {
            let query = Query::KeyScan {
                after: after.clone(),
                prefix: prefix.clone(),
                limit,
            };
            self.authority.query(PartitionId(partition), query)
        });
        let mut all = Vec::new();
        let mut more_anywhere = false;
        // Beyond the last key of a page that was cut, that partition has keys not seen here.
        let mut complete_up_to: Option<Bytes> = None;
        for reply in try_join_all(asked).await? {
            let Reply::Keys { keys, more } = reply else {
                return Err(unexpected(&reply));
            };
            if more && let Some(last) = keys.last() {
                more_anywhere = true;
                let known = complete_up_to.get_or_insert_with(|| last.clone());
                if last < known {
                    *known = last.clone();
                }
            }
            all.extend(keys);
        }
        all.sort_unstable();
        if let Some(last) = complete_up_to {
            all.retain(|key| *key <= last);
        }
        let limit = limit as usize;
        let more = more_anywhere || all.len() > limit;
        all.truncate(limit);
        Ok((all, more))
    }
}

impl key_value::Server for KeyValue {
    async fn get(
        self: Rc<Self>,
        params: key_value::GetParams,
        mut results: key_value::GetResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let key = checked_key(params.get()?.get_key()?)?;
        let query = Query::KeyGet { key: key.clone() };
        let found = match self
            .authority
            .query(self.partition_of(&key), query)
            .await
            .map_err(exception)?
        {
            Reply::Value(found) => found,
            other => return Err(exception(unexpected(&other))),
        };
        let Some(found) = found else { return Ok(()) };
        // The value is shared with the state until it is copied into the answer.
        let _reservation = self.authority.connection.budget.reserve(found.value.len()).await;
        let mut results = results.get();
        results.set_found(true);
        results.set_value(&found.value);
        results.set_version(found.version);
        results.set_expires_ms(found.expires.unwrap_or(0));
        Ok(())
    }

    async fn set(
        self: Rc<Self>,
        params: key_value::SetParams,
        mut results: key_value::SetResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let (key, command) = {
            let params = params.get()?;
            let key = checked_key(params.get_key()?)?;
            let value = params.get_value()?;
            self.check_value(value)?;
            let expiry = match params.get_ttl_ms() {
                0 => Expiry::Never,
                ttl_ms => Expiry::After(ttl_ms),
            };
            let condition = codec::read_condition(params.get_condition()?)
                .map_err(|error| invalid(&error.to_string()))?;
            let value = Bytes::copy_from_slice(value);
            let return_previous = params.get_return_previous();
            (
                key.clone(),
                Command::KeySet {
                    key,
                    value,
                    expiry,
                    condition,
                    return_previous,
                },
            )
        };
        match self
            .authority
            .command(self.partition_of(&key), command)
            .await
            .map_err(exception)?
        {
            Reply::Set {
                applied,
                version,
                previous,
            } => {
                let size_bytes = previous.as_ref().map_or(0, Bytes::len);
                let _reservation = self.authority.connection.budget.reserve(size_bytes).await;
                let mut results = results.get();
                results.set_applied(applied);
                results.set_version(version);
                codec::write_optional(previous.as_deref(), results.init_previous());
                Ok(())
            }
            other => Err(exception(unexpected(&other))),
        }
    }

    async fn delete(
        self: Rc<Self>,
        params: key_value::DeleteParams,
        mut results: key_value::DeleteResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let keys = checked_keys(params.get()?.get_keys()?)?;
        results
            .get()
            .set_count(self.delete_keys(&keys).await.map_err(exception)?);
        Ok(())
    }

    async fn exists(
        self: Rc<Self>,
        params: key_value::ExistsParams,
        mut results: key_value::ExistsResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let keys = checked_keys(params.get()?.get_keys()?)?;
        results
            .get()
            .set_count(self.count(&keys).await.map_err(exception)?);
        Ok(())
    }

    async fn increment(
        self: Rc<Self>,
        params: key_value::IncrementParams,
        mut results: key_value::IncrementResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let (key, by) = {
            let params = params.get()?;
            (checked_key(params.get_key()?)?, params.get_by())
        };
        let partition = self.partition_of(&key);
        match self
            .authority
            .command(partition, Command::KeyIncrement { key, by })
            .await
            .map_err(exception)?
        {
            Reply::Number(value) => results.get().set_value(value),
            other => return Err(exception(unexpected(&other))),
        }
        Ok(())
    }

    async fn get_many(
        self: Rc<Self>,
        params: key_value::GetManyParams,
        mut results: key_value::GetManyResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let keys = checked_keys(params.get()?.get_keys()?)?;
        let values = self.values(&keys).await.map_err(exception)?;
        let size_bytes: usize = values.iter().flatten().map(Bytes::len).sum();
        let _reservation = self.authority.connection.budget.reserve(size_bytes).await;
        // At most KEYS_MAX.
        let mut list = results.get().init_values(values.len() as u32);
        for (index, value) in (0..).zip(&values) {
            codec::write_optional(value.as_deref(), list.reborrow().get(index));
        }
        Ok(())
    }

    async fn set_many(
        self: Rc<Self>,
        params: key_value::SetManyParams,
        _: key_value::SetManyResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let mut pairs = Vec::new();
        {
            let list = params.get()?.get_pairs()?;
            check_count(list.len())?;
            for pair in list {
                let key = checked_key(pair.get_key()?)?;
                let value = pair.get_value()?;
                self.check_value(value)?;
                pairs.push((self.partition_of(&key), key, Bytes::copy_from_slice(value)));
            }
        }
        let Some((partition, ..)) = pairs.first() else {
            return Ok(());
        };
        let operation = Namespace::KeySetMany {
            partition: *partition,
            pairs,
        };
        self.authority.namespace(operation).await.map_err(exception)?;
        Ok(())
    }

    async fn scan(
        self: Rc<Self>,
        params: key_value::ScanParams,
        mut results: key_value::ScanResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let (prefix, after, limit) = {
            let params = params.get()?;
            let prefix = Bytes::copy_from_slice(params.get_prefix()?);
            let after = Bytes::copy_from_slice(params.get_after()?);
            (prefix, after, params.get_limit().clamp(1, PAGE_ENTRIES_MAX))
        };
        let _reservation = self
            .authority
            .connection
            .budget
            .reserve(limit as usize * ITEM_SIZE_BYTES)
            .await;
        let (keys, more) = self.scan_page(prefix, after, limit).await.map_err(exception)?;
        let mut results = results.get();
        results.set_more(more);
        // At most PAGE_ENTRIES_MAX.
        let mut list = results.init_keys(keys.len() as u32);
        for (index, key) in (0..).zip(&keys) {
            list.set(index, key);
        }
        Ok(())
    }
}

fn checked_key(key: &[u8]) -> capnp::Result<Bytes> {
    if key.len() > KEY_SIZE_MAX {
        return Err(invalid(&format!("keys have at most {KEY_SIZE_MAX} bytes")));
    }
    Ok(Bytes::copy_from_slice(key))
}

fn checked_keys(list: data_list::Reader<'_>) -> capnp::Result<Vec<Bytes>> {
    check_count(list.len())?;
    list.iter().map(|key| checked_key(key?)).collect()
}

fn check_count(count: u32) -> capnp::Result<()> {
    if count > KEYS_MAX {
        return Err(invalid(&format!("a call names at most {KEYS_MAX} keys")));
    }
    Ok(())
}
