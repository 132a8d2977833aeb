//! One login, or a part of one that was handed on.

use std::rc::Rc;

use bark_schema::generated::client_capnp::{admin, file_system, key_value, session};
use bark_schema::operation::{Failure, FileKind, Refusal};
use bytes::Bytes;

use super::admin::Admin;
use super::authority::{Authority, Held, exception, or_broken};
use super::file_system::FileSystem;
use super::key_value::KeyValue;
use super::walk::walk;

pub struct Session {
    authority: Authority,
    _held: Held,
}

impl Session {
    pub fn new(authority: Authority) -> capnp::Result<Session> {
        let held = authority.connection.hold().map_err(exception)?;
        Ok(Session {
            authority,
            _held: held,
        })
    }

    async fn restricted(&self, params: session::RestrictParams) -> capnp::Result<session::Client> {
        self.authority.check_read()?;
        let mut authority = self.authority.clone();
        let (directory, until_ms) = {
            let params = params.get()?;
            authority.read_only |= params.get_read_only();
            (
                Bytes::copy_from_slice(params.get_directory()?),
                params.get_until_ms(),
            )
        };
        if until_ms > 0 {
            authority.until = Some(authority.until.map_or(until_ms, |earlier| earlier.min(until_ms)));
        }
        if !directory.is_empty() {
            let found = walk(&self.authority, self.authority.root, &directory, true)
                .await
                .map_err(exception)?;
            if found.kind != FileKind::Directory {
                return Err(exception(Failure::refused(
                    Refusal::NotDirectory,
                    "Not a directory",
                )));
            }
            authority.root = found.inode;
            authority.confined = true;
        }
        Session::new(authority).map(capnp_rpc::new_client)
    }
}

impl session::Server for Session {
    async fn file_system(
        self: Rc<Self>,
        _: session::FileSystemParams,
        mut results: session::FileSystemResults,
    ) -> capnp::Result<()> {
        let checked = self.authority.check_read();
        let made = checked.and_then(|()| FileSystem::new(self.authority.clone()));
        let made: capnp::Result<file_system::Client> = made.map(capnp_rpc::new_client);
        results.get().set_file_system(or_broken(&made));
        made.map(drop)
    }

    async fn key_value(
        self: Rc<Self>,
        _: session::KeyValueParams,
        mut results: session::KeyValueResults,
    ) -> capnp::Result<()> {
        let checked = self.authority.check_unconfined();
        let made = checked.and_then(|()| KeyValue::new(self.authority.clone()));
        let made: capnp::Result<key_value::Client> = made.map(capnp_rpc::new_client);
        results.get().set_key_value(or_broken(&made));
        made.map(drop)
    }

    async fn admin(
        self: Rc<Self>,
        _: session::AdminParams,
        mut results: session::AdminResults,
    ) -> capnp::Result<()> {
        let checked = self.authority.check_unconfined();
        let made = checked.and_then(|()| Admin::new(self.authority.clone()));
        let made: capnp::Result<admin::Client> = made.map(capnp_rpc::new_client);
        results.get().set_admin(or_broken(&made));
        made.map(drop)
    }

    async fn restrict(
        self: Rc<Self>,
        params: session::RestrictParams,
        mut results: session::RestrictResults,
    ) -> capnp::Result<()> {
        let made = self.restricted(params).await;
        results.get().set_session(or_broken(&made));
        made.map(drop)
    }
}
