//! The cluster as operators see it.

use std::rc::Rc;

use bark_core::worker::gateway::Reach;
use bark_schema::codec;
use bark_schema::generated::client_capnp::{admin, admin::target};
use bark_schema::ids::{InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{
    ClusterStatus, Failure, NodeRequest, PartitionStatus, Query, Refusal, Reply, Request,
};
use bark_schema::placement;
use futures::future::join_all;

use super::authority::{Authority, Held, exception, unexpected};
use super::walk::walk;

/// A partition without a leader must not keep the others' news waiting.
const STATUS_DEADLINE_US: u64 = 1_000_000;

pub struct Admin {
    authority: Authority,
    _held: Held,
}

impl Admin {
    pub fn new(authority: Authority) -> capnp::Result<Admin> {
        let held = authority.connection.hold().map_err(exception)?;
        Ok(Admin {
            authority,
            _held: held,
        })
    }

    async fn cluster(&self) -> capnp::Result<ClusterStatus> {
        self.authority.check_read()?;
        match self
            .authority
            .ask(NodeRequest::ClusterStatus)
            .await
            .map_err(exception)?
        {
            Reply::Cluster(status) => Ok(status),
            other => Err(exception(unexpected(&other))),
        }
    }

    /// Has one node do something; it is not for sessions that only read, or see only a directory.
    async fn tell(&self, node: NodeNumber, request: NodeRequest) -> capnp::Result<()> {
        self.authority.check_write()?;
        self.authority.check_unconfined()?;
        let gateway = self.authority.gateway();
        if !gateway.config().nodes.iter().any(|it| it.number == node) {
            return Err(unknown_node(node));
        }
        match gateway.node(node, request).await.map_err(exception)? {
            Reply::Done => Ok(()),
            other => Err(exception(unexpected(&other))),
        }
    }

    /// What the nodes answer that can be reached.
    async fn ask_each(&self, request: NodeRequest, changes: bool) -> capnp::Result<Vec<Reply>> {
        match changes {
            true => self.authority.check_write()?,
            false => self.authority.check_read()?,
        }
        let gateway = self.authority.gateway();
        let nodes = gateway.config().nodes.clone();
        let asked = nodes
            .iter()
            .map(|node| gateway.node(node.number, request.clone()));
        let answers = join_all(asked).await;
        Ok(answers.into_iter().filter_map(Result::ok).collect())
    }

    /// As its leader has it, if it has one.
    async fn partition(&self, partition: PartitionId) -> Option<PartitionStatus> {
        let gateway = self.authority.gateway();
        let deadline_us = gateway.now().monotonic_us + STATUS_DEADLINE_US;
        let request = Request::Query {
            partition,
            query: Query::PartitionStatus,
        };
        match gateway.call(request, Reach::Cluster, deadline_us).await {
            Ok(Reply::Partition(status)) => Some(status),
            _ => None,
        }
    }
}

fn unknown_node(node: NodeNumber) -> capnp::Error {
    let sentence = format!("there is no {node} in the cluster");
    exception(Failure::refused(Refusal::InvalidArgument, sentence))
}

impl admin::Server for Admin {
    async fn status(
        self: Rc<Self>,
        _: admin::StatusParams,
        mut results: admin::StatusResults,
    ) -> capnp::Result<()> {
        codec::write_cluster_status(&self.cluster().await?, results.get().init_status());
        Ok(())
    }

    async fn nodes(
        self: Rc<Self>,
        _: admin::NodesParams,
        mut results: admin::NodesResults,
    ) -> capnp::Result<()> {
        let nodes = self.cluster().await?.nodes;
        // Nodes are numbered by u16.
        let mut list = results.get().init_nodes(nodes.len() as u32);
        for (index, node) in (0..).zip(&nodes) {
            codec::write_node_status(node, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn partitions(
        self: Rc<Self>,
        _: admin::PartitionsParams,
        mut results: admin::PartitionsResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let count = self.authority.gateway().config().partition_count;
        let asked = (0..count).map(|partition| self.partition(PartitionId(partition)));
        let found = join_all(asked).await;
        let mut list = results.get().init_partitions(u32::from(count));
        for (partition, status) in (0..).zip(found) {
            let mut builder = list.reborrow().get(u32::from(partition));
            match status {
                Some(status) => codec::write_partition_status(&status, builder),
                None => builder.set_partition(partition),
            }
        }
        Ok(())
    }

    async fn drain(self: Rc<Self>, params: admin::DrainParams, _: admin::DrainResults) -> capnp::Result<()> {
        let params = params.get()?;
        let request = NodeRequest::Drain {
            drain: !params.get_undo(),
        };
        self.tell(NodeNumber(params.get_node()), request).await
    }

    async fn replace(
        self: Rc<Self>,
        params: admin::ReplaceParams,
        mut results: admin::ReplaceResults,
    ) -> capnp::Result<()> {
        let node = NodeNumber(params.get()?.get_node());
        let others: Vec<NodeNumber> = self.cluster().await?.nodes.iter().map(|it| it.number).collect();
        if !others.contains(&node) {
            return Err(unknown_node(node));
        }
        let mut admitted = Vec::new();
        for other in others.into_iter().filter(|other| *other != node) {
            if self.tell(other, NodeRequest::Admit { node }).await.is_ok() {
                admitted.push(other);
            }
        }
        // Nodes are numbered by u16.
        let mut list = results.get().init_nodes(admitted.len() as u32);
        for (index, node) in (0..).zip(admitted) {
            list.set(index, node.0);
        }
        Ok(())
    }

    async fn scrub(
        self: Rc<Self>,
        params: admin::ScrubParams,
        mut results: admin::ScrubResults,
    ) -> capnp::Result<()> {
        let start = params.get()?.get_start();
        let answers = self.ask_each(NodeRequest::Scrub { start }, start).await?;
        let is_scrub = |reply| match reply {
            Reply::Scrub(status) => Some(status),
            _ => None,
        };
        let found: Vec<_> = answers.into_iter().filter_map(is_scrub).collect();
        let mut list = results.get().init_nodes(found.len() as u32);
        for (index, status) in (0..).zip(&found) {
            codec::write_scrub_status(status, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn orphans(
        self: Rc<Self>,
        params: admin::OrphansParams,
        mut results: admin::OrphansResults,
    ) -> capnp::Result<()> {
        let give_up = params.get()?.get_give_up();
        let answers = self.ask_each(NodeRequest::Orphans { give_up }, give_up).await?;
        let is_orphans = |reply| match reply {
            Reply::Orphans(orphans) => Some(orphans),
            _ => None,
        };
        let found: Vec<_> = answers.into_iter().filter_map(is_orphans).collect();
        let mut list = results.get().init_nodes(found.len() as u32);
        for (index, orphans) in (0..).zip(&found) {
            codec::write_orphans(orphans, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn locate(
        self: Rc<Self>,
        params: admin::LocateParams,
        mut results: admin::LocateResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let config = self.authority.gateway().config();
        let (partition, inode) = match params.get()?.get_target()?.which()? {
            target::Key(key) => (placement::partition_of_key(key?, config.partition_count), None),
            target::Path(path) => {
                let found = walk(&self.authority, InodeId::ROOT, path?, true)
                    .await
                    .map_err(exception)?;
                (found.inode.home(), Some(found.inode))
            }
        };
        let leader = self.partition(partition).await.and_then(|status| status.leader);
        let mut results = results.get();
        results.set_partition(partition.0);
        results.set_leader(leader.map_or(0, |leader| leader.0));
        results.set_inode(inode.map_or(0, |inode| inode.0));
        let replicas = config.replicas_of(partition);
        // Copies are counted in u16.
        let mut list = results.init_replicas(replicas.len() as u32);
        for (index, node) in (0..).zip(replicas) {
            list.set(index, node.0);
        }
        Ok(())
    }
}
