//! The bootstrap capability: nothing can be done with it but log in.

use std::rc::Rc;

use bark_schema::generated::client_capnp::{bark, session};

use super::authority::{Authority, Connection, or_broken};
use super::session::Session;

pub struct Bark {
    connection: Rc<Connection>,
}

impl Bark {
    pub fn new(connection: Rc<Connection>) -> Bark {
        Bark { connection }
    }
}

impl bark::Server for Bark {
    /// Nodes have no tokens yet: every token is good, as on the framed protocol.
    async fn login(
        self: Rc<Self>,
        _: bark::LoginParams,
        mut results: bark::LoginResults,
    ) -> capnp::Result<()> {
        let authority = Authority::full(self.connection.clone());
        let made: capnp::Result<session::Client> = Session::new(authority).map(capnp_rpc::new_client);
        results.get().set_session(or_broken(&made));
        made.map(drop)
    }
}
