//! `/v1/cluster`: nodes, partitions, leaders, capacity and health, put together from all nodes that answer.
//!
//! The schema's `ClusterStatus`, with each node's disk and number of led partitions, each partition's replicas,
//! and `capacity` and `health` beside.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::{MethodRouter, get};
use bark_schema::ids::{NodeNumber, PartitionId};
use serde_json::{Value, json};

use crate::app::App;
use crate::cluster::View;
use crate::json::{self, Object};
use crate::problem::{Answer, Problem};
use crate::request::Parameters;

pub fn routes() -> MethodRouter<App> {
    get(show)
}

async fn show(State(app): State<App>, uri: Uri) -> Answer {
    Parameters::of(&uri)?.finish()?;
    let view = app.cluster().view().await?;
    Ok(json::respond(StatusCode::OK, described(&view)?))
}

fn described(view: &View) -> Result<Object, Problem> {
    let status = &view.status;
    let mut object = json::cluster_status(status)?;
    if let Some(Value::Array(nodes)) = object.get_mut("nodes") {
        for (shown, node) in nodes.iter_mut().zip(&status.nodes) {
            let leads = |partition: &&_| Some(node.number) == leader(partition);
            shown["leads"] = status.partitions.iter().filter(leads).count().into();
            if let Some(disk) = view.disks.get(&node.number) {
                shown["diskTotalBytes"] = disk.total_bytes.to_string().into();
                shown["diskFreeBytes"] = disk.free_bytes.to_string().into();
            }
        }
    }
    if let Some(Value::Array(partitions)) = object.get_mut("partitions") {
        for (shown, partition) in partitions.iter_mut().zip(&status.partitions) {
            let replicas = view.replicas.get(&partition.partition);
            shown["replicas"] = replicas.into_iter().flatten().map(|node| node.0).collect();
        }
    }
    let sum = |count: fn(&bark_schema::operation::PartitionStatus) -> u64| -> String {
        let total = status.partitions.iter().map(count).fold(0, u64::saturating_add);
        total.to_string()
    };
    let capacity = json!({
        "diskTotalBytes": status.disk_total_bytes.to_string(),
        "diskFreeBytes": status.disk_free_bytes.to_string(),
        "fileBytes": sum(|partition| partition.file_bytes),
        "inodes": sum(|partition| partition.inodes),
        "keys": sum(|partition| partition.keys),
    });
    object.insert("capacity".into(), capacity);
    object.insert("health".into(), health(view));
    Ok(object)
}

/// `healthy` while every partition has a leader that answers.
pub fn health(view: &View) -> Value {
    let leaderless: Vec<u16> = view
        .leaderless
        .iter()
        .map(|PartitionId(number)| *number)
        .collect();
    let unreachable: Vec<u16> = view
        .unreachable
        .iter()
        .map(|NodeNumber(number)| *number)
        .collect();
    json!({
        "healthy": leaderless.is_empty(),
        "leaderlessPartitions": leaderless,
        "unreachableNodes": unreachable,
    })
}

fn leader(partition: &bark_schema::operation::PartitionStatus) -> Option<NodeNumber> {
    partition.leader
}
