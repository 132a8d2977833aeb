//! The gateway's capnp-rpc session to a node, on a thread of its own.
//!
//! One connection, made when the first call comes and again after it broke, to the next node then. Calls are sent as
//! they come and answered in any order. A method of a node or a file is pipelined on the walk to its path: one
//! round trip.
//!
//! Invariants:
//! - Nothing of the library leaves the thread: calls come as bytes and go as JSON.
//! - A call that could not be sent is EAGAIN, one whose connection broke is UNKNOWN.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use axum::http::StatusCode;
use bark_schema::generated::client_capnp::{admin, bark, file, file_system, key_value, node};
use bark_schema::limits::FRAME_SIZE_PEER_MAX;
use bark_schema::operation::Refusal;
use capnp::capability::{Client, FromClientHook};
use capnp::message::ReaderOptions;
use capnp::{any_pointer, dynamic_value};
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use futures::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::stream::Stream;
use super::{Interface, Method, Target};
use crate::json::Object;
use crate::problem::Problem;
use crate::schema_json;

/// Calls handed over and not yet looked at; more wait at the door.
const QUEUE_MAX: usize = 256;
/// Largest results spelled out in JSON; of this size they take some 50 MiB for a moment.
const RESULTS_SIZE_MAX: u64 = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Reads of files do not hurt when published first.
const READING: [&str; 4] = ["read", "size", "done", "sync"];

/// One call, as what may cross threads.
pub struct Call {
    pub interface: &'static Interface,
    pub number: u16,
    pub method: &'static Method,
    /// Of a node or file.
    pub path: Vec<u8>,
    /// The parameters' message.
    pub parameters: Vec<u8>,
}

struct Job {
    call: Call,
    /// Where nodes listen, in the order to try them.
    nodes: Vec<String>,
    answer: oneshot::Sender<Result<Object, Problem>>,
}

/// Where calls are handed over. The thread ends with the last of these.
pub struct Sessions {
    jobs: mpsc::Sender<Job>,
}

impl Sessions {
    pub fn start() -> Sessions {
        let (jobs, received) = mpsc::channel(QUEUE_MAX);
        let spawned = std::thread::Builder::new()
            .name("rpc".into())
            .spawn(|| run(received));
        if let Err(error) = spawned {
            // The receiver is gone with it, so every call is refused.
            tracing::error!(%error, "no thread for capnp-rpc");
        }
        Sessions { jobs }
    }

    /// Makes the call at one of these nodes.
    pub async fn call(&self, nodes: Vec<String>, call: Call) -> Result<Object, Problem> {
        let (answer, answered) = oneshot::channel();
        let gone = || Problem::unavailable("the session to the nodes has ended");
        let job = Job { call, nodes, answer };
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn run(mut jobs: mpsc::Receiver<Job>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for capnp-rpc"),
    };
    let link = Rc::new(Link::default());
    LocalSet::new().block_on(&runtime, async move {
        while let Some(job) = jobs.recv().await {
            let link = link.clone();
            spawn_local(async move {
                let result = link.carry_out(&job).await;
                // Whoever asked may have gone away.
                let _ = job.answer.send(result);
            });
        }
    });
}

/// The connection there is, and which node to try next.
#[derive(Default)]
struct Link {
    session: RefCell<Option<Rc<Session>>>,
    connecting: tokio::sync::Mutex<()>,
    next_node: Cell<usize>,
}

/// What a login gave.
struct Session {
    file_system: file_system::Client,
    key_value: key_value::Client,
    admin: admin::Client,
    broken: Cell<bool>,
}

impl Link {
    async fn carry_out(&self, job: &Job) -> Result<Object, Problem> {
        let session = self.session(&job.nodes).await?;
        let call = &job.call;
        let client = session.target(call.interface.target, &call.path);
        let mut request =
            client.new_call::<any_pointer::Owned, any_pointer::Owned>(call.interface.id, call.number, None);
        let mut bytes = call.parameters.as_slice();
        let parameters = capnp::serialize::read_message_from_flat_slice(&mut bytes, reader_options());
        let parameters = parameters.map_err(|error| Problem::invalid(error.to_string()))?;
        let root = parameters.get_root::<any_pointer::Reader<'_>>();
        let set = root.and_then(|root| request.set(root));
        set.map_err(|error| Problem::invalid(error.to_string()))?;
        let response = request.send().promise.await.map_err(problem)?;
        if call.interface.target == Target::File && !READING.contains(&call.method.name) {
            // What was written is kept by the node until the file is published, which no later call could ask for.
            let file = file::Client::new(client.hook.add_ref());
            file.done_request().send().promise.await.map_err(problem)?;
        }
        let root = response.get().map_err(problem)?;
        let size_bytes = root.target_size().map_err(problem)?.word_count.saturating_mul(8);
        if size_bytes > RESULTS_SIZE_MAX {
            let detail = format!(
                "the results have {size_bytes} bytes, in JSON at most {RESULTS_SIZE_MAX} are answered: /v1/keys and \
                 /v1/files answer bytes as they are"
            );
            return Err(Problem::refused(Refusal::FileTooLarge, detail));
        }
        let results = (call.method.read)(root);
        match results.map_err(problem)? {
            dynamic_value::Reader::Struct(results) => schema_json::object(results).map_err(problem),
            _ => Err(problem(capnp::Error::failed("results are no struct".into()))),
        }
    }

    /// The session there is, or a new one at the first node that gives one.
    async fn session(&self, nodes: &[String]) -> Result<Rc<Session>, Problem> {
        let _alone = self.connecting.lock().await;
        if let Some(session) = &*self.session.borrow()
            && !session.broken.get()
        {
            return Ok(session.clone());
        }
        let mut reasons = Vec::new();
        for turn in 0..nodes.len() {
            let place = (self.next_node.get() + turn) % nodes.len();
            match timeout(CONNECT_TIMEOUT, log_in(&nodes[place])).await {
                Ok(Ok(session)) => {
                    // When it breaks another is tried first.
                    self.next_node.set(place + 1);
                    *self.session.borrow_mut() = Some(session.clone());
                    return Ok(session);
                }
                Ok(Err(error)) => reasons.push(format!("{}: {error}", nodes[place])),
                Err(_) => reasons.push(format!("{}: no answer", nodes[place])),
            }
        }
        Err(Problem::unavailable(format!(
            "no node gives a session ({})",
            reasons.join("; ")
        )))
    }
}

async fn log_in(address: &str) -> capnp::Result<Rc<Session>> {
    let failed = |error: std::io::Error| capnp::Error::disconnected(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (reader, writer) = Stream(stream).split();
    let network = twoparty::VatNetwork::new(reader, writer, Side::Client, reader_options());
    let mut system = RpcSystem::new(Box::new(network), None);
    let bark: bark::Client = system.bootstrap(Side::Server);
    let (ready, session) = oneshot::channel::<Rc<Session>>();
    spawn_local(async move {
        let end = system.await;
        tracing::debug!(?end, "the session to a node ended");
        if let Ok(session) = session.await {
            session.broken.set(true);
        }
    });
    let login = bark.login_request().send();
    let session = login.pipeline.get_session();
    let file_system = session.file_system_request().send();
    let key_value = session.key_value_request().send();
    let admin = session.admin_request().send();
    let session = Rc::new(Session {
        file_system: file_system.promise.await?.get()?.get_file_system()?,
        key_value: key_value.promise.await?.get()?.get_key_value()?,
        admin: admin.promise.await?.get()?.get_admin()?,
        broken: Cell::new(false),
    });
    // The task that runs the connection has ended if this fails; the session is found broken by its calls then.
    let _ = ready.send(session.clone());
    Ok(session)
}

impl Session {
    fn target(&self, target: Target, path: &[u8]) -> Client {
        match target {
            // The table says what can be called on nothing: nothing.
            Target::Nothing | Target::FileSystem => Client::new(self.file_system.client.hook.add_ref()),
            Target::KeyValue => Client::new(self.key_value.client.hook.add_ref()),
            Target::Admin => Client::new(self.admin.client.hook.add_ref()),
            Target::Node => Client::new(self.walk(path).into_client_hook()),
            Target::File => {
                let opened = self.walk(path).open_request().send();
                Client::new(opened.pipeline.get_file().into_client_hook())
            }
        }
    }

    fn walk(&self, path: &[u8]) -> node::Client {
        let mut walk = self.file_system.walk_request();
        walk.get().set_path(path);
        walk.send().pipeline.get_node()
    }
}

/// Answers of our own nodes may be as large as the largest value.
fn reader_options() -> ReaderOptions {
    ReaderOptions {
        traversal_limit_in_words: Some(4 * FRAME_SIZE_PEER_MAX / 8),
        nesting_limit: 64,
    }
}

/// An exception of a node: its text begins with the errno's name.
fn problem(error: capnp::Error) -> Problem {
    let text = match error.extra.strip_prefix("remote exception: ") {
        Some(text) => text,
        None => error.extra.as_str(),
    };
    if error.kind == capnp::ErrorKind::Disconnected {
        let detail = format!("the connection to the node broke: {text}");
        return Problem::new(StatusCode::GATEWAY_TIMEOUT, "UNKNOWN", detail);
    }
    let (errno, sentence) = text.split_once(": ").unwrap_or(("", text));
    match errno {
        "EAGAIN" => Problem::unavailable(sentence),
        "UNKNOWN" => Problem::new(StatusCode::GATEWAY_TIMEOUT, "UNKNOWN", sentence),
        errno => match REFUSALS.iter().find(|refusal| refusal.errno_name() == errno) {
            Some(refusal) => Problem::refused(*refusal, sentence),
            None => Problem::new(StatusCode::BAD_GATEWAY, "EPROTO", text),
        },
    }
}

/// Of several with one errno the first says it.
const REFUSALS: [Refusal; 19] = [
    Refusal::NotFound,
    Refusal::Exists,
    Refusal::NotDirectory,
    Refusal::IsDirectory,
    Refusal::NotEmpty,
    Refusal::NameTooLong,
    Refusal::InvalidArgument,
    Refusal::TooManySymlinks,
    Refusal::FileTooLarge,
    Refusal::NoSpace,
    Refusal::TooManyLinks,
    Refusal::Conflict,
    Refusal::Corrupt,
    Refusal::NotInteger,
    Refusal::Overflow,
    Refusal::SessionExpired,
    Refusal::PermissionDenied,
    Refusal::Unsupported,
    Refusal::Internal,
];
