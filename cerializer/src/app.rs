//! The application: what all requests share, the table of routes, and the rules in front of it.
//!
//! In the order a request meets them: it is counted; it must come from this machine's own pages or programs;
//! there must be room for it; it must begin to be answered in time.
//!
//! Invariants:
//! - `ROUTES` is the only list of routes: the router is built from it, `/openapi.json` is tested against it.
//! - Pages of other sites can do nothing here, although no one has to log in: their `Origin` gives them
//!   away, and a name that was rebound to 127.0.0.1 is not a loopback name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use bark_client::{Client, ClientConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::http;
use crate::metrics::{Counted, Metrics};
use crate::problem::Problem;
use crate::rpc::Sessions;

/// Requests being answered at once; the next ones wait a little and are then refused.
const REQUESTS_MAX: usize = 1024;
/// Files and large values on their way at once. Each keeps up to about a dozen blocks of 1 MiB.
const TRANSFERS_MAX: usize = 48;
/// Bytes of values held for clients: those that upload them and those that read theirs slowly.
const VALUE_ROOM_BYTES: usize = 512 << 20;
const VALUE_ROOM_UNIT: usize = 1 << 10;
/// Values and results of methods on their way from the cluster at once; how large one is is known when it is here.
const VALUE_READS_MAX: usize = 32;
const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);
/// The client gives an operation 30 s; a request may consist of a few.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

type Routes = fn() -> MethodRouter<App>;

/// Every route, by name of what answers it.
pub const ROUTES: [(&str, Routes); 19] = [
    ("/v1/files", http::files::routes),
    ("/v1/files/", http::files::routes),
    ("/v1/files/{*path}", http::files::routes),
    ("/v1/meta", http::meta::routes),
    ("/v1/meta/", http::meta::routes),
    ("/v1/meta/{*path}", http::meta::routes),
    ("/v1/dirs", http::dirs::routes),
    ("/v1/dirs/", http::dirs::routes),
    ("/v1/dirs/{*path}", http::dirs::routes),
    ("/v1/keys", http::keys::list_routes),
    ("/v1/keys/{*key}", http::keys::routes),
    ("/v1/cluster", http::cluster::routes),
    ("/v1/rpc/{interface}/{method}", http::rpc::routes),
    ("/openapi.json", http::page::openapi_routes),
    ("/metrics", http::health::metrics_routes),
    ("/healthz", http::health::routes),
    ("/", http::page::routes),
    ("/page.js", http::page::script_routes),
    ("/page.css", http::page::style_routes),
];

/// What all requests share.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    metrics: Metrics,
    requests: Semaphore,
    transfers: Arc<Semaphore>,
    value_room: Arc<Semaphore>,
    value_reads: Semaphore,
    rpc: Sessions,
}

impl App {
    /// Starts connecting to the cluster. Must run inside a runtime.
    pub fn new(config: ClientConfig) -> App {
        App {
            shared: Arc::new(Shared {
                cluster: Cluster::connect(config),
                metrics: Metrics::default(),
                requests: Semaphore::new(REQUESTS_MAX),
                transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
                value_room: Arc::new(Semaphore::new(VALUE_ROOM_BYTES / VALUE_ROOM_UNIT)),
                value_reads: Semaphore::new(VALUE_READS_MAX),
                rpc: Sessions::start(),
            }),
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// The cluster's client; 503 until a node has answered.
    pub fn client(&self) -> Result<Client, Problem> {
        self.shared.cluster.client()
    }

    pub fn rpc(&self) -> &Sessions {
        &self.shared.rpc
    }

    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Room for the blocks of one file, for as long as what is returned lives.
    pub async fn transfer(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let room = self.shared.transfers.clone().acquire_owned();
        match timeout(ROOM_WAIT_MAX, room).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Problem::unavailable(format!(
                "{TRANSFERS_MAX} transfers are under way already"
            ))),
        }
    }

    /// Room for a value of this size, for as long as what is returned lives. The largest takes all there is.
    pub async fn value_room(&self, size_bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let units = size_bytes.min(VALUE_ROOM_BYTES).div_ceil(VALUE_ROOM_UNIT) as u32;
        let room = self.shared.value_room.clone().acquire_many_owned(units);
        match timeout(ROOM_WAIT_MAX, room).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Problem::unavailable(format!(
                "values of {VALUE_ROOM_BYTES} bytes together are on their way already"
            ))),
        }
    }

    /// A turn to read a value from the cluster.
    pub async fn value_read(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match timeout(ROOM_WAIT_MAX, self.shared.value_reads.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Problem::unavailable(format!(
                "{VALUE_READS_MAX} values are being read already"
            ))),
        }
    }

    pub fn router(self) -> Router {
        let mut router = Router::new();
        for (path, methods) in ROUTES {
            router = router.route(path, methods());
        }
        router
            .fallback(no_such_route)
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn_with_state(self.clone(), guard))
            .with_state(self)
    }
}

async fn no_such_route(request: Request) -> Problem {
    let detail = format!("{} is no route; /openapi.json lists them", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "ENOENT", detail)
}

async fn no_such_method(request: Request) -> Problem {
    let detail = format!(
        "{} cannot be used with {}",
        request.method(),
        request.uri().path()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "EOPNOTSUPP", detail)
}

async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _counted = Counted::new(&app.metrics().requests_in_flight);
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let uri = request.uri().clone();
    let response = match admit(&app, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    let (status, time) = (response.status().as_u16(), started.elapsed());
    tracing::debug!(
        method,
        path = uri.path(),
        status,
        ms = time.as_millis() as u64,
        "answered"
    );
    app.metrics().observe(route, method, status, time);
    response
}

async fn admit(app: &App, request: Request, next: Next) -> Result<Response, Problem> {
    own_machine(request.method(), request.headers(), request.uri().host())?;
    let room = timeout(ROOM_WAIT_MAX, app.shared.requests.acquire()).await;
    let Ok(Ok(_permit)) = room else {
        return Err(Problem::unavailable(format!(
            "{REQUESTS_MAX} requests are being answered already"
        )));
    };
    // An upload is answered when all of it has arrived; what it waits for has time limits of its own.
    let uploads = request.method() == Method::PUT;
    match uploads {
        true => Ok(next.run(request).await),
        false => timeout(ANSWER_TIMEOUT, next.run(request)).await.map_err(|_| {
            let detail = format!("no outcome within {} s", ANSWER_TIMEOUT.as_secs());
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "UNKNOWN", detail)
        }),
    }
}

fn own_machine(method: &Method, headers: &HeaderMap, target_host: Option<&str>) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).or(target_host).unwrap_or_default();
    if !is_loopback_name(host) {
        let detail = format!("Host is '{host}'; this gateway answers to loopback names only");
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "EACCES", detail));
    }
    // "null" is what sandboxed pages and files send.
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").map(|(_, host)| host) != Some(host)
    {
        let detail = format!("pages of '{origin}' may not use this gateway");
        return Err(Problem::new(StatusCode::FORBIDDEN, "EACCES", detail));
    }
    let says = |name: &str, values: &[&str]| {
        let value = headers.get(name).map(|value| value.to_str().unwrap_or_default());
        value.is_some_and(|value| values.contains(&value))
    };
    // Following a link to here is fine: the page that has the link does not see what is answered.
    let follows_link = says("sec-fetch-mode", &["navigate"]) && method.is_safe();
    if says("sec-fetch-site", &["cross-site", "same-site"]) && !follows_link {
        let detail = "pages of other sites may not use this gateway";
        return Err(Problem::new(StatusCode::FORBIDDEN, "EACCES", detail));
    }
    Ok(())
}

/// `localhost`, `127.…` or `[::1]`, with or without a port.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Methods are text of the request's own choice; labels are not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        // Goal: a name rebound to 127.0.0.1 by an attacker gets nothing. Method: table of hosts.
        for (host, expected) in [
            ("localhost", true),
            ("LOCALHOST:7100", true),
            ("127.0.0.1:7100", true),
            ("[::1]:7100", true),
            ("[::1]", true),
            ("127.0.0.1.evil.example", false),
            ("evil.example:7100", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_name(host), expected, "{host}");
        }
    }

    #[test]
    fn every_route_is_described() {
        // Goal: nothing is served that `/openapi.json` does not tell of. Method: both lists of paths.
        let text = include_str!("../web/openapi.json");
        let description: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut described: Vec<&str> = description["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        // The same route as the key's.
        described.retain(|path| *path != "/v1/keys/{key}/incr");
        let mut routes: Vec<String> = ROUTES
            .iter()
            .map(|(path, _)| path.replace("{*", "{"))
            // Parts of the page, and the root directory's short names.
            .filter(|path| !path.starts_with("/page.") && !path.ends_with("s/") && !path.ends_with("meta/"))
            .filter(|path| !["/v1/files", "/v1/meta", "/v1/dirs"].contains(&path.as_str()))
            .collect();
        routes.sort();
        described.sort();
        assert_eq!(routes, described);
    }
}
