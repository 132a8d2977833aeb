//! Who may come in, and what a newcomer is told of the cluster: the same for every Cap'n Proto client.
//!
//! Used by `client` (frames) and `capnp::bark` (capnp-rpc).

use bark_schema::message::{PROTOCOL_VERSION, Welcome, WelcomeNode};
use bark_schema::operation::{Failure, Refusal};

use super::Settings;

/// Refuses a client of another protocol version, or says what it needs to know of the cluster.
pub fn welcome(settings: &Settings, version: u32) -> Result<Welcome, Failure> {
    if version != PROTOCOL_VERSION {
        let sentence = format!(
            "the client speaks protocol {version}, this node {PROTOCOL_VERSION}: use the same release"
        );
        return Err(Failure::refused(Refusal::Unsupported, sentence));
    }
    let cluster = &settings.cluster;
    let nodes = cluster.nodes.iter().map(|node| WelcomeNode {
        number: node.number,
        id: node.id.clone(),
        capnp: node.capnp.clone(),
        zone: node.zone.clone(),
    });
    Ok(Welcome {
        version: PROTOCOL_VERSION,
        cluster: cluster.name.clone(),
        node: settings.node,
        partition_count: cluster.partitions,
        replicas: cluster.replicas,
        vnodes: cluster.vnodes,
        nodes: nodes.collect(),
        value_size_max: u32::try_from(settings.value_size_max).unwrap_or(u32::MAX),
    })
}
