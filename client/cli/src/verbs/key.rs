//! `bark key`: keys and values from the shell.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{SystemTime, UNIX_EPOCH};

use bark_client::Client;
use bark_client::keys::SetOptions;
use bark_schema::operation::{Condition, Expiry};
use bytes::Bytes;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print a value.
    Get { key: OsString },
    /// Set a value; - is standard input.
    Set {
        key: OsString,
        value: OsString,
        /// Time to live in milliseconds.
        #[arg(long, value_name = "MILLISECONDS")]
        ttl_ms: Option<u64>,
        /// Only if the key is not there.
        #[arg(long, conflicts_with = "if_present")]
        if_absent: bool,
        /// Only if the key is there.
        #[arg(long)]
        if_present: bool,
    },
    /// Remove keys, all or none, and print how many were there.
    Del {
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Print how many of the keys are there.
    Exists {
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Add to a number and print the sum.
    Incr {
        key: OsString,
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Subtract from a number and print the difference.
    Decr {
        key: OsString,
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
    },
    /// Print the seconds a key has left; -1 if it does not expire, -2 if it is not there.
    Ttl { key: OsString },
    /// Print the keys that start with a prefix, in byte order.
    Scan {
        #[arg(default_value = "")]
        prefix: OsString,
        /// At most this many.
        #[arg(long)]
        limit: Option<u64>,
        /// Only those after this key.
        #[arg(long, default_value = "")]
        after: OsString,
    },
}

impl Key {
    pub fn name(&self) -> &'static str {
        match self {
            Key::Get { .. } => "key get",
            Key::Set { .. } => "key set",
            Key::Del { .. } => "key del",
            Key::Exists { .. } => "key exists",
            Key::Incr { .. } => "key incr",
            Key::Decr { .. } => "key decr",
            Key::Ttl { .. } => "key ttl",
            Key::Scan { .. } => "key scan",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let keys = client.keys();
        match self {
            Key::Get { key } => get(client, &key, output).await,
            Key::Set {
                key,
                value,
                ttl_ms,
                if_absent,
                if_present,
            } => {
                let options = SetOptions {
                    expiry: ttl_ms.map_or(Expiry::Never, Expiry::After),
                    condition: match (if_absent, if_present) {
                        (true, _) => Condition::IfAbsent,
                        (_, true) => Condition::IfPresent,
                        _ => Condition::Always,
                    },
                    return_previous: false,
                };
                let outcome = keys
                    .set(key.as_bytes(), value_of(value, keys.value_size_max())?, options)
                    .await?;
                if !outcome.applied {
                    let sentence = if if_absent { "Key exists" } else { "No such key" };
                    return Err(Problem::failed(key.to_string_lossy(), sentence));
                }
                output.line("OK")?;
                output.value(json!({ "key": key.to_string_lossy(), "version": outcome.version.to_string() }))
            }
            Key::Del { keys: names } => number(output, keys.delete(&bytes(names)).await?),
            Key::Exists { keys: names } => number(output, keys.exists(&bytes(names)).await?),
            Key::Incr { key, by } => number(output, keys.increment(key.as_bytes(), by).await?),
            Key::Decr { key, by } => {
                let by = by
                    .checked_neg()
                    .ok_or_else(|| Problem::usage(by, "Value too large"))?;
                number(output, keys.increment(key.as_bytes(), by).await?)
            }
            Key::Ttl { key } => ttl(client, &key, output).await,
            Key::Scan { prefix, limit, after } => {
                scan(
                    client,
                    prefix.as_bytes(),
                    limit.unwrap_or(u64::MAX),
                    after,
                    output,
                )
                .await
            }
        }
    }
}

async fn get(client: &Client, key: &OsString, output: &mut Output) -> Result<(), Problem> {
    let Some(found) = client.keys().get(key.as_bytes()).await? else {
        return Err(Problem::failed(key.to_string_lossy(), "No such key"));
    };
    output.bytes(&found.value)?;
    output.bytes(b"\n")?;
    if !output.is_json() {
        return Ok(());
    }
    let mut value = json!({
        "key": key.to_string_lossy(),
        "version": found.version.to_string(),
        "expires_ms": found.expires,
    });
    // Bytes that are not text are given as an array of numbers: JSON has nothing better of its own.
    value["value"] = match std::str::from_utf8(&found.value) {
        Ok(text) => Value::from(text),
        Err(_) => Value::from(found.value.to_vec()),
    };
    output.value(value)
}

async fn ttl(client: &Client, key: &OsString, output: &mut Output) -> Result<(), Problem> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64);
    let milliseconds = client.keys().get(key.as_bytes()).await?.map(|found| {
        let left = found.expires.map(|at| at.saturating_sub(now));
        left.map_or(-1, |left| i64::try_from(left).unwrap_or(i64::MAX))
    });
    let seconds = match milliseconds {
        None => -2,
        Some(-1) => -1,
        // To the nearest second, as Redis has it.
        Some(left) => left.saturating_add(500) / 1000,
    };
    output.line(seconds)?;
    output.value(json!({ "key": key.to_string_lossy(), "ttl_ms": milliseconds.unwrap_or(-2) }))
}

async fn scan(
    client: &Client,
    prefix: &[u8],
    mut limit: u64,
    after: OsString,
    output: &mut Output,
) -> Result<(), Problem> {
    output.begin_array();
    let mut after = Bytes::from(after.into_vec());
    while limit > 0 {
        let page = client
            .keys()
            .scan(prefix, &after, u32::try_from(limit).unwrap_or(1000).min(1000))
            .await?;
        for key in &page.keys {
            output.bytes(key)?;
            output.bytes(b"\n")?;
            output.element(json!(String::from_utf8_lossy(key)))?;
        }
        limit -= (page.keys.len() as u64).min(limit);
        match page.keys.into_iter().last() {
            Some(last) if page.more => after = last,
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn number(output: &mut Output, number: impl Into<Value> + std::fmt::Display) -> Result<(), Problem> {
    output.line(&number)?;
    output.value(number.into())
}

fn bytes(names: Vec<OsString>) -> Vec<Bytes> {
    names
        .into_iter()
        .map(|name| Bytes::from(name.into_vec()))
        .collect()
}

/// The argument, or as much of standard input as shows that it is too large.
fn value_of(argument: OsString, size_max: usize) -> Result<Bytes, Problem> {
    if argument != "-" {
        return Ok(Bytes::from(argument.into_vec()));
    }
    let mut value = Vec::new();
    let mut limited = std::io::stdin().take(size_max as u64 + 1);
    limited
        .read_to_end(&mut value)
        .map_err(|error| Problem::failed("standard input", error))?;
    if value.len() > size_max {
        let sentence = format!("File too large: a value has at most {size_max} bytes");
        return Err(Problem::failed("standard input", sentence));
    }
    Ok(value.into())
}
