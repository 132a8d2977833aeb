//! `/v1/rpc/{Interface}/{method}`: any method clients may call, JSON in and out, straight from the schema.
//!
//! `FileSystem`, `KeyValue` and `Admin` are the session's own; for `Node` and `File` the query names the path. JSON
//! carries no capabilities: a method that wants one, or answers nothing else, is refused with the way round it, and
//! among other results they are left out.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::{MethodRouter, post};

use crate::app::App;
use crate::json::{self, Object};
use crate::problem::{Answer, Problem};
use crate::request::{self, Parameters};
use crate::rpc::{self, Call, Interface, Target};

/// A block as base64, and some.
const ARGUMENTS_SIZE_MAX: usize = 8 << 20;
/// Arguments above this take up room for transfers.
const SMALL_SIZE_MAX: u64 = 64 * 1024;

pub fn routes() -> MethodRouter<App> {
    post(call)
}

async fn call(
    State(app): State<App>,
    Path((interface, method)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let (interface, number, method) = find(&interface, &method)?;
    let mut query = Parameters::of(&uri)?;
    let path = query.take("path");
    query.finish()?;
    let wants_path = matches!(interface.target, Target::Node | Target::File);
    let path = match (path, wants_path) {
        (Some(path), true) => path,
        (None, false) => Vec::new(),
        (None, true) => {
            return Err(Problem::field(
                "path",
                "must say in the URL which file: ?path=/a/b",
            ));
        }
        (Some(_), false) => return Err(Problem::field("path", "is for methods of Node and File")),
    };
    if let Some(name) = method.capability_asked() {
        let detail = "is a capability, which JSON cannot carry: POST to /v1/meta/{path} renames and links";
        return Err(unsupported(Problem::field(name, detail).detail()));
    }
    if interface.target == Target::Nothing || method.answers_capabilities_only() {
        return Err(unsupported(&format!(
            "{}.{method:?} answers capabilities, which JSON cannot carry: call FileSystem, KeyValue and Admin by \
             their names, Node and File with ?path=",
            interface.name
        )));
    }
    let _room = match request::content_length(&headers).is_some_and(|size| size <= SMALL_SIZE_MAX) {
        true => None,
        false => Some(app.transfer().await?),
    };
    let arguments = request::json_object(&headers, body, ARGUMENTS_SIZE_MAX).await?;
    let parameters = capnp::serialize::write_message_to_words(&rpc::message(method, &arguments)?);
    let client = app.client()?;
    let nodes = client.welcome().nodes.iter().map(|node| node.capnp.clone());
    let call = Call {
        interface,
        number,
        method,
        path,
        parameters,
    };
    let _turn = app.value_read().await?;
    let results: Object = app.rpc().call(nodes.collect(), call).await?;
    Ok(json::respond(StatusCode::OK, results))
}

fn find(interface: &str, method: &str) -> Result<(&'static Interface, u16, &'static rpc::Method), Problem> {
    let missing = |detail| Problem::new(StatusCode::NOT_FOUND, "ENOENT", detail);
    let Some(known) = Interface::find(interface) else {
        let names: Vec<&str> = rpc::INTERFACES.iter().map(|known| known.name).collect();
        return Err(missing(format!(
            "'{interface}' is no interface; there are {}",
            names.join(", ")
        )));
    };
    match known.method(method) {
        Some((number, method)) => Ok((known, number, method)),
        None => {
            let names: Vec<&str> = known.methods.iter().map(|method| method.name).collect();
            Err(missing(format!(
                "{interface} has no method '{method}'; it has {}",
                names.join(", ")
            )))
        }
    }
}

fn unsupported(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "EOPNOTSUPP", detail)
}
