//! `bark locate`: the partition and nodes of a path or key, and where a file's blocks are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bark_client::{Client, ClusterPath};
use bark_schema::ids::PartitionId;
use bark_schema::operation::{Content, FileKind};
use clap::Args;
use serde_json::{Value, json};

use super::policy;
use crate::output::Output;
use crate::problem::Problem;

/// Of the file that is looked at: as many blocks as fit a screen.
const BYTES_LOOKED_AT: u64 = 16 << 20;

const LABEL_WIDTH: usize = "partition".len();

#[derive(Debug, Args)]
pub struct Locate {
    /// A path if it starts with /, else a key.
    subject: OsString,
    /// A key, whatever it starts with.
    #[arg(long)]
    key: bool,
}

impl Locate {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let bytes = self.subject.as_bytes();
        if self.key || !bytes.starts_with(b"/") {
            let partition = client.partition_of_key(bytes);
            let mut value = place(client, partition, output).await?;
            value["key"] = json!(self.subject.to_string_lossy());
            return output.value(value);
        }
        let path = ClusterPath::parse(bytes)?;
        let attributes = client.files().stat(&path).await?;
        output.line(format_args!("    inode: {}", attributes.inode.0))?;
        let mut value = place(client, attributes.inode.home(), output).await?;
        value["path"] = json!(path.to_string());
        value["inode"] = json!(attributes.inode.0.to_string());
        if matches!(attributes.kind, FileKind::Regular | FileKind::Directory) {
            policy::lines(client, &attributes.policy, LABEL_WIDTH, output)?;
            value["policy"] = policy::value(client, &attributes.policy);
        }
        if attributes.kind == FileKind::Regular {
            value["content"] = content(client, &path, output).await?;
        }
        output.value(value)
    }
}

async fn place(client: &Client, partition: PartitionId, output: &mut Output) -> Result<Value, Problem> {
    let status = client.partition_status(partition).await?;
    let leader = status.leader.map(|node| node.0);
    let replicas: Vec<u16> = client
        .partition_replicas(partition)
        .into_iter()
        .map(|node| node.0)
        .collect();
    output.line(format_args!("partition: {}", partition.0))?;
    output.line(format_args!(" replicas: {replicas:?}"))?;
    output.line(format_args!(
        "   leader: {}",
        leader.map_or("none".into(), |leader| leader.to_string())
    ))?;
    Ok(json!({ "partition": partition.0, "replicas": replicas, "leader": leader }))
}

async fn content(client: &Client, path: &ClusterPath, output: &mut Output) -> Result<Value, Problem> {
    match client.files().layout(path, 0, BYTES_LOOKED_AT).await?.1 {
        Content::Inline(bytes) => {
            output.line(format_args!("  content: inline, {} bytes", bytes.len()))?;
            Ok(json!("inline"))
        }
        Content::Mapped(map) => {
            let mut blocks = Vec::new();
            for patch in map.patches {
                let length = patch.data.len();
                output.line(format_args!(
                    "    patch: {} + {length} in the log's state",
                    patch.offset
                ))?;
                blocks.push(json!({ "offset": patch.offset, "length": length, "block": null, "nodes": [] }));
            }
            for extent in map.extents {
                let nodes: Vec<u16> = extent.nodes.iter().map(|node| node.0).collect();
                output.line(format_args!(
                    "   extent: {} + {} in {} on {nodes:?}",
                    extent.offset, extent.length, extent.block
                ))?;
                blocks.push(json!({
                    "offset": extent.offset,
                    "length": extent.length,
                    "block": extent.block.to_string(),
                    "nodes": nodes,
                }));
            }
            Ok(Value::Array(blocks))
        }
    }
}
