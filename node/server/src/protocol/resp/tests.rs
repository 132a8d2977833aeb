//! Commands against a whole in-memory node of one, and beside a real Redis where there is one.

mod beside_redis;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bark_core::partition::{Partition, SnapshotConfig, Start};
use bark_core::random::Random;
use bark_core::time::Now;
use bark_core::worker::{CleaningConfig, Durability, Worker, WorkerConfig};
use bark_schema::cluster_file;
use bark_schema::ids::{NodeNumber, PartitionId};

use super::RespConnection;
use crate::protocol::http::HttpConnection;
use crate::protocol::wire::{DirtyWires, WireId};
use crate::protocol::{Context, Protocol, Settings, Wire};

const PARTITIONS: u16 = 16;

/// A node of one whose turns are run by hand.
struct Node {
    worker: Worker,
    context: Context,
    dirty: DirtyWires,
    now: Now,
    wires: u64,
}

struct Client {
    connection: Box<dyn Protocol>,
    wire: Wire,
}

impl Node {
    fn new() -> Node {
        Node::with_value_size_max(512 << 20)
    }

    fn with_value_size_max(value_size_max: usize) -> Node {
        let unix_ns = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        let now = Now {
            monotonic_us: 0,
            unix_ns: unix_ns.as_nanos() as i64,
        };
        let node = NodeNumber(1);
        let config = WorkerConfig {
            cluster: "test".to_string(),
            node,
            worker: 0,
            worker_count: 1,
            partition_count: PARTITIONS,
            replicas: 1,
            durability: Durability::None,
            nodes: Arc::default(),
            placement: Arc::new(vec![vec![node]; usize::from(PARTITIONS)]),
            ring: Arc::default(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: SnapshotConfig::default(),
        };
        let partitions = (0..PARTITIONS).map(|id| {
            let start = Start::new(PartitionId(id), PARTITIONS, vec![node]);
            let random = Random::new(u64::from(id));
            Partition::open(
                PartitionId(id),
                node,
                start,
                SnapshotConfig::default(),
                random,
                now,
            )
            .expect("a partition opens")
        });
        let worker = Worker::new(config, partitions.collect(), now, Random::new(1));
        let settings = Arc::new(Settings {
            version: "0.1.0",
            cluster: cluster_file::single("node-1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
                .expect("a cluster of one"),
            node,
            map_digest: 0,
            incarnation: 1,
            rejoining: Default::default(),
            log_position: Default::default(),
            members: Default::default(),
            value_size_max,
            started_unix_s: now.unix_ms() / 1000,
        });
        let context = Context {
            gateway: worker.gateway(),
            settings,
            frame_room: Default::default(),
            peer_inbox: Rc::new(RefCell::new(Vec::new())),
            members_changed: Default::default(),
        };
        let mut node = Node {
            worker,
            context,
            dirty: DirtyWires::default(),
            now,
            wires: 0,
        };
        (0..10).for_each(|_| node.turn());
        node
    }

    fn turn(&mut self) {
        self.now.monotonic_us += 1_000;
        self.now.unix_ns += 1_000_000;
        self.worker.turn(self.now, &mut Vec::new(), &mut Vec::new());
    }

    fn connect(&mut self) -> Client {
        let wire = self.wire();
        Client {
            connection: Box::new(RespConnection::new(&self.context, wire.clone())),
            wire,
        }
    }

    fn connect_http(&mut self) -> Client {
        let wire = self.wire();
        Client {
            connection: Box::new(HttpConnection::new(&self.context, wire.clone())),
            wire,
        }
    }

    fn wire(&mut self) -> Wire {
        self.wires += 1;
        Wire::new(WireId(self.wires), self.dirty.clone())
    }

    /// What a client receives for what it sends, and whether it is disconnected.
    fn exchange(&mut self, client: &mut Client, bytes: &[u8]) -> (String, bool) {
        client
            .connection
            .receive(bytes)
            .expect("the protocol itself ends connections");
        let mut received = Vec::new();
        let mut closed = false;
        // Turns until nothing has come for a while: retries wait a few milliseconds.
        let mut quiet = 0;
        while quiet < 30 {
            self.turn();
            self.dirty.take();
            let (bytes, close) = client.wire.take();
            quiet = if bytes.is_empty() { quiet + 1 } else { 0 };
            received.extend(bytes);
            closed |= close;
        }
        (String::from_utf8_lossy(&received).into_owned(), closed)
    }

    /// One connection's whole conversation.
    fn check(&mut self, sent: &str, expected: &str) {
        let mut client = self.connect();
        let (received, _) = self.exchange(&mut client, sent.as_bytes());
        assert_eq!(received, expected, "for {sent:?}");
    }
}

#[test]
fn keys_are_set_read_counted_and_deleted() {
    // Goal: the daily commands in one pipeline over several partitions, answered in order.
    Node::new().check(
        "SET a 1\r\nGET a\r\nINCR a\r\nDECRBY a 5\r\nSETNX a 9\r\nGETSET a x\r\nSTRLEN a\r\nMSET b 2 c 3 d 4\r\n\
         MGET a b nothing c\r\nDBSIZE\r\nEXISTS a b b nothing\r\nDEL a b c d nothing\r\nDBSIZE\r\n",
        "+OK\r\n$1\r\n1\r\n:2\r\n:-3\r\n:0\r\n$2\r\n-3\r\n:1\r\n+OK\r\n\
         *4\r\n$1\r\nx\r\n$1\r\n2\r\n$-1\r\n$1\r\n3\r\n:4\r\n:3\r\n:4\r\n:0\r\n",
    );
}

#[test]
fn a_pipeline_longer_than_the_ring_is_answered_completely_and_in_order() {
    // Goal: the bound on what is in flight holds nothing back for ever, with 40,000 commands at once.
    let mut node = Node::new();
    let mut client = node.connect();
    let sent = "INCR n\r\n".repeat(40_000);
    let (received, _) = node.exchange(&mut client, sent.as_bytes());
    let expected: String = (1..=40_000).map(|number| format!(":{number}\r\n")).collect();
    assert!(
        received == expected,
        "{} bytes of {}",
        received.len(),
        expected.len()
    );
    assert_eq!(client.wire.take_pause_change(), None);
}

#[test]
fn commands_behind_one_of_several_partitions_see_its_effect() {
    // Goal: nothing overtakes a transaction or a coroutine of its own connection.
    let mut node = Node::new();
    let sent = "MSET a 1 b 1 c 1\r\nINCR a\r\nINCR b\r\nAPPEND c x\r\nGET c\r\nMGET a b c\r\n".repeat(20);
    let expected = "+OK\r\n:2\r\n:2\r\n:2\r\n$2\r\n1x\r\n*3\r\n$1\r\n2\r\n$1\r\n2\r\n$2\r\n1x\r\n".repeat(20);
    node.check(&sent, &expected);
}

#[test]
fn keys_expire_and_say_when() {
    // Goal: each way to give a key a time, and that it is gone after it, in the node's own time.
    let mut node = Node::new();
    node.check("SET a 1 PX 100000\r\nSET b 1 50\r\nEXPIRE b 0\r\nEXISTS b\r\nTTL a\r\nTTL b\r\nPERSIST a\r\nTTL a\r\n",
        "+OK\r\n+OK\r\n:1\r\n:0\r\n:100\r\n:-2\r\n:1\r\n:-1\r\n");
    node.check("SET c 1 40\r\n", "+OK\r\n");
    (0..50).for_each(|_| node.turn());
    node.check("GET c\r\n", "$-1\r\n");
}

#[test]
fn a_scan_returns_every_key_at_least_once() {
    // Goal: with small pages, on one connection, on a new connection for every page, and while the scan's
    // own last keys are deleted.
    for (fresh_connections, deleting) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut node = Node::new();
        let mut client = node.connect();
        let sent: String = (0..500).map(|number| format!("SET key:{number} 1\r\n")).collect();
        node.exchange(&mut client, sent.as_bytes());
        let mut seen = std::collections::BTreeSet::new();
        let mut cursor = "0".to_string();
        for _ in 0..1000 {
            if fresh_connections {
                client = node.connect();
            }
            let (page, _) = node.exchange(
                &mut client,
                format!("SCAN {cursor} COUNT 7 MATCH key:*\r\n").as_bytes(),
            );
            let lines: Vec<&str> = page.split("\r\n").collect();
            cursor = lines[2].to_string();
            let keys: Vec<&str> = lines[4..]
                .iter()
                .filter(|line| line.starts_with("key:"))
                .copied()
                .collect();
            seen.extend(keys.iter().map(ToString::to_string));
            if deleting && !keys.is_empty() {
                node.exchange(&mut client, format!("DEL {}\r\n", keys.join(" ")).as_bytes());
            }
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(
            (seen.len(), cursor.as_str()),
            (500, "0"),
            "fresh {fresh_connections}, deleting {deleting}"
        );
    }
}

#[test]
fn a_protocol_error_is_answered_after_what_came_before_and_ends_the_connection() {
    // Goal: order and end, by an error behind commands that are still in flight.
    let mut node = Node::new();
    let mut client = node.connect();
    let answer = node.exchange(&mut client, b"SET a 1\r\nGET a\r\n*1\r\n$x\r\nGET a\r\n");
    let expected = "+OK\r\n$1\r\n1\r\n-ERR Protocol error: invalid bulk length\r\n";
    assert_eq!(answer, (expected.to_string(), true));
}

#[test]
fn a_client_that_stops_sending_still_gets_its_answers() {
    // Goal: half-closed connections are answered, then closed.
    let mut node = Node::new();
    let mut client = node.connect();
    client
        .connection
        .receive(b"SET a 1\r\nEXPIRE a 100\r\nTTL a\r\n")
        .expect("it is received");
    assert!(client.connection.end_of_stream());
    assert_eq!(
        node.exchange(&mut client, b""),
        ("+OK\r\n:1\r\n:100\r\n".to_string(), true)
    );
}

#[test]
fn keys_and_values_beyond_their_limits_are_refused() {
    // Goal: the limits of sizes, each with a clear error.
    let mut node = Node::with_value_size_max(100 * 1024);
    let key = "k".repeat(64 * 1024 + 1);
    node.check(
        &format!("*2\r\n$3\r\nGET\r\n$65537\r\n{key}\r\n"),
        "-ERR key is too long: at most 65536 bytes\r\n",
    );
    node.check(
        "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$102401\r\n",
        "-ERR Protocol error: invalid bulk length\r\n",
    );
}

#[test]
fn a_connection_that_waits_too_long_is_not_read() {
    // Goal: reading pauses while commands wait behind one that runs alone, and resumes.
    let mut node = Node::new();
    let mut client = node.connect();
    let sent = format!("KEYS *\r\n{}", "INCR n\r\n".repeat(40_000));
    client
        .connection
        .receive(sent.as_bytes())
        .expect("it is received");
    assert_eq!(client.wire.take_pause_change(), Some(true));
    let (received, _) = node.exchange(&mut client, b"");
    assert!(received.ends_with(":40000\r\n"));
    assert_eq!(client.wire.take_pause_change(), Some(false));
}

#[test]
fn garbage_never_panics_or_stops_the_node() {
    // Goal: any mix of words is answered or refused, by seeded commands of arbitrary words.
    let mut node = Node::new();
    let mut random = Random::new(3);
    let mut words: Vec<&str> = super::command::names().collect();
    words.extend([
        "a",
        "b",
        "1",
        "-1",
        "0",
        "EX",
        "PX",
        "NX",
        "XX",
        "GET",
        "*",
        "9223372036854775807",
        "COUNT",
        "\"\"",
    ]);
    for _ in 0..100 {
        let mut client = node.connect();
        for _ in 0..20 {
            let count = 1 + random.below(6);
            let line: Vec<&str> = (0..count)
                .map(|_| words[random.below(words.len() as u64) as usize])
                .collect();
            client
                .connection
                .receive(format!("{}\r\n", line.join(" ")).as_bytes())
                .expect("it is received");
        }
        node.turn();
        client.connection.closed();
    }
    node.check("PING\r\n", "+PONG\r\n");
}

#[test]
fn health_and_metrics_are_served() {
    // Goal: the two pages, what is not there, and garbage.
    let mut node = Node::new();
    let mut client = node.connect_http();
    let (answer, closed) = node.exchange(
        &mut client,
        b"GET /healthz HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"partitions_with_leader\":16"),
        "{answer}"
    );
    assert!(
        answer.contains("bark_partition_applied_index{partition=\"15\"} "),
        "{answer}"
    );
    assert!(!closed);
    let (answer, closed) = node.exchange(&mut client, b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("application/problem+json") && closed,
        "{answer}"
    );
    let mut client = node.connect_http();
    let (answer, closed) = node.exchange(&mut client, b"\x16\x03\x01garbage");
    assert!(answer.starts_with("HTTP/1.1 400 ") && closed, "{answer}");
}
