//! The gateway as a process, and an HTTP client that sends exactly what it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::FakeCluster;

pub struct Gateway {
    process: Child,
    pub address: String,
}

impl Gateway {
    pub fn start(nodes: &[String]) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cerializer"));
        command.args(["--listen", "127.0.0.1:0"]);
        for node in nodes {
            command.args(["--node", node]);
        }
        let mut process = command.stderr(Stdio::piped()).spawn().expect("started");
        let mut log = BufReader::new(process.stderr.take().expect("its log")).lines();
        let address = loop {
            let line = log.next().expect("more log").expect("a line");
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.to_string();
            }
        };
        // A full pipe would stop the process.
        std::thread::spawn(move || log.for_each(drop));
        Gateway { process, address }
    }

    /// With a cluster behind it that it has found.
    pub async fn with_cluster() -> (Gateway, FakeCluster) {
        Gateway::with_partitions(4).await
    }

    pub async fn with_partitions(count: u16) -> (Gateway, FakeCluster) {
        let cluster = FakeCluster::start(3, count).await;
        let gateway = Gateway::start(&cluster.addresses);
        let started = Instant::now();
        while gateway.get("/healthz").await.status != 200 {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "the cluster was not found"
            );
            tokio::task::yield_now().await;
        }
        (gateway, cluster)
    }

    pub async fn get(&self, target: &str) -> Response {
        self.send("GET", target, &[], b"").await
    }

    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        let (mut reader, mut writer) = self.connect().await.into_split();
        // Both ways at once: an early answer must not be lost to a body that is still being sent.
        let write = async {
            let _ = writer.write_all(request.as_bytes()).await;
            let _ = writer.write_all(body).await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut answer));
        assert!(read.is_ok() || !answer.is_empty(), "{method} {target}: {read:?}");
        Response::parse(&answer)
    }

    /// A PUT that does not say how much it will be.
    pub async fn send_chunked(&self, target: &str, body: &[u8]) -> Response {
        let head = format!(
            "PUT {target} HTTP/1.1\r\nConnection: close\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            self.address
        );
        let (mut reader, mut writer) = self.connect().await.into_split();
        // The answer may come before all is sent, and the rest is then refused.
        let write = async {
            let _ = writer.write_all(head.as_bytes()).await;
            for chunk in body.chunks(1 << 20) {
                let size = format!("{:x}\r\n", chunk.len());
                let _ = writer.write_all(size.as_bytes()).await;
                let _ = writer.write_all(chunk).await;
                let _ = writer.write_all(b"\r\n").await;
            }
            let _ = writer.write_all(b"0\r\n\r\n").await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut answer));
        assert!(read.is_ok() || !answer.is_empty(), "PUT {target}: {read:?}");
        Response::parse(&answer)
    }

    pub async fn send_json(&self, method: &str, target: &str, body: Value) -> Response {
        let headers = [("Content-Type", "application/json")];
        self.send(method, target, &headers, body.to_string().as_bytes())
            .await
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.expect("connected")
    }

    /// Largest resident size so far.
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("VmHWM");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("signalled");
        (self.process.wait().expect("ended"), started.elapsed())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> Response {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).expect("text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()));
        Response {
            status: status.and_then(|status| status.parse().ok()).expect("a status"),
            headers: headers.collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    pub fn errno(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        self.json()["errno"].as_str().expect("an errno").to_string()
    }
}
