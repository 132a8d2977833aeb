//! The load: many connections of one thread, each with one batch of commands under way.
//!
//! Design. Batches and the replies they must get are built before the clock starts, so that the generator costs a
//! write, a read and a comparison a batch, several times less than redis-benchmark: the server is what is measured.
//! Every value is a function of its key, so every byte of every reply is compared; one that differs ends the run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

pub const KEYS: usize = 100_000;
pub const VALUE_BYTES: usize = 64;
/// Different batches a connection goes round.
const BATCHES_PER_CONNECTION: usize = 32;
/// A server that says nothing for so long is not measured but broken.
const SILENCE_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Resp,
    Memcached,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Set,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Set => "SET",
        }
    }
}

/// Commands to send and the bytes that must come back.
struct Batch {
    request: Vec<u8>,
    reply: Vec<u8>,
}

fn value(key: usize) -> Vec<u8> {
    let mut state = key as u64;
    (0..VALUE_BYTES)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            b'a' + (state >> 59) as u8 % 26
        })
        .collect()
}

impl Batch {
    fn new(dialect: Dialect, verb: Verb, keys: impl Iterator<Item = usize>) -> Batch {
        let (mut request, mut reply) = (Vec::new(), Vec::new());
        for number in keys {
            let (key, value) = (format!("key:{number:012}"), value(number));
            let mut add = |to_request: &[&[u8]], to_reply: &[&[u8]]| {
                request.extend(to_request.concat());
                reply.extend(to_reply.concat());
            };
            let key = key.as_bytes();
            match (dialect, verb) {
                (Dialect::Resp, Verb::Get) => add(
                    &[b"*2\r\n$3\r\nGET\r\n$16\r\n", key, b"\r\n"],
                    &[b"$64\r\n", &value, b"\r\n"],
                ),
                (Dialect::Resp, Verb::Set) => add(
                    &[
                        b"*3\r\n$3\r\nSET\r\n$16\r\n",
                        key,
                        b"\r\n$64\r\n",
                        &value,
                        b"\r\n",
                    ],
                    &[b"+OK\r\n"],
                ),
                (Dialect::Memcached, Verb::Get) => add(
                    &[b"get ", key, b"\r\n"],
                    &[b"VALUE ", key, b" 0 64\r\n", &value, b"\r\nEND\r\n"],
                ),
                (Dialect::Memcached, Verb::Set) => {
                    add(&[b"set ", key, b" 0 0 64\r\n", &value, b"\r\n"], &[b"STORED\r\n"])
                }
            }
        }
        Batch { request, reply }
    }
}

struct Connection {
    stream: TcpStream,
    batches: Vec<Batch>,
    current: usize,
    /// Bytes of the current batch that were written, and of its reply that came.
    written: usize,
    read: usize,
    since: Instant,
}

/// Connections to the addresses in turn, with their batches.
pub struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    pipeline: usize,
    input: Vec<u8>,
}

/// What was seen between two moments.
pub struct Seen {
    pub operations: u64,
    pub elapsed: Duration,
    /// Of batches, sorted.
    pub latencies_us: Vec<u32>,
}

impl Load {
    pub fn new(
        addresses: &[SocketAddr],
        dialect: Dialect,
        verb: Verb,
        connections_count: usize,
        pipeline: usize,
        seed: u64,
    ) -> anyhow::Result<Load> {
        let mut state = seed;
        let mut random_key = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % KEYS
        };
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for index in 0..connections_count {
            let address = addresses[index % addresses.len()];
            let stream = TcpStream::connect(address).with_context(|| address.to_string())?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let descriptor = std::os::fd::AsRawFd::as_raw_fd(&stream);
            poll.registry().register(
                &mut SourceFd(&descriptor),
                Token(index),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let batches = (0..BATCHES_PER_CONNECTION)
                .map(|_| Batch::new(dialect, verb, (0..pipeline).map(|_| random_key())))
                .collect();
            connections.push(Connection {
                stream,
                batches,
                current: 0,
                written: 0,
                read: 0,
                since: Instant::now(),
            });
        }
        Ok(Load {
            poll,
            events: Events::with_capacity(1024),
            connections,
            pipeline,
            input: vec![0; 256 * 1024],
        })
    }

    /// Keeps every connection busy for `duration`, then lets what is under way end, if `finish`.
    pub fn run(&mut self, duration: Duration, finish: bool) -> anyhow::Result<Seen> {
        let start = Instant::now();
        let mut batches_count = 0;
        let mut latencies_us = Vec::new();
        let mut now = start;
        for connection in &mut self.connections {
            if connection.written == 0 {
                connection.since = now;
                connection.write()?;
            }
        }
        let mut heard = now;
        while now - start < duration || (finish && self.connections.iter().any(|one| one.written > 0)) {
            let may_begin = now - start < duration;
            self.poll
                .poll(&mut self.events, Some(Duration::from_millis(20)))?;
            now = Instant::now();
            for event in &self.events {
                let connection = &mut self.connections[event.token().0];
                if connection.written > 0 {
                    connection.write()?;
                }
                if !connection.read(&mut self.input)? {
                    continue;
                }
                heard = now;
                let latency = Instant::now() - connection.since;
                latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
                batches_count += 1;
                if may_begin {
                    connection.since = Instant::now();
                    connection.write()?;
                }
            }
            ensure!(now - heard < SILENCE_MAX, "no reply for {SILENCE_MAX:?}");
        }
        latencies_us.sort_unstable();
        Ok(Seen {
            operations: batches_count * self.pipeline as u64,
            elapsed: now - start,
            latencies_us,
        })
    }
}

impl Connection {
    fn write(&mut self) -> anyhow::Result<()> {
        let request = &self.batches[self.current].request;
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there; true when that ends the reply of the current batch.
    fn read(&mut self, input: &mut [u8]) -> anyhow::Result<bool> {
        loop {
            let count = match self.stream.read(input) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let expected = &self.batches[self.current].reply;
            let came = &input[..count];
            if expected.get(self.read..self.read + count) != Some(came) {
                let wanted = &expected[self.read..expected.len().min(self.read + 60)];
                bail!(
                    "wrong reply: {:?} instead of {:?}",
                    String::from_utf8_lossy(&came[..count.min(60)]),
                    String::from_utf8_lossy(wanted)
                );
            }
            self.read += count;
            if self.read == expected.len() {
                self.current = (self.current + 1) % self.batches.len();
                (self.written, self.read) = (0, 0);
                return Ok(true);
            }
            if count < input.len() {
                return Ok(false);
            }
        }
    }
}

/// Writes every key once and reads each back, tried again while the server is not ready.
pub fn fill(addresses: &[SocketAddr], dialect: Dialect) -> anyhow::Result<()> {
    const KEYS_AT_ONCE: usize = 100;
    let deadline = Instant::now() + Duration::from_secs(60);
    for verb in [Verb::Set, Verb::Get] {
        let mut address = addresses.iter().cycle();
        let mut first = 0;
        while first < KEYS {
            match exchange(
                *address.next().expect("cycle"),
                &Batch::new(dialect, verb, first..first + KEYS_AT_ONCE),
            ) {
                Ok(()) => first += KEYS_AT_ONCE,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    Ok(())
}

fn exchange(address: SocketAddr, batch: &Batch) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_string())?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.write_all(&batch.request)?;
    let mut reply = vec![0; batch.reply.len()];
    stream.read_exact(&mut reply)?;
    ensure!(reply == batch.reply, "wrong reply while filling");
    Ok(())
}
