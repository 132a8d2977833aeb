//! Changes that one log entry cannot express: read, decide, write back if nothing changed in between.
//!
//! Atomic, because the write names the version that was read. Versions are never reused.

use bark_schema::operation::{Command, Condition, Expiry, Failure, KeyValue, Query, Reply};
use bytes::Bytes;

use super::{Action, Planned, Session};
use crate::protocol::resp::reply::Answer;

/// Times another writer may be faster before the client is told to try again.
const ATTEMPTS_MAX: u32 = 64;

/// What to do about the value that was found.
pub enum Decision {
    Answer(Answer),
    Set {
        value: Bytes,
        expiry: Expiry,
        answer: Answer,
    },
    Delete {
        answer: Answer,
    },
}

pub fn update(
    session: &Session,
    key: &Bytes,
    decide: impl Fn(Option<&KeyValue>) -> Decision + 'static,
) -> Planned {
    let partition = session.cluster.partition_of(key)?;
    let (cluster, key) = (session.cluster.clone(), key.clone());
    Ok(Action::task(async move {
        for _ in 0..ATTEMPTS_MAX {
            let found = match cluster
                .gateway
                .query(partition, Query::KeyGet { key: key.clone() })
                .await
            {
                Ok(Reply::Value(found)) => found,
                Ok(_) => return Answer::error("a partition gave an answer of another kind"),
                Err(failure) => return Answer::failure(&failure),
            };
            let condition = match &found {
                Some(found) => Condition::IfVersion(found.version),
                None => Condition::IfAbsent,
            };
            let (command, answer) = match decide(found.as_ref()) {
                Decision::Answer(answer) => return answer,
                Decision::Set {
                    value,
                    expiry,
                    answer,
                } => {
                    let key = key.clone();
                    (
                        Command::KeySet {
                            key,
                            value,
                            expiry,
                            condition,
                            return_previous: false,
                        },
                        answer,
                    )
                }
                Decision::Delete { answer } => (
                    Command::KeyDelete {
                        keys: vec![key.clone()],
                        condition,
                    },
                    answer,
                ),
            };
            match cluster.change(partition, command).await {
                Ok(Reply::Set { applied: true, .. } | Reply::Count(1)) => return answer,
                Ok(_) => {}
                Err(failure) => return Answer::failure(&failure),
            }
        }
        Answer::failure(&Failure::Busy("others kept changing the key".to_string()))
    }))
}
