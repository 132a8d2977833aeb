//! Reading names, attributes and what belongs to inodes, and comparing all of it.

use std::collections::BTreeMap;

use bark_client::session::Call;
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, ListPosition, Query, Refusal, Reply};
use bytes::Bytes;

use super::super::reference::Body;
use super::Owner;

impl Owner {
    /// Asks about something that is certain to be there; None if nobody could be asked.
    async fn ask(&self, inode: InodeId, query: Query) -> Option<Reply> {
        let partition = inode.home();
        let story = format!("{query:?}");
        match self
            .port
            .call(Call::Query { partition, query }, self.deadline_ms)
            .await
        {
            Ok(reply) => Some(reply),
            Err(Failure::Refused(refusal, sentence)) => {
                self.fail(format!("{story} was refused: {refusal:?}, {sentence}"));
                None
            }
            Err(_) => None,
        }
    }

    pub(super) async fn list_one(&mut self) {
        let directory = self.any_directory();
        self.list(directory).await;
    }

    /// Lists a directory and compares the names; true if it could be listed.
    pub(super) async fn list(&mut self, directory: InodeId) -> bool {
        let query = Query::ReadDirectory {
            directory,
            after: ListPosition::Start,
            limit: 4096,
        };
        let (listed, listed_parent) = match self.ask(directory, query).await {
            Some(Reply::Directory { entries, parent, .. }) => (entries, parent),
            Some(other) => {
                self.fail(format!("list of {directory} was answered {other:?}"));
                return false;
            }
            None => return false,
        };
        for attributes in listed.iter().filter_map(|entry| entry.attributes.as_ref()) {
            if let Err(reason) = self.reference.agree(attributes) {
                self.fail(format!("in a list of {directory}, {reason}"));
            }
        }
        let known = self.reference.get(directory).map(|inode| &inode.body);
        let Some(Body::Directory {
            parent,
            entries,
            unsure,
        }) = known
        else {
            return true;
        };
        let found: BTreeMap<Bytes, InodeId> = listed
            .into_iter()
            .map(|entry| (entry.name, entry.inode))
            .filter(|(name, _)| !unsure.contains(name))
            .collect();
        if found != *entries || listed_parent != *parent {
            self.fail(format!(
                "{directory} (parent {listed_parent}) lists {found:?}, expected {entries:?} (parent {parent})"
            ));
        }
        true
    }

    pub(super) async fn look_at_one(&mut self) {
        let all = self.reference.sure();
        if let Some(inode) = self.pick(&all) {
            self.look_at(inode).await;
        }
    }

    /// Compares attributes, extended ones, and a link's target; true if all could be asked for.
    pub(super) async fn look_at(&mut self, inode: InodeId) -> bool {
        let attributes = match self.ask(inode, Query::Attributes { inode }).await {
            Some(Reply::Attributes(attributes)) => attributes,
            Some(other) => {
                self.fail(format!("attributes of {inode} were answered {other:?}"));
                return false;
            }
            None => return false,
        };
        if let Err(reason) = self.reference.agree(&attributes) {
            self.fail(reason);
        }
        self.compare_xattrs(inode).await && self.compare_target(inode).await
    }

    async fn compare_xattrs(&mut self, inode: InodeId) -> bool {
        let Some(known) = self.reference.get(inode).map(|inode| inode.xattrs.clone()) else {
            return true;
        };
        let names: Vec<Bytes> = match self.ask(inode, Query::XattrList { inode }).await {
            Some(Reply::Xattrs(names)) => names,
            Some(other) => {
                self.fail(format!("xattrs of {inode} were answered {other:?}"));
                return false;
            }
            None => return false,
        };
        if !names.iter().eq(known.keys()) {
            let expected: Vec<&Bytes> = known.keys().collect();
            self.fail(format!("{inode} has the xattrs {names:?}, expected {expected:?}"));
        }
        for (name, value) in known {
            let query = Query::XattrGet { inode, name };
            match self.ask(inode, query).await {
                Some(Reply::Xattr(found)) if found == value => {}
                Some(other) => self.fail(format!("xattr of {inode} is {other:?}, expected {value:?}")),
                None => return false,
            }
        }
        true
    }

    async fn compare_target(&mut self, inode: InodeId) -> bool {
        let Some(known) = self.reference.get(inode) else {
            return true;
        };
        let target = match &known.body {
            Body::Symlink(target) => Some(target.clone()),
            _ => None,
        };
        let query = Query::ReadLink { inode };
        let partition = inode.home();
        match (
            self.port
                .call(Call::Query { partition, query }, self.deadline_ms)
                .await,
            target,
        ) {
            (Ok(Reply::Link(found)), Some(target)) if found == target => true,
            (Err(Failure::Refused(Refusal::InvalidArgument, _)), None) => true,
            (Ok(_) | Err(Failure::Refused(..)), target) => {
                self.fail(format!("{inode} leads elsewhere than to {target:?}"));
                false
            }
            (Err(_), _) => false,
        }
    }
}
