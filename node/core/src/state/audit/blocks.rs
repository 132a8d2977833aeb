//! What is recorded of blocks: told, so that the nodes named can be asked, and never in the ledger too.

use bark_schema::audit::{AuditBlock, AuditCheck, AuditPage, AuditPosition};
use bark_schema::ids::{BlockId, ClientId};
use bark_schema::limits::BLOCK_SIZE_MAX;

use super::super::State;
use super::fault_in;

impl State {
    /// Position: the client and counter of a block.
    pub(super) fn audit_blocks(&self, from: AuditPosition, limit: u64, page: &mut AuditPage) {
        let first = BlockId {
            client: ClientId(from.high),
            counter: from.low,
        };
        for (block, row) in self.blocks.range(first..) {
            if page.rows >= limit {
                page.next = Some(AuditPosition {
                    high: block.client.0,
                    low: block.counter,
                });
                return;
            }
            page.rows += 1;
            if self.garbage.contains(block) {
                page.faults
                    .push(fault_in(AuditCheck::BlockInLedger, *block, 0, 0));
            }
            if row.size as usize > BLOCK_SIZE_MAX {
                let fault = fault_in(
                    AuditCheck::BlockSize,
                    *block,
                    BLOCK_SIZE_MAX as u64,
                    row.size.into(),
                );
                page.faults.push(fault);
            }
            page.blocks.push(AuditBlock {
                block: *block,
                size: row.size,
                checksum: row.checksum,
                nodes: row.nodes.to_vec(),
            });
        }
    }
}
