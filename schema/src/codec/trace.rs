//! Answers with where their time went.

use super::Result;
use super::read::{self, Source};
use super::reply::{read_reply, write_reply};
use crate::generated::common_capnp as wire;
use crate::ids::{NodeNumber, PartitionId};
use crate::trace::{Span, TracePhase, Traced};

/// "No partition": there are never so many.
const NO_PARTITION: u16 = u16::MAX;

pub(super) fn write_traced(traced: &Traced, mut builder: wire::traced::Builder<'_>) {
    write_reply(&traced.reply, builder.reborrow().init_reply());
    let mut list = builder.init_spans(traced.spans.len() as u32);
    for (index, span) in traced.spans.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        builder.set_phase(write_phase(span.phase));
        builder.set_node(span.node.0);
        builder.set_partition(span.partition.map_or(NO_PARTITION, |partition| partition.0));
        builder.set_depth(span.depth);
        builder.set_from_us(span.from_us);
        builder.set_until_us(span.until_us);
        builder.set_what(span.what.as_str());
    }
}

pub(super) fn read_traced(reader: wire::traced::Reader<'_>, source: Source<'_>) -> Result<Traced> {
    Ok(Traced {
        reply: read_reply(reader.get_reply()?, source)?,
        spans: read::list(reader.get_spans(), |span| {
            let partition = span.get_partition();
            Ok(Span {
                phase: read_phase(span.get_phase())?,
                node: NodeNumber(span.get_node()),
                partition: (partition != NO_PARTITION).then_some(PartitionId(partition)),
                depth: span.get_depth(),
                from_us: span.get_from_us(),
                until_us: span.get_until_us(),
                what: read::text(span.get_what())?,
            })
        })?,
    })
}

fn write_phase(phase: TracePhase) -> wire::TracePhase {
    match phase {
        TracePhase::Request => wire::TracePhase::Request,
        TracePhase::Worker => wire::TracePhase::Worker,
        TracePhase::Batch => wire::TracePhase::Batch,
        TracePhase::Sync => wire::TracePhase::Sync,
        TracePhase::Follower => wire::TracePhase::Follower,
        TracePhase::Commit => wire::TracePhase::Commit,
        TracePhase::Confirm => wire::TracePhase::Confirm,
        TracePhase::BlockStore => wire::TracePhase::BlockStore,
    }
}

fn read_phase(phase: std::result::Result<wire::TracePhase, capnp::NotInSchema>) -> Result<TracePhase> {
    Ok(match phase? {
        wire::TracePhase::Request => TracePhase::Request,
        wire::TracePhase::Worker => TracePhase::Worker,
        wire::TracePhase::Batch => TracePhase::Batch,
        wire::TracePhase::Sync => TracePhase::Sync,
        wire::TracePhase::Follower => TracePhase::Follower,
        wire::TracePhase::Commit => TracePhase::Commit,
        wire::TracePhase::Confirm => TracePhase::Confirm,
        wire::TracePhase::BlockStore => TracePhase::BlockStore,
    })
}
