//! The tree as a session sees it.

use std::rc::Rc;

use bark_schema::generated::client_capnp::file_system;
use bark_schema::ids::PartitionId;
use bark_schema::operation::{NodeRequest, Query, Reply};
use futures::future::try_join_all;

use super::authority::{Authority, Held, exception, or_broken, unexpected};
use super::node::Node;

pub struct FileSystem {
    authority: Authority,
    _held: Held,
}

impl FileSystem {
    pub fn new(authority: Authority) -> capnp::Result<FileSystem> {
        let held = authority.connection.hold().map_err(exception)?;
        Ok(FileSystem {
            authority,
            _held: held,
        })
    }
}

impl file_system::Server for FileSystem {
    async fn root(
        self: Rc<Self>,
        _: file_system::RootParams,
        mut results: file_system::RootResults,
    ) -> capnp::Result<()> {
        let checked = self.authority.check_read();
        let made = checked.and_then(|()| Node::new_client(&self.authority, self.authority.root));
        results.get().set_node(or_broken(&made));
        made.map(drop)
    }

    async fn walk(
        self: Rc<Self>,
        params: file_system::WalkParams,
        mut results: file_system::WalkResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (path, follow_last) = (params.get_path()?, params.get_follow_last());
        let made = Node::walk_from(&self.authority, self.authority.root, path, follow_last).await;
        results.get().set_node(or_broken(&made));
        made.map(drop)
    }

    async fn statistics(
        self: Rc<Self>,
        _: file_system::StatisticsParams,
        mut results: file_system::StatisticsResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let disk = match self
            .authority
            .ask(NodeRequest::ClusterStatus)
            .await
            .map_err(exception)?
        {
            Reply::Cluster(status) => status,
            other => return Err(exception(unexpected(&other))),
        };
        let count = self.authority.gateway().config().partition_count;
        let asked = (0..count).map(|partition| {
            self.authority
                .query(PartitionId(partition), Query::PartitionStatus)
        });
        let (mut file_bytes, mut inodes) = (0_u64, 0_u64);
        for reply in try_join_all(asked).await.map_err(exception)? {
            match reply {
                Reply::Partition(status) => {
                    file_bytes = file_bytes.saturating_add(status.file_bytes);
                    inodes = inodes.saturating_add(status.inodes);
                }
                other => return Err(exception(unexpected(&other))),
            }
        }
        let mut results = results.get();
        results.set_total_bytes(disk.disk_total_bytes);
        results.set_free_bytes(disk.disk_free_bytes);
        results.set_file_bytes(file_bytes);
        results.set_inodes(inodes);
        Ok(())
    }
}
