//! Keys for any Redis client: RESP2 and RESP3, inline commands, pipelining in order.
//!
//! Previous in the flow: `worker_thread` hands in bytes. Next: the core's `Gateway`.
//!
//! One connection: `parse` cuts the bytes into commands without copying them again, `command` turns each
//! into an [`Action`](command::Action), `connection` carries it out and keeps the answers in order in
//! `ring`, `reply` writes them. Commands of one key never wait for each other and need no coroutine.
//!
//! Invariants:
//! - Answers leave in the order of the commands, whatever order the partitions answered in.
//! - What a client sends is checked before memory is set aside for it.

mod command;
mod connection;
mod parse;
mod reply;
mod ring;
#[cfg(test)]
mod tests;

pub use connection::RespConnection;
