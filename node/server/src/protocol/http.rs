//! Health and metrics over HTTP/1.1, for load balancers, Prometheus and people.
//!
//! `GET /healthz` says whether every partition this node can see has a leader; `GET /metrics` is
//! Prometheus text. Nothing else is served, bodies are never read, and a client that breaks the rules is
//! told so once and disconnected.
//!
//! Invariants:
//! - One request of a connection is worked on at a time; those behind it wait as bytes.
//! - A connection holds at most BUFFER_SIZE_MAX bytes of requests.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::{Rc, Weak};

use bark_core::worker::gateway::{Gateway, Reach};
use bark_schema::operation::{ClusterStatus, Failure, NodeRequest, Reply, Request};
use serde_json::json;

use super::{Close, Context, Protocol, Wire, counters, ends_connection};

/// Longest header of a request.
pub const HEADER_SIZE_MAX: usize = 8 * 1024;
/// Pipelined requests that may wait, in bytes.
const BUFFER_SIZE_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;
/// A probe is answered within this, be it with 503.
const STATUS_DEADLINE_US: u64 = 1_000_000;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
/// The version is part of Prometheus' exposition format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub struct HttpConnection {
    shared: Rc<Shared>,
}

struct Shared {
    this: Weak<Shared>,
    gateway: Gateway,
    cluster: String,
    node: u16,
    wire: Wire,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    answering: bool,
    ended: bool,
    closed: bool,
}

impl HttpConnection {
    pub fn new(context: &Context, wire: Wire) -> HttpConnection {
        let shared = Rc::new_cyclic(|this| Shared {
            this: this.clone(),
            gateway: context.gateway.clone(),
            cluster: context.settings.cluster.name.clone(),
            node: context.settings.node.0,
            wire,
            state: RefCell::default(),
        });
        HttpConnection { shared }
    }
}

impl Protocol for HttpConnection {
    fn receive(&mut self, bytes: &[u8]) -> Result<(), Close> {
        let state = &mut *self.shared.state.borrow_mut();
        if state.closed {
            return Ok(());
        }
        if state.buffer.len() + bytes.len() > BUFFER_SIZE_MAX {
            return Err(Close("more HTTP requests than may wait".to_string()));
        }
        state.buffer.extend_from_slice(bytes);
        self.shared.advance(state);
        Ok(())
    }

    fn end_of_stream(&mut self) -> bool {
        let state = &mut *self.shared.state.borrow_mut();
        state.ended = true;
        self.shared.advance(state);
        true
    }

    fn closed(&mut self) {
        let state = &mut *self.shared.state.borrow_mut();
        state.closed = true;
        state.buffer = Vec::new();
    }
}

/// What was asked for, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    head_only: bool,
    keep_alive: bool,
}

/// Why a request is refused: status and a sentence.
type Refused = (u16, &'static str);

/// The size of the header at the start of `buffer` and what it asks; None until it is complete.
fn parse(buffer: &[u8]) -> Result<Option<(usize, Asked)>, Refused> {
    let end = buffer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|end| end + 4);
    let too_large = (431, "the header is larger than 8 KiB");
    let Some(end) = end else {
        // Nobody who speaks HTTP begins with a control byte or waits with the first line.
        let begins_badly = buffer.first().is_some_and(|byte| !byte.is_ascii_uppercase());
        return match () {
            () if begins_badly => Err((400, "not an HTTP request")),
            () if buffer.len() > HEADER_SIZE_MAX => Err(too_large),
            () => Ok(None),
        };
    };
    if end > HEADER_SIZE_MAX {
        return Err(too_large);
    }
    let text = std::str::from_utf8(&buffer[..end - 4]).map_err(|_| (400, "the header is not text"))?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) if target.starts_with('/') => {
            (method, target, version)
        }
        _ => return Err((400, "the first line is not METHOD /PATH HTTP/1.1")),
    };
    let mut keep_alive = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err((400, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
    };
    for (count, line) in lines.enumerate() {
        let Some((name, value)) = line.split_once(':') else {
            return Err((400, "a header line has no colon"));
        };
        if count >= HEADERS_MAX || name.is_empty() || name.contains([' ', '\t']) {
            return Err((400, "a header line is malformed"));
        }
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            keep_alive = match () {
                () if value.eq_ignore_ascii_case("close") => false,
                () if value.eq_ignore_ascii_case("keep-alive") => true,
                () => keep_alive,
            };
        }
        let has_body = (name.eq_ignore_ascii_case("content-length") && value != "0")
            || name.eq_ignore_ascii_case("transfer-encoding");
        if has_body {
            return Err((413, "requests have no body here"));
        }
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err((405, "only GET and HEAD are served here")),
    };
    let path = target.split('?').next().unwrap_or_default().to_string();
    Ok(Some((
        end,
        Asked {
            path,
            head_only,
            keep_alive,
        },
    )))
}

struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Response {
    fn problem(status: u16, detail: &str) -> Response {
        let body = json!({ "status": status, "title": reason(status), "detail": detail }).to_string();
        Response {
            status,
            content_type: PROBLEM,
            body,
        }
    }

    fn write(&self, head_only: bool, keep_alive: bool, out: &mut Vec<u8>) {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let allow = if self.status == 405 {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let header = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
             Connection: {connection}\r\n\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len(),
        );
        out.extend_from_slice(header.as_bytes());
        if !head_only {
            out.extend_from_slice(self.body.as_bytes());
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}

impl Shared {
    /// Begins with the next request, if none is being answered.
    fn advance(&self, state: &mut State) {
        while !state.answering && !state.closed {
            match parse(&state.buffer) {
                Ok(None) => {
                    if state.ended {
                        state.closed = true;
                        self.wire.close();
                    }
                    return;
                }
                Ok(Some((size, asked))) => {
                    state.buffer.drain(..size);
                    self.begin(state, asked);
                }
                Err((status, sentence)) => {
                    let refusal = Response::problem(status, sentence);
                    self.wire.write_with(|out| refusal.write(false, false, out));
                    state.closed = true;
                    state.buffer = Vec::new();
                    self.wire.close();
                }
            }
        }
    }

    fn begin(&self, state: &mut State, asked: Asked) {
        if asked.path != "/healthz" && asked.path != "/metrics" {
            let response = Response::problem(404, "there are /healthz and /metrics");
            self.respond(state, &asked, &response);
            return;
        }
        state.answering = true;
        let Some(this) = self.this.upgrade() else { return };
        let deadline_us = self.gateway.now().monotonic_us + STATUS_DEADLINE_US;
        let node = bark_schema::ids::NodeNumber(self.node);
        let request = Request::Node(NodeRequest::ClusterStatus);
        let answer = self.gateway.call(request, Reach::Node(node), deadline_us);
        self.gateway.spawn(ends_connection(self.wire.clone(), async move {
            let result = answer.await;
            let response = match asked.path.as_str() {
                "/metrics" => this.metrics(&result),
                _ => this.health(&result),
            };
            let state = &mut *this.state.borrow_mut();
            state.answering = false;
            this.respond(state, &asked, &response);
            this.advance(state);
        }));
    }

    fn respond(&self, state: &mut State, asked: &Asked, response: &Response) {
        self.wire
            .write_with(|out| response.write(asked.head_only, asked.keep_alive, out));
        if !asked.keep_alive {
            state.closed = true;
            self.wire.close();
        }
    }

    fn health(&self, result: &Result<Reply, Failure>) -> Response {
        let (healthy, body) = match result {
            Ok(Reply::Cluster(status)) => {
                let with_leader = status
                    .partitions
                    .iter()
                    .filter(|partition| partition.leader.is_some())
                    .count();
                let healthy = with_leader == status.partitions.len();
                let body = json!({
                    "status": if healthy { "ok" } else { "unavailable" },
                    "cluster": self.cluster,
                    "node": self.node,
                    "partitions": status.partitions.len(),
                    "partitions_with_leader": with_leader,
                    "partitions_led": led(status, self.node),
                });
                (healthy, body)
            }
            Ok(_) => (false, json!({ "status": "unavailable", "node": self.node })),
            Err(failure) => (
                false,
                json!({ "status": "unavailable", "node": self.node, "detail": failure.to_string() }),
            ),
        };
        Response {
            status: if healthy { 200 } else { 503 },
            content_type: JSON,
            body: body.to_string(),
        }
    }

    fn metrics(&self, result: &Result<Reply, Failure>) -> Response {
        let mut text = Exposition::default();
        text.one(
            "bark_resp_connections",
            "gauge",
            "Open RESP connections.",
            counters::resp_connections(),
        );
        let total = counters::resp_connections_total();
        text.one(
            "bark_resp_connections_total",
            "counter",
            "RESP connections accepted.",
            total,
        );
        text.one(
            "bark_resp_commands_total",
            "counter",
            "RESP commands received.",
            counters::resp_commands(),
        );
        if let Some(bytes) = counters::resident_bytes() {
            text.one(
                "process_resident_memory_bytes",
                "gauge",
                "Memory the process occupies.",
                bytes,
            );
        }
        if let Ok(Reply::Cluster(status)) = result {
            self.cluster_metrics(&mut text, status);
        }
        Response {
            status: 200,
            content_type: PROMETHEUS,
            body: text.0,
        }
    }

    fn cluster_metrics(&self, text: &mut Exposition, status: &ClusterStatus) {
        text.one(
            "bark_partitions_led",
            "gauge",
            "Partitions this node leads.",
            led(status, self.node),
        );
        text.one(
            "bark_disk_total_bytes",
            "gauge",
            "Size of the data directory's disk.",
            status.disk_total_bytes,
        );
        text.one(
            "bark_disk_free_bytes",
            "gauge",
            "Free space on it.",
            status.disk_free_bytes,
        );
        let nodes = status
            .nodes
            .iter()
            .map(|node| (node.number.0, u64::from(node.reachable)));
        text.many(
            "bark_node_reachable",
            "gauge",
            "Whether there is a connection to the node.",
            "node",
            nodes,
        );
        type Pick = fn(&bark_schema::operation::PartitionStatus) -> u64;
        let of_partitions: [(&str, &str, Pick); 7] = [
            ("bark_partition_has_leader", "Whether a leader is known.", |p| {
                u64::from(p.leader.is_some())
            }),
            ("bark_partition_term", "Raft term.", |p| p.term),
            ("bark_partition_applied_index", "Last entry applied here.", |p| {
                p.applied
            }),
            ("bark_partition_keys", "Keys held.", |p| p.keys),
            ("bark_partition_inodes", "Inodes held.", |p| p.inodes),
            (
                "bark_partition_log_entries",
                "Log entries kept for followers.",
                |p| p.log_entries,
            ),
            (
                "bark_partition_snapshot_index",
                "Last entry of the last snapshot.",
                |p| p.snapshot_index,
            ),
        ];
        for (name, help, pick) in of_partitions {
            let values = status
                .partitions
                .iter()
                .map(|partition| (partition.partition.0, pick(partition)));
            text.many(name, "gauge", help, "partition", values);
        }
    }
}

fn led(status: &ClusterStatus, node: u16) -> usize {
    status
        .partitions
        .iter()
        .filter(|partition| partition.leader.is_some_and(|leader| leader.0 == node))
        .count()
}

/// Prometheus text. Writing to a string cannot fail.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn many(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (u16, u64)>,
    ) {
        self.head(name, kind, help);
        for (id, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{id}\"}} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed_or_refused_with_a_reason() {
        // Goal: what is served, what is refused and with which status.
        let asked = |path: &str, head_only, keep_alive| Asked {
            path: path.to_string(),
            head_only,
            keep_alive,
        };
        let ok = |text: &str| parse(text.as_bytes()).map(|found| found.map(|(_, asked)| asked));
        assert_eq!(
            ok("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok(Some(asked("/metrics", false, true)))
        );
        assert_eq!(ok("HEAD / HTTP/1.0\r\n\r\n"), Ok(Some(asked("/", true, false))));
        assert_eq!(
            ok("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
            Ok(Some(asked("/", false, false)))
        );
        assert_eq!(ok("GET / HTTP/1.1\r\n"), Ok(None));
        let status = |text: &str| parse(text.as_bytes()).expect_err("refused").0;
        assert_eq!(status("\x16\x03\x01"), 400);
        assert_eq!(status("GET /\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nno colon\r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"), 413);
        assert_eq!(
            status(&format!("GET /{} HTTP/1.1", "a".repeat(HEADER_SIZE_MAX))),
            431
        );
    }
}
