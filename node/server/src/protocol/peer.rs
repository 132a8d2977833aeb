//! The receiving half of a connection from another node.
//!
//! Each node opens its own connections to send on and only listens on those it accepted, so two nodes never
//! have to agree on which of two crossing connections lives. What arrives goes to the worker's next turn.
//!
//! Invariants:
//! - Nothing but a hello is accepted before a valid hello; a hello of another cluster, of a contradicting
//!   cluster file, of this very node or of a node with an unknown disk ends the connection.
//! - A frame is refused by its header before anything is allocated for it.

use bark_core::members::DiskClaim;
use bark_core::worker::event::Input;
use bark_schema::codec;
use bark_schema::frame::FrameDecoder;
use bark_schema::ids::NodeNumber;
use bark_schema::limits;
use bark_schema::message::{PROTOCOL_VERSION, PeerHello, PeerMessage};

use super::{Close, Context, Protocol};

pub struct PeerReceiver {
    context: Context,
    frames: FrameDecoder,
    node: Option<NodeNumber>,
}

impl PeerReceiver {
    /// The preamble was read already.
    pub fn new(context: Context) -> PeerReceiver {
        PeerReceiver {
            context,
            frames: FrameDecoder::new(limits::FRAME_SIZE_GREETING_MAX),
            node: None,
        }
    }

    fn greet(&mut self, hello: &PeerHello) -> Result<NodeNumber, Close> {
        let settings = &self.context.settings;
        let ours = &settings.cluster.name;
        if hello.version != PROTOCOL_VERSION {
            return Err(Close(format!(
                "{} speaks peer protocol {}, this node {PROTOCOL_VERSION}",
                hello.node, hello.version
            )));
        }
        if hello.cluster != *ours {
            return Err(Close(format!(
                "{} belongs to cluster {:?}, this node to {ours:?}",
                hello.node, hello.cluster
            )));
        }
        if hello.map_digest != settings.map_digest {
            return Err(Close(format!(
                "{} has another cluster file: all nodes need the same one",
                hello.node
            )));
        }
        if hello.node == settings.node
            || !settings
                .cluster
                .nodes
                .iter()
                .any(|node| node.number == hello.node)
        {
            return Err(Close(format!(
                "{} is not another member of the cluster",
                hello.node
            )));
        }
        self.follow_disk(hello)?;
        Ok(hello.node)
    }

    /// Takes the node for who it says it is only with the disk it is known by.
    fn follow_disk(&self, hello: &PeerHello) -> Result<(), Close> {
        let claim = DiskClaim {
            incarnation: hello.incarnation,
            log_position: hello.log_position,
            rejoining: hello.rejoining,
        };
        let mut members = self.context.settings.members();
        // A node tells how far it is on its control connection, and its other connection's hello may be read after that
        // though it was written before. An older copy of a disk is told by the control connection, whose hello comes first.
        if hello.bulk && members.lags(hello.node, claim) {
            return Err(Close(format!(
                "{}: its hello was overtaken; it comes again",
                hello.node
            )));
        }
        let greeted = members.greet(hello.node, claim);
        if members.take_changed() {
            self.context.members_changed.set(true);
        }
        drop(members);
        self.context.peer_inbox.borrow_mut().push(Input::PeerGreeted {
            node: hello.node,
            refusal: greeted.err(),
        });
        greeted.map_err(|refusal| Close(format!("{} is refused: {refusal:?}", hello.node)))
    }
}

impl Protocol for PeerReceiver {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        self.frames.push(bytes);
        while let Some(frame) = self.frames.next().map_err(|error| Close(error.to_string()))? {
            let message = codec::decode_peer(&frame).map_err(|error| Close(error.to_string()))?;
            match (self.node, message) {
                (None, PeerMessage::Hello(hello)) => {
                    self.node = Some(self.greet(&hello)?);
                    self.frames.set_limit(limits::FRAME_SIZE_PEER_MAX);
                }
                (None, _) => return Err(Close("a peer spoke before its hello".to_string())),
                (Some(from), message) => {
                    if let PeerMessage::Standing(standing) = &message {
                        let settings = &self.context.settings;
                        settings.members().told_position(from, standing.log_position);
                    }
                    self.context
                        .peer_inbox
                        .borrow_mut()
                        .push(Input::Peer { from, message });
                }
            }
        }
        Ok(())
    }
}
