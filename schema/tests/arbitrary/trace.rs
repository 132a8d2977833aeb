//! Answers with where their time went.

use bark_schema::ids::PartitionId;
use bark_schema::operation::Reply;
use bark_schema::trace::*;

use super::Generator;

impl Generator {
    pub(super) fn traced(&mut self) -> Traced {
        Traced {
            reply: Reply::Count(self.number()),
            spans: self.list(|generator| Span {
                phase: match generator.choose("TracePhase", 8) {
                    0 => TracePhase::Request,
                    1 => TracePhase::Worker,
                    2 => TracePhase::Batch,
                    3 => TracePhase::Sync,
                    4 => TracePhase::Follower,
                    5 => TracePhase::Commit,
                    6 => TracePhase::Confirm,
                    _ => TracePhase::BlockStore,
                },
                node: generator.node(),
                partition: generator.option(|generator| PartitionId(generator.u32() as u16 & 0x7fff)),
                depth: generator.u32() as u16,
                from_us: generator.number(),
                until_us: generator.number(),
                what: generator.text(),
            }),
        }
    }
}
