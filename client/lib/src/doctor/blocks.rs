//! Recorded blocks against what the nodes have: both come in the order of their ids, so they pass by side by side
//! and nothing is kept but a page of each.

use std::collections::{BTreeMap, VecDeque};

use bark_schema::audit::{AuditBlock, AuditPage, AuditPart, AuditPosition};
use bark_schema::ids::{BlockId, ClientId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Failure, NodeRequest};

use super::finding::{Finding, FindingKind};
use super::suspects::Look;
use super::{Examination, PAGE_ROWS, SUSPECTS_MAX, Source, audit_page};

/// A copy that was not as recorded: its block, the block's home, and who should have it.
type Suspect = (BlockId, PartitionId, NodeNumber);

/// Blocks in order, a page at a time.
struct Stream {
    page: VecDeque<AuditBlock>,
    /// Where the next page begins; None at the end.
    next: Option<AuditPosition>,
}

impl Stream {
    fn new() -> Stream {
        Stream {
            page: VecDeque::new(),
            next: Some(AuditPosition::default()),
        }
    }

    fn take(&mut self, page: AuditPage) {
        self.next = page.next.filter(|next| self.next.is_none_or(|now| *next > now));
        self.page = page.blocks.into();
    }
}

impl<S: Source> Examination<'_, S> {
    pub(super) async fn blocks(&mut self) {
        let mut records: BTreeMap<PartitionId, Stream> = (0..self.members.partition_count)
            .map(|partition| (PartitionId(partition), Stream::new()))
            .collect();
        let mut copies: BTreeMap<NodeNumber, Stream> = self
            .members
            .nodes
            .keys()
            .map(|node| (*node, Stream::new()))
            .collect();
        let mut suspects: Vec<Suspect> = Vec::new();
        loop {
            self.fill_records(&mut records).await;
            let first = records
                .iter()
                .filter_map(|(partition, stream)| Some((stream.page.front()?.block, *partition)))
                .min();
            let Some((_, home)) = first else { break };
            let Some(record) = records.get_mut(&home).and_then(|stream| stream.page.pop_front()) else {
                break;
            };
            self.report.looked.blocks += 1;
            for node in &record.nodes {
                // Of a node that does not answer that is said already.
                let Some(stream) = copies.get_mut(node) else {
                    continue;
                };
                if let Err(failure) = self.pass_to(*node, stream, record.block).await {
                    self.report.unanswered(self.node_name(*node), &failure);
                    copies.remove(node);
                    continue;
                }
                self.report.looked.copies += 1;
                let is_right = stream.page.front().is_some_and(|copy| is_copy(&record, copy));
                if !is_right && suspects.len() < SUSPECTS_MAX {
                    suspects.push((record.block, home, *node));
                } else if !is_right {
                    self.report.more += 1;
                }
            }
        }
        let home = |suspect: &Suspect| suspect.1;
        let look = async |this: &Self, suspect: &Suspect| this.look_at_copy(*suspect).await;
        for ((block, home, node), copy) in self.settle(suspects, home, look).await {
            let node_name = self.node_name(node);
            let (kind, sentence) = match copy {
                None => {
                    let sentence = format!("{node_name} does not have it, though {home} records it there");
                    (FindingKind::CopyMissing, sentence)
                }
                Some((size, checksum)) => {
                    let sentence = format!(
                        "{node_name} has it with {size} bytes and checksum {checksum:08x}, which is not what {home} records"
                    );
                    (FindingKind::CopyDiffers, sentence)
                }
            };
            self.report.add(Finding {
                partition: Some(home),
                node: Some(node),
                block: Some(block),
                ..Finding::new(kind, block.to_string(), sentence)
            });
        }
    }

    /// Gets the next page wherever the last one is used up.
    async fn fill_records(&mut self, records: &mut BTreeMap<PartitionId, Stream>) {
        for (partition, stream) in records {
            while let (true, Some(from)) = (stream.page.is_empty(), stream.next) {
                match self.page(*partition, AuditPart::Blocks, from, PAGE_ROWS).await {
                    Ok(page) => {
                        self.report.looked.rows += page.rows;
                        for fault in &page.faults {
                            let finding = self.describe_fault(*partition, fault).await;
                            self.report.add(finding);
                        }
                        stream.take(page);
                    }
                    Err(failure) => {
                        self.report.unanswered(partition.to_string(), &failure);
                        stream.next = None;
                    }
                }
            }
        }
    }

    /// Lets a node's blocks pass until `block`, or the first behind it, is in front.
    async fn pass_to(&self, node: NodeNumber, stream: &mut Stream, block: BlockId) -> Result<(), Failure> {
        loop {
            while stream.page.front().is_some_and(|copy| copy.block < block) {
                stream.page.pop_front();
            }
            if !stream.page.is_empty() || stream.next.is_none() {
                return Ok(());
            }
            // Blocks before the one that is looked for need not be seen.
            let blocks = self
                .blocks_of(node, before(block), BLOCKS_PER_COMMAND_MAX as u32)
                .await?;
            stream.next = blocks.last().and(stream.next);
            stream.page = blocks.into();
        }
    }

    async fn blocks_of(
        &self,
        node: NodeNumber,
        after: Option<BlockId>,
        limit: u32,
    ) -> Result<Vec<AuditBlock>, Failure> {
        let request = NodeRequest::BlockAudit { after, limit };
        Ok(audit_page(self.source.node(node, request).await?)?.blocks)
    }

    /// A copy and its record as they are now.
    async fn look_at_copy(&self, (block, home, node): Suspect) -> Result<Look<Option<(u32, u32)>>, Failure> {
        let from = AuditPosition {
            high: block.client.0,
            low: block.counter,
        };
        let copies = self.blocks_of(node, before(block), 1).await?;
        let page = self.page(home, AuditPart::Blocks, from, 1).await?;
        let record = page.blocks.into_iter().find(|record| record.block == block);
        let Some(record) = record.filter(|record| record.nodes.contains(&node)) else {
            return Ok(Look::Fits);
        };
        let copy = copies.into_iter().find(|copy| copy.block == block);
        match copy {
            Some(copy) if is_copy(&record, &copy) => Ok(Look::Fits),
            copy => Ok(Look::Differs(copy.map(|copy| (copy.size, copy.checksum)))),
        }
    }
}

fn is_copy(record: &AuditBlock, copy: &AuditBlock) -> bool {
    (record.block, record.size, record.checksum) == (copy.block, copy.size, copy.checksum)
}

/// The id right before one: pages of a node begin behind an id.
fn before(block: BlockId) -> Option<BlockId> {
    match (block.client.0.checked_sub(1), block.counter.checked_sub(1)) {
        (_, Some(counter)) => Some(BlockId { counter, ..block }),
        (Some(client), None) => Some(BlockId {
            client: ClientId(client),
            counter: u64::MAX,
        }),
        (None, None) => None,
    }
}
