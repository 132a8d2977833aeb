//! A cluster for tests: real sockets and frames, an in-memory state, and a script of what goes wrong.

#![allow(dead_code)] // each test binary uses its part

mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bark_schema::codec::{decode_client, encode_server};
use bark_schema::frame::FrameDecoder;
use bark_schema::ids::NodeNumber;
use bark_schema::limits::{FRAME_ENVELOPE_MAX, MIB};
use bark_schema::message::{
    ClientMessage, PREAMBLE_CLIENT, PROTOCOL_VERSION, ServerMessage, Welcome, WelcomeNode,
};
use bark_schema::operation::{Failure, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub use self::state::State;

/// Largest value of a key here.
pub const VALUE_SIZE_MAX: usize = 32 * MIB;

/// What happens to one request.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    /// Answered without being looked at.
    Fail(Failure),
    /// Applied, and the answer is this failure.
    FailAfter(Failure),
    DropBefore,
    DropAfter,
    AnswerTwice,
    Delay(Duration),
    /// Everything but this is answered.
    Never,
}

pub type Script = Box<dyn FnMut(NodeNumber, &Request) -> Fault + Send>;

/// The running cluster.
pub struct FakeCluster {
    pub addresses: Vec<String>,
    pub state: Arc<Mutex<State>>,
    script: Arc<Mutex<Script>>,
}

impl FakeCluster {
    pub async fn start(node_count: u16, partition_count: u16) -> FakeCluster {
        let mut listeners = Vec::new();
        for _ in 0..node_count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
        }
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| {
                let address: SocketAddr = listener.local_addr().expect("an address");
                address.to_string()
            })
            .collect();
        let nodes: Vec<WelcomeNode> = (1..=node_count)
            .zip(&addresses)
            .map(|(number, address)| WelcomeNode {
                number: NodeNumber(number),
                id: format!("node-{number}"),
                capnp: address.clone(),
                zone: String::new(),
            })
            .collect();
        let cluster = FakeCluster {
            addresses,
            state: Arc::new(Mutex::new(State::new(nodes.clone(), partition_count))),
            script: Arc::new(Mutex::new(Box::new(|_, _| Fault::None))),
        };
        for (number, listener) in (1..).zip(listeners) {
            let welcome = Welcome {
                version: PROTOCOL_VERSION,
                cluster: "fake".into(),
                node: NodeNumber(number),
                partition_count,
                replicas: node_count.min(3),
                vnodes: 16,
                nodes: nodes.clone(),
                value_size_max: VALUE_SIZE_MAX as u32,
            };
            let (state, script) = (cluster.state.clone(), cluster.script.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let node = Connection {
                        node: NodeNumber(number),
                        state: state.clone(),
                        script: script.clone(),
                    };
                    tokio::spawn(node.serve(stream, welcome.clone()));
                }
            });
        }
        cluster
    }

    /// Decides what goes wrong from now on.
    pub fn script(&self, script: impl FnMut(NodeNumber, &Request) -> Fault + Send + 'static) {
        *self.script.lock().expect("script") = Box::new(script);
    }
}

struct Connection {
    node: NodeNumber,
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Script>>,
}

impl Connection {
    /// None: the connection is over.
    async fn serve(self, mut stream: TcpStream, welcome: Welcome) -> Option<()> {
        let mut preamble = [0; 8];
        stream.read_exact(&mut preamble).await.ok()?;
        assert_eq!(preamble, PREAMBLE_CLIENT);
        let mut decoder = FrameDecoder::new(VALUE_SIZE_MAX + FRAME_ENVELOPE_MAX);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            while let Some(frame) = decoder.next().expect("a sound frame") {
                let mut out = Vec::new();
                match decode_client(&frame).expect("a sound message") {
                    ClientMessage::Login { .. } => {
                        encode_server(&ServerMessage::Welcome(Ok(welcome.clone())), &mut out);
                    }
                    ClientMessage::Request { id, request, .. } => self.request(id, request, &mut out).await?,
                }
                stream.write_all(&out).await.ok()?;
            }
            let size = stream.read(&mut chunk).await.ok().filter(|size| *size > 0)?;
            decoder.push(&chunk[..size]);
        }
    }

    async fn request(&self, id: u64, request: Request, out: &mut Vec<u8>) -> Option<()> {
        let fault = (self.script.lock().expect("script"))(self.node, &request);
        let apply = || self.state.lock().expect("state").apply(self.node, &request);
        let result = match fault {
            Fault::None => apply(),
            Fault::Fail(failure) => Err(failure),
            Fault::FailAfter(failure) => {
                // The effect stays, only the answer is lost.
                let _ = apply();
                Err(failure)
            }
            Fault::DropBefore => return None,
            Fault::Never => return Some(()),
            Fault::DropAfter => {
                let _ = apply();
                return None;
            }
            Fault::AnswerTwice => {
                let result = apply();
                encode_server(&ServerMessage::Reply { id, result }, out);
                apply()
            }
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                apply()
            }
        };
        encode_server(&ServerMessage::Reply { id, result }, out);
        Some(())
    }
}
