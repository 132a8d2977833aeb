//! Requests, as they come to a node.

use super::Result;
use super::command::{read_command, write_command};
use super::namespace::{read_namespace, write_namespace};
use super::node_request::{read_node_request, write_node_request};
use super::query::{read_query, write_query};
use super::read::{self, Source, required};
use super::write::write_request_id;
use crate::generated::common_capnp as wire;
use crate::ids::PartitionId;
use crate::operation::Request;

pub fn write_request(request: &Request, mut builder: wire::request::Builder<'_>) {
    match request {
        Request::Query { partition, query } => {
            let mut group = builder.init_query();
            group.set_partition(partition.0);
            write_query(query, group.init_query());
        }
        Request::Command {
            partition,
            id,
            command,
        } => {
            let mut group = builder.init_command();
            group.set_partition(partition.0);
            write_request_id(id, group.reborrow().init_id());
            write_command(command, group.init_command());
        }
        Request::Namespace { id, operation } => {
            let mut group = builder.init_namespace();
            write_request_id(id, group.reborrow().init_id());
            write_namespace(operation, group.init_operation());
        }
        Request::Node(request) => write_node_request(request, builder.reborrow().init_node()),
    }
}

pub fn read_request(reader: wire::request::Reader<'_>, source: Source<'_>) -> Result<Request> {
    Ok(match reader.which()? {
        wire::request::Query(group) => {
            required(group.has_query(), "query")?;
            Request::Query {
                partition: PartitionId(group.get_partition()),
                query: read_query(group.get_query()?, source)?,
            }
        }
        wire::request::Command(group) => {
            required(group.has_id() && group.has_command(), "command and its id")?;
            Request::Command {
                partition: PartitionId(group.get_partition()),
                id: read::request_id(group.get_id())?,
                command: read_command(group.get_command()?, source)?,
            }
        }
        wire::request::Namespace(group) => {
            required(group.has_id() && group.has_operation(), "operation and its id")?;
            Request::Namespace {
                id: read::request_id(group.get_id())?,
                operation: read_namespace(group.get_operation()?, source)?,
            }
        }
        wire::request::Node(request) => Request::Node(read_node_request(request?, source)?),
    })
}
