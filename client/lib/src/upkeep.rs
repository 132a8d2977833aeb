//! What operators ask of the blocks on nodes: whether copies are good, and what is to be dropped.

use bark_schema::data::DataQuery;
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{NodeRequest, Query, Reply};
use bark_schema::upkeep::{LedgerRow, Orphans, ScrubStatus};

use crate::session::Call;
use crate::{Client, Error};

/// Rows of a ledger asked for at once.
const LEDGER_PAGE: u32 = 1024;

impl Client {
    /// How a node's reading of all its copies of blocks goes; with `start` it begins anew.
    pub async fn scrub(&self, node: NodeNumber, start: bool) -> Result<ScrubStatus, Error> {
        let call = Call::NamedNode(node, NodeRequest::Scrub { start });
        match self.call(call).await {
            Ok(Reply::Scrub(status)) => Ok(status),
            Ok(other) => Err(Error::protocol(node.to_string(), &other)),
            Err(failure) => Err(Error::new(node.to_string(), failure)),
        }
    }

    /// Blocks of a node that no record knows; with `give_up` those that are old enough are dropped.
    pub async fn orphans(&self, node: NodeNumber, give_up: bool) -> Result<Orphans, Error> {
        let call = Call::NamedNode(node, NodeRequest::Orphans { give_up });
        match self.call(call).await {
            Ok(Reply::Orphans(orphans)) => Ok(orphans),
            Ok(other) => Err(Error::protocol(node.to_string(), &other)),
            Err(failure) => Err(Error::new(node.to_string(), failure)),
        }
    }

    /// Blocks of a partition that nobody needs and that are not dropped yet.
    pub async fn ledger(&self, partition: PartitionId) -> Result<Vec<LedgerRow>, Error> {
        let mut ledger = Vec::new();
        loop {
            let after = ledger.last().map(|row: &LedgerRow| row.block);
            let query = DataQuery::Ledger {
                after,
                limit: LEDGER_PAGE,
            };
            match self.query(partition, Query::Data(query)).await {
                Ok(Reply::Ledger { rows, more }) => {
                    let is_last = !more || rows.is_empty();
                    ledger.extend(rows);
                    if is_last {
                        return Ok(ledger);
                    }
                }
                Ok(other) => return Err(Error::protocol(partition.to_string(), &other)),
                Err(failure) => return Err(Error::new(partition.to_string(), failure)),
            }
        }
    }
}
