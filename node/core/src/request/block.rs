//! Storing a block on its replicas, through this node.
//!
//! The client streams each block to one node; that node writes it and passes it on. The block is good when a
//! majority of its replicas has it on disk. The answer names who has it; the extent records them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bark_schema::ids::{BlockId, NodeNumber};
use bark_schema::operation::{Failure, NodeRequest, Refusal, Reply};
use bytes::Bytes;

use crate::worker::gateway::{Answer, Gateway};

/// A block that a majority has waits this long for the rest, so that an extent usually names every copy.
const STRAGGLER_US: u64 = 50_000;
/// Copies of one block.
const REPLICAS_MAX: usize = 16;

pub async fn put(
    gateway: &Gateway,
    block: BlockId,
    data: Bytes,
    checksum: u32,
    replicas: Vec<NodeNumber>,
) -> Result<Reply, Failure> {
    let mut targets = replicas;
    targets.sort_unstable();
    targets.dedup();
    if targets.is_empty() || targets.len() > REPLICAS_MAX {
        let sentence = format!("a block goes to 1 to {REPLICAS_MAX} nodes, not {}", targets.len());
        return Err(Failure::refused(Refusal::InvalidArgument, sentence));
    }
    let majority = targets.len() / 2 + 1;
    let mut waiting: Vec<(NodeNumber, Answer)> = targets
        .iter()
        .map(|node| {
            let request = NodeRequest::BlockPut {
                block,
                data: data.clone(),
                checksum,
                replicas: targets.clone(),
                local_only: true,
            };
            (*node, gateway.node(*node, request))
        })
        .collect();
    drop(data);
    let mut stored = Vec::new();
    let mut failure = None;
    let mut straggler_limit = None;
    while !waiting.is_empty() {
        if stored.len() >= majority && straggler_limit.is_none() {
            straggler_limit = Some(Box::pin(gateway.sleep(STRAGGLER_US)));
        }
        let answered = poll_fn(|context| {
            for (position, (_, answer)) in waiting.iter_mut().enumerate() {
                if let Poll::Ready(result) = Pin::new(answer).poll(context) {
                    return Poll::Ready(Some((position, result)));
                }
            }
            match straggler_limit.as_mut() {
                Some(limit) => limit.as_mut().poll(context).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await;
        let Some((position, result)) = answered else { break };
        let (node, _) = waiting.swap_remove(position);
        match result {
            Ok(_) => stored.push(node),
            Err(reason) => failure = Some((node, reason)),
        }
    }
    stored.sort_unstable();
    if stored.len() >= majority {
        return Ok(Reply::Stored { nodes: stored });
    }
    match failure {
        // A refusal such as a wrong checksum or a full disk is worth telling as it is.
        Some((node, Failure::Refused(refusal, sentence))) => {
            Err(Failure::refused(refusal, format!("{node}: {sentence}")))
        }
        Some((node, reason)) => Err(Failure::Busy(format!(
            "too few copies could be written: {node}: {reason}"
        ))),
        None => Err(Failure::Busy("too few copies could be written".to_string())),
    }
}
