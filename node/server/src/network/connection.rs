//! One connection: its socket, what is unsent, and what may be done with it now.
//!
//! Invariant: `backlog` exists exactly while bytes are unsent, and then the socket is watched for writing.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;

use crate::pipeline::ConnectionKind;

// 64: far below the kernel's 1,024 slices per call, and a megabyte of full chunks.
const SLICES_PER_WRITE_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Phase {
    Free,
    Connecting { stream: TcpStream, token: u64 },
    Open { stream: TcpStream },
    AwaitsAcknowledge,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) worker: u16,
    pub(super) kind: ConnectionKind,
    /// The kernel may hold bytes for us.
    pub(super) is_readable: bool,
    /// The peer's end of the stream, or an error, is behind the bytes the kernel holds.
    pub(super) is_hung_up: bool,
    pub(super) is_paused: bool,
    pub(super) is_queued: bool,
    pub(super) is_ended: bool,
    pub(super) is_closing: bool,
    pub(super) is_write_blocked: bool,
    pub(super) phase: Phase,
    pub(super) backlog: Option<Box<Backlog>>,
}

const _: () = assert!(
    size_of::<Connection>() <= 64,
    "10,000 idle connections must stay small"
);

#[derive(Debug, Default)]
pub(super) struct Backlog {
    buffers: VecDeque<Vec<u8>>,
    /// Bytes of the first buffer that are sent.
    offset: usize,
    pub(super) unsent_bytes: usize,
}

impl Connection {
    pub(super) fn new(generation: u32) -> Self {
        Self {
            generation,
            worker: 0,
            kind: ConnectionKind::Capnp,
            is_readable: false,
            is_hung_up: false,
            is_paused: false,
            is_queued: false,
            is_ended: false,
            is_closing: false,
            is_write_blocked: false,
            phase: Phase::Free,
            backlog: None,
        }
    }

    pub(super) fn may_read(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Open { .. });
        is_open && self.is_readable && !self.is_paused && !self.is_ended && !self.is_closing
    }
}

impl Backlog {
    pub(super) fn push(&mut self, bytes: Vec<u8>, sent: usize) {
        if self.buffers.is_empty() {
            self.offset = sent;
        }
        self.unsent_bytes += bytes.len() - sent;
        self.buffers.push_back(bytes);
    }

    /// Writes until all is sent or the socket takes no more; sent buffers go to `recycle`.
    pub(super) fn write_to(
        &mut self,
        mut stream: &TcpStream,
        mut recycle: impl FnMut(Vec<u8>),
    ) -> io::Result<()> {
        while self.unsent_bytes > 0 {
            let slices: Vec<_> = (self.buffers.iter().take(SLICES_PER_WRITE_MAX).enumerate())
                .map(|(index, bytes)| IoSlice::new(if index == 0 { &bytes[self.offset..] } else { bytes }))
                .collect();
            let mut sent = match stream.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.unsent_bytes -= sent;
            while let Some(first) = self.buffers.front() {
                let rest = first.len() - self.offset;
                if sent < rest {
                    self.offset += sent;
                    break;
                }
                sent -= rest;
                self.offset = 0;
                self.buffers.pop_front().map(&mut recycle);
            }
        }
        Ok(())
    }
}

/// Writes until all is sent or the socket takes no more; the number of bytes sent.
pub(super) fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
