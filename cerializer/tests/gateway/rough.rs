//! What is not meant well: garbage, foreign pages, idle crowds, bulk.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Gateway;

const MIB: usize = 1 << 20;
/// Twelve blocks, their frames, buffers of sockets and allocators, and a debug build.
const RESIDENT_MAX: u64 = 80 * MIB as u64;

#[tokio::test]
async fn garbage_ends_its_connection_and_nothing_else() {
    // Goal: no bytes bring the gateway down. Method: table of garbage, each followed by a sound request.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let long_head = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: 1\r\n".repeat(1000)
    );
    let garbage: [&[u8]; 7] = [
        b"\x00\x01\x02\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/keys/a/incr HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v1/keys/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long_head.as_bytes(),
        many.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = gateway.connect().await;
        // It may be closed before all of it is written.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]);
        assert!(answer.is_empty() || shown.starts_with("HTTP/1.1 4"), "{shown}");
        assert_eq!(gateway.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn pages_of_other_sites_can_do_nothing() {
    // Goal: no cross-site requests, no rebound names. Method: what browsers send then, and what this page sends.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let own = format!("http://{}", gateway.address);
    for (headers, status) in [
        ([("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")], 204),
        (
            [
                ("Origin", "https://evil.example"),
                ("Sec-Fetch-Site", "cross-site"),
            ],
            403,
        ),
        ([("Origin", "null"), ("Accept", "*/*")], 403),
        (
            [("Origin", "http://127.0.0.1:1"), ("Sec-Fetch-Site", "same-site")],
            403,
        ),
        ([("Host", "evil.example"), ("Accept", "*/*")], 421),
    ] {
        assert_eq!(
            gateway.send("PUT", "/v1/keys/k", &headers, b"v").await.status,
            status,
            "{headers:?}"
        );
    }
    let link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")];
    assert_eq!(gateway.send("GET", "/", &link, b"").await.status, 200);
    assert_eq!(
        gateway.send("POST", "/v1/keys/n/incr", &link, b"").await.status,
        403
    );
}

#[tokio::test]
async fn bulk_passes_through_in_flat_memory() {
    // Goal: memory does not grow with files. Method: 100 MiB up and down, watching the process's peak.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let content: Vec<u8> = (0..100 * MIB)
        .map(|index| (index / MIB) as u8 ^ index as u8)
        .collect();
    assert_eq!(
        gateway.send("PUT", "/v1/files/large", &[], &content).await.status,
        201
    );
    let read = gateway.get("/v1/files/large").await;
    assert!(read.status == 200 && read.body == content);
    let peak = gateway.peak_resident_bytes();
    assert!(peak < RESIDENT_MAX, "peak of {} MiB", peak / MIB as u64);
}

#[tokio::test]
async fn idle_and_half_open_connections_hold_up_nobody() {
    // Goal: a crowd that says nothing costs little, and a stop does not wait for it. Method: 400 connections
    // with nothing, half a head or half a body; then SIGTERM.
    let (gateway, _cluster) = Gateway::with_cluster().await;
    let host = &gateway.address;
    let beginnings = [
        String::new(),
        "GET / HTTP/1.1\r\nHo".to_string(),
        format!("PUT /v1/files/half HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nhalf"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ];
    let mut crowd: Vec<TcpStream> = Vec::new();
    for number in 0..400 {
        let mut stream = gateway.connect().await;
        // Half a body takes room for a transfer; a few of them are enough.
        let beginning = match number % 4 {
            2 if number > 80 => &beginnings[1],
            other => &beginnings[other],
        };
        stream.write_all(beginning.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    assert_eq!(gateway.send("PUT", "/v1/files/a", &[], b"x").await.status, 201);
    assert_eq!(gateway.get("/v1/files/a").await.body, b"x");
    let (status, time) = gateway.stop();
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(5), "{time:?}");
    drop(crowd);
}
