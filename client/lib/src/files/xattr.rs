//! Extended attributes by path, links followed.

use bark_schema::operation::{Command, Condition, Query, Reply, Xattr};
use bytes::Bytes;

use super::Files;
use crate::{ClusterPath, Error};

impl Files {
    /// The value of an attribute; refused with `NoData` if there is none of this name.
    pub async fn xattr(&self, path: &ClusterPath, name: impl Into<Bytes>) -> Result<Bytes, Error> {
        let inode = self.stat(path).await?.inode;
        let name = name.into();
        match self
            .query(path, inode.home(), Query::XattrGet { inode, name })
            .await?
        {
            Reply::Xattr(value) => Ok(value),
            other => Err(Error::protocol(path.to_string(), &other)),
        }
    }

    /// The names of all attributes, in byte order.
    pub async fn xattr_names(&self, path: &ClusterPath) -> Result<Vec<Bytes>, Error> {
        let inode = self.stat(path).await?.inode;
        match self.query(path, inode.home(), Query::XattrList { inode }).await? {
            Reply::Xattrs(names) => Ok(names),
            other => Err(Error::protocol(path.to_string(), &other)),
        }
    }

    /// Sets an attribute, whether or not there is one of this name.
    pub async fn set_xattr(&self, path: &ClusterPath, xattr: Xattr) -> Result<(), Error> {
        let inode = self.stat(path).await?.inode;
        let command = Command::XattrSet {
            inode,
            xattr,
            condition: Condition::Always,
            mode: None,
        };
        self.change(path, inode, command).await
    }

    /// Removes an attribute; refused with `NoData` if there is none of this name.
    pub async fn remove_xattr(&self, path: &ClusterPath, name: impl Into<Bytes>) -> Result<(), Error> {
        let inode = self.stat(path).await?.inode;
        let name = name.into();
        self.change(path, inode, Command::XattrRemove { inode, name })
            .await
    }
}
