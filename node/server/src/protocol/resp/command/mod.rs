//! What each command means: a name and arguments in, an [`Action`] out.
//!
//! Previous in the flow: `parse`. Next: `connection` carries the action out.
//!
//! Planning a command touches nothing but the connection's own session, so it can be done before its turn
//! has come. A change of a key that one log entry cannot express (EXPIRE, APPEND, GETDEL) reads the key and
//! writes it back on condition that its version is still the one read: see `update`.
//!
//! What is not atomic: MGET, EXISTS and DBSIZE over several partitions read each partition at its own time;
//! FLUSHALL and FLUSHDB delete page by page. MSET and DEL are atomic over any partitions.
//!
//! Invariants:
//! - Errors have Redis' wording, so that client libraries recognise them.

mod client;
mod expiry;
mod glob;
mod many;
mod scan;
mod server;
mod string;
mod table;
mod update;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bark_core::worker::gateway::{DEADLINE_DEFAULT_US, Gateway, Reach};
use bark_schema::ids::PartitionId;
use bark_schema::limits::KEY_SIZE_MAX;
use bark_schema::operation::{
    self, Failure, KeyValue, Namespace, Query, Refusal, Reply, Request, UnixMillis,
};
use bark_schema::placement;
use bytes::Bytes;

use super::reply::{Answer, OK, Version};
use crate::protocol::Settings;

/// What a connection has to do for a command.
pub enum Action {
    Answer(Answer),
    /// Answers in, and goes on with, another version of the protocol.
    Switch(Version, Answer),
    Quit,
    Query {
        partition: PartitionId,
        query: Query,
        render: Render,
    },
    Change {
        partition: PartitionId,
        command: operation::Command,
        render: Render,
    },
    Namespace {
        operation: Namespace,
        render: Render,
    },
    /// Asks several partitions and puts their answers together.
    Parts {
        queries: Vec<(PartitionId, Query)>,
        merge: Merge,
    },
    Task(Task),
}

pub type Task = Pin<Box<dyn Future<Output = Answer>>>;
/// The error is an answer too.
pub type Planned = Result<Action, Answer>;

impl Action {
    /// Whether it may run only when nothing of its connection is in flight.
    pub fn runs_alone(&self) -> bool {
        matches!(
            self,
            Action::Switch(..) | Action::Namespace { .. } | Action::Task(_)
        )
    }

    fn task(future: impl Future<Output = Answer> + 'static) -> Action {
        Action::Task(Box::pin(future))
    }
}

/// How the answers of several partitions become one.
pub enum Merge {
    Sum,
    /// By part: where its values stand in the answer.
    Values(Vec<Vec<usize>>),
}

/// How a partition's reply becomes an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Render {
    Value,
    ValueSize,
    ValueRange {
        start: i64,
        end: i64,
    },
    Kind,
    RemainingSeconds,
    RemainingMillis,
    ExpiresSeconds,
    ExpiresMillis,
    Number,
    Decremented,
    Count,
    Done,
    /// SET: OK, or null if its condition did not hold.
    SetStatus,
    /// SETNX: 1 or 0.
    SetNumber,
    /// SET … GET and GETSET.
    Previous,
}

impl Render {
    pub fn answer(self, result: Result<Reply, Failure>, now_ms: UnixMillis) -> Answer {
        match (self, result) {
            (Render::Decremented, Err(Failure::Refused(Refusal::Overflow, _))) => {
                Answer::error("increment or decrement would overflow")
            }
            (_, Err(failure)) => Answer::failure(&failure),
            (Render::Number | Render::Decremented, Ok(Reply::Number(number))) => Answer::Integer(number),
            (Render::Count, Ok(Reply::Count(count))) => Answer::count(count),
            (Render::Done, Ok(_)) => OK,
            (Render::SetStatus, Ok(Reply::Set { applied, .. })) => {
                if applied {
                    OK
                } else {
                    Answer::Null
                }
            }
            (Render::SetNumber, Ok(Reply::Set { applied, .. })) => Answer::Integer(i64::from(applied)),
            (Render::Previous, Ok(Reply::Set { previous, .. })) => Answer::bulk_or_null(previous),
            (render, Ok(Reply::Value(value))) => render.value(value, now_ms),
            (_, Ok(_)) => Answer::error("a partition gave an answer of another kind"),
        }
    }

    fn value(self, found: Option<KeyValue>, now_ms: UnixMillis) -> Answer {
        let expires = found.as_ref().map(|found| found.expires);
        match self {
            Render::ValueSize => Answer::count(found.map_or(0, |found| found.value.len() as u64)),
            Render::ValueRange { start, end } => {
                let value = found.map_or_else(Bytes::new, |found| found.value);
                Answer::Bulk(string::range(&value, start, end))
            }
            Render::Kind => Answer::Status(if found.is_some() { "string" } else { "none" }),
            Render::RemainingSeconds => {
                expiry::render(expires, |at| (at.saturating_sub(now_ms) + 500) / 1000)
            }
            Render::RemainingMillis => expiry::render(expires, |at| at.saturating_sub(now_ms)),
            Render::ExpiresSeconds => expiry::render(expires, |at| at.saturating_add(500) / 1000),
            Render::ExpiresMillis => expiry::render(expires, |at| at),
            _ => Answer::bulk_or_null(found.map(|found| found.value)),
        }
    }
}

/// What a connection is called and how it speaks.
pub struct Session {
    pub cluster: Cluster,
    pub version: Version,
    pub name: Bytes,
    pub library_name: Bytes,
    pub library_version: Bytes,
    pub connection_id: u64,
    pub since_unix_ms: UnixMillis,
}

impl Session {
    pub fn new(cluster: Cluster, connection_id: u64) -> Session {
        Session {
            version: Version::Two,
            name: Bytes::new(),
            library_name: Bytes::new(),
            library_version: Bytes::new(),
            connection_id,
            since_unix_ms: cluster.gateway.now().unix_ms(),
            cluster,
        }
    }
}

/// The cluster as tasks of one connection use it. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    pub gateway: Gateway,
    pub settings: Arc<Settings>,
    /// Where this connection's newest scans stand: see `scan`.
    cursors: Rc<RefCell<VecDeque<(u64, Bytes)>>>,
}

impl Cluster {
    pub fn new(gateway: Gateway, settings: Arc<Settings>) -> Cluster {
        Cluster {
            gateway,
            settings,
            cursors: Rc::default(),
        }
    }

    pub fn partition_count(&self) -> u16 {
        self.gateway.config().partition_count
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partition_count()).map(PartitionId)
    }

    /// Where the key lives. Errors: it is longer than a key may be.
    fn partition_of(&self, key: &[u8]) -> Result<PartitionId, Answer> {
        if key.len() > KEY_SIZE_MAX {
            return Err(Answer::error(format!(
                "key is too long: at most {KEY_SIZE_MAX} bytes"
            )));
        }
        Ok(placement::partition_of_key(key, self.partition_count()))
    }

    fn check_value_size(&self, size: usize) -> Result<(), Answer> {
        if size > self.settings.value_size_max {
            return Err(Answer::error(
                "string exceeds maximum allowed size (proto-max-bulk-len)",
            ));
        }
        Ok(())
    }

    async fn change(&self, partition: PartitionId, command: operation::Command) -> Result<Reply, Failure> {
        let id = self.gateway.begin_request(partition);
        let deadline_us = self.gateway.now().monotonic_us + DEADLINE_DEFAULT_US;
        let request = Request::Command {
            partition,
            id,
            command,
        };
        let result = self.gateway.call(request, Reach::Cluster, deadline_us).await;
        self.gateway.finish_request(partition, id);
        result
    }
}

/// Finds the command and plans it.
pub fn plan(session: &mut Session, arguments: &[Bytes]) -> Action {
    let Some(name) = arguments.first() else {
        return Action::Answer(Answer::error("empty command"));
    };
    let Some(spec) = table::find(name) else {
        return Action::Answer(unknown_command(arguments));
    };
    if !spec.takes(arguments.len()) {
        return Action::Answer(wrong_argument_count(spec.name));
    }
    (spec.plan)(session, arguments).unwrap_or_else(Action::Answer)
}

pub fn wrong_argument_count(name: &str) -> Answer {
    Answer::error(format!("wrong number of arguments for '{name}' command"))
}

/// Longest part of an unknown command that is repeated in the error.
const UNKNOWN_ECHO_SIZE_MAX: usize = 128;

fn unknown_command(arguments: &[Bytes]) -> Answer {
    let mut shown = String::new();
    for argument in &arguments[1..] {
        if shown.len() >= UNKNOWN_ECHO_SIZE_MAX {
            break;
        }
        let room = UNKNOWN_ECHO_SIZE_MAX - shown.len();
        shown.push_str(&format!("'{}' ", lossy(argument, room)));
    }
    let name = lossy(&arguments[0], UNKNOWN_ECHO_SIZE_MAX);
    Answer::error(format!(
        "unknown command '{name}', with args beginning with: {shown}"
    ))
}

fn lossy(bytes: &[u8], size_max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(size_max)]).into_owned()
}

/// Options are recognised in any case.
fn is(argument: &[u8], option: &str) -> bool {
    argument.eq_ignore_ascii_case(option.as_bytes())
}

fn integer(argument: &[u8]) -> Result<i64, Answer> {
    super::parse::integer(argument).ok_or_else(Answer::not_an_integer)
}

#[cfg(test)]
pub fn names() -> impl Iterator<Item = &'static str> {
    table::COMMANDS.iter().map(|spec| spec.name)
}
