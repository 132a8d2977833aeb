//! Commands about the node: PING, INFO, CONFIG, COMMAND and the like.

use std::fmt::Write;

use bytes::Bytes;

use super::table::{self, COMMANDS};
use super::{Action, Cluster, Planned, Session, glob, integer, is, scan, wrong_argument_count};
use crate::protocol::counters;
use crate::protocol::resp::parse;
use crate::protocol::resp::reply::{Answer, OK};

/// The Redis whose behaviour is kept to; clients decide by it what they may ask.
pub const REDIS_VERSION: &str = "7.0.15";
/// INFO does not wait longer for partitions without a leader.
const INFO_DEADLINE_US: u64 = 1_000_000;

pub fn ping(_: &mut Session, arguments: &[Bytes]) -> Planned {
    match arguments {
        [_] => Ok(Action::Answer(Answer::Status("PONG"))),
        [_, text] => Ok(Action::Answer(Answer::Bulk(text.clone()))),
        _ => Err(wrong_argument_count("ping")),
    }
}

pub fn echo(_: &mut Session, arguments: &[Bytes]) -> Planned {
    Ok(Action::Answer(Answer::Bulk(arguments[1].clone())))
}

pub fn quit(_: &mut Session, _: &[Bytes]) -> Planned {
    Ok(Action::Quit)
}

/// Every answered write is with a majority already: that many replicas beside the leader have it.
pub fn wait(session: &mut Session, arguments: &[Bytes]) -> Planned {
    integer(&arguments[1])?;
    let timeout = parse::integer(&arguments[2]);
    let timeout = timeout.ok_or_else(|| Answer::error("timeout is not an integer or out of range"))?;
    if timeout < 0 {
        return Err(Answer::error("timeout is negative"));
    }
    let replicas = session.cluster.gateway.config().replicas;
    Ok(Action::Answer(Answer::Integer(i64::from(replicas / 2))))
}

pub fn command(_: &mut Session, arguments: &[Bytes]) -> Planned {
    let answer = match &arguments[1..] {
        [] => Answer::Array(COMMANDS.iter().map(describe).collect()),
        [word] if is(word, "count") => Answer::count(COMMANDS.len() as u64),
        [word] if is(word, "list") => {
            Answer::Array(COMMANDS.iter().map(|spec| Answer::text(spec.name)).collect())
        }
        [word, ..] if is(word, "docs") => Answer::Map(Vec::new()),
        [word, names @ ..] if is(word, "info") => Answer::Array(
            names
                .iter()
                .map(|name| table::find(name).map_or(Answer::Null, describe))
                .collect(),
        ),
        [word, ..] => return Err(unknown_subcommand("COMMAND", word)),
    };
    Ok(Action::Answer(answer))
}

fn describe(spec: &table::Spec) -> Answer {
    let (first, last, step) = spec.keys;
    Answer::Array(vec![
        Answer::text(spec.name),
        Answer::Integer(i64::from(spec.arity)),
        Answer::Set(spec.flags.iter().map(|flag| Answer::Status(flag)).collect()),
        Answer::Integer(first),
        Answer::Integer(last),
        Answer::Integer(step),
        Answer::Set(Vec::new()),
        Answer::Array(Vec::new()),
        Answer::Array(Vec::new()),
        Answer::Array(Vec::new()),
    ])
}

pub fn unknown_subcommand(command: &str, word: &[u8]) -> Answer {
    let word = String::from_utf8_lossy(&word[..word.len().min(128)]);
    Answer::error(format!("unknown subcommand '{word}'. Try {command} HELP."))
}

pub fn config(session: &mut Session, arguments: &[Bytes]) -> Planned {
    match &arguments[1..] {
        [word] if is(word, "get") => Err(wrong_argument_count("config|get")),
        [word, patterns @ ..] if is(word, "get") => {
            let settings = &session.cluster.settings;
            let known = [
                ("appendonly", "yes".to_string()),
                ("databases", "1".to_string()),
                ("maxmemory", "0".to_string()),
                ("maxmemory-policy", "noeviction".to_string()),
                ("proto-max-bulk-len", settings.value_size_max.to_string()),
                ("save", String::new()),
                ("timeout", "0".to_string()),
            ];
            let wanted = |name: &str| {
                patterns
                    .iter()
                    .any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
            };
            let pairs = known.into_iter().filter(|(name, _)| wanted(name));
            Ok(Action::Answer(Answer::Map(
                pairs
                    .map(|(name, value)| (Answer::text(name), Answer::text(value)))
                    .collect(),
            )))
        }
        [word, ..] => Err(unknown_subcommand("CONFIG", word)),
        [] => Err(wrong_argument_count("config")),
    }
}

pub fn info(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let sections: Vec<Bytes> = arguments[1..].to_vec();
    let wanted = move |name: &str| {
        sections.is_empty()
            || sections.iter().any(|word| {
                is(word, name) || ["all", "default", "everything"].iter().any(|all| is(word, all))
            })
    };
    let cluster = session.cluster.clone();
    Ok(Action::task(async move {
        let mut text = String::new();
        for (name, lines) in sections_of(&cluster) {
            if wanted(name) {
                push_section(&mut text, name, &lines);
            }
        }
        if wanted("keyspace") {
            let deadline_us = cluster.gateway.now().monotonic_us + INFO_DEADLINE_US;
            let keys = match scan::key_count(&cluster, deadline_us).await {
                Some(keys) if keys > 0 => format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"),
                _ => String::new(),
            };
            push_section(&mut text, "keyspace", &keys);
        }
        Answer::Verbatim(text)
    }))
}

fn push_section(text: &mut String, name: &str, lines: &str) {
    if !text.is_empty() {
        text.push_str("\r\n");
    }
    let (first, rest) = name.split_at(1);
    text.push_str(&format!("# {}{rest}\r\n{lines}", first.to_uppercase()));
}

fn sections_of(cluster: &Cluster) -> Vec<(&'static str, String)> {
    let settings = &cluster.settings;
    let uptime_s = (cluster.gateway.now().unix_ms() / 1000).saturating_sub(settings.started_unix_s);
    let mut server = format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nbark_version:{}\r\n",
        settings.version
    );
    // Writing to a string cannot fail.
    let _ = write!(
        server,
        "cluster_name:{}\r\nnode:{}\r\n",
        settings.cluster.name, settings.node.0
    );
    let _ = write!(
        server,
        "process_id:{}\r\nuptime_in_seconds:{uptime_s}\r\n",
        std::process::id()
    );
    let clients = format!("connected_clients:{}\r\n", counters::resp_connections());
    let memory = format!(
        "used_memory:{}\r\nmaxmemory:0\r\n",
        counters::resident_bytes().unwrap_or(0)
    );
    let stats = format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
        counters::resp_connections_total(),
        counters::resp_commands()
    );
    let replication = "role:master\r\nconnected_slaves:0\r\n".to_string();
    let cluster_section = "cluster_enabled:0\r\n".to_string();
    vec![
        ("server", server),
        ("clients", clients),
        ("memory", memory),
        ("stats", stats),
        ("replication", replication),
        ("cluster", cluster_section),
    ]
}

/// An answer that is always OK.
pub fn ok() -> Planned {
    Ok(Action::Answer(OK))
}
