//! Between the Rust types of `operation` and `message` and the bytes of `capnp/`.
//!
//! Every message becomes one frame of one segment; its size is bounded beforehand (`size`), so that a
//! small message is built in a buffer kept by the thread and copied once. Decoding copies no user bytes:
//! each `Bytes` of the result is a slice of the frame and keeps the whole chunk it arrived in alive, so
//! whoever stores a key for long must copy it.
//!
//! Next to each writer stands its reader, variant by variant in the order of the schema.
//!
//! Invariants:
//! - What was encoded decodes to an equal value; Raft's state and replies depend on it.
//! - No input makes a decoder panic. A variant this program does not know is an error, never a default.
//! - Decoding checks form, not sense: sizes of names or keys are for the one who executes the request.

mod audit;
mod command;
mod data;
mod delegation;
mod file_lock;
mod inode;
mod message;
mod namespace;
mod node_request;
mod policy;
mod query;
mod quota;
mod read;
mod repair;
mod reply;
mod request;
mod size;
mod step;
mod trace;
mod upkeep;
mod usage;
mod write;

pub use command::{read_command, read_condition, write_command, write_condition};
pub use inode::{read_attribute_change, write_attribute_change};
pub use message::{
    decode_client, decode_peer, decode_proposal, decode_server, encode_client, encode_peer, encode_proposal,
    encode_server,
};
pub use namespace::{read_namespace, write_namespace};
pub use node_request::{read_node_request, write_node_request};
pub use query::{read_query, write_query};
pub use read::Source;
pub use reply::{
    read_attributes, read_failure, read_reply, write_attributes, write_cluster_status, write_directory_entry,
    write_failure, write_node_status, write_optional, write_partition_status, write_reply,
};
pub use request::{read_request, write_request};
pub use upkeep::{write_orphans, write_scrub_status};

/// The bytes are not a message of ours.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("malformed message: {0}")]
    Malformed(#[from] capnp::Error),
    #[error("variant {0} is not known to this version")]
    UnknownVariant(u16),
    #[error("text is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("a {0} stands where none may: inside another")]
    Nested(&'static str),
}

impl From<capnp::NotInSchema> for Error {
    fn from(error: capnp::NotInSchema) -> Error {
        Error::UnknownVariant(error.0)
    }
}

pub type Result<T> = std::result::Result<T, Error>;
