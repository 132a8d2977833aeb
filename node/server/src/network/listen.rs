//! The sockets connections are accepted from.
//!
//! With several network threads each has a socket of its own on the same address, and the kernel spreads new
//! connections over them by a hash of both ends (SO_REUSEPORT). With one thread the address is taken exclusively.
//!
//! Invariants:
//! - An address another process listens on is an error, with several sockets as with one.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Error;
use crate::pipeline::ConnectionKind;

/// Connections the kernel completes and keeps until they are accepted; a burst of clients waits there instead of
/// being refused. The kernel's own limit (net.core.somaxconn) is 4096 by default.
const BACKLOG: i32 = 4096;

/// A bound socket and what is spoken on it.
#[derive(Debug)]
pub struct Listener {
    pub socket: mio::net::TcpListener,
    pub kind: ConnectionKind,
}

/// Listens on `address`, with a socket for each of `count` network threads; port 0 takes a free one.
pub fn bind(address: SocketAddr, kind: ConnectionKind, count: usize) -> Result<Vec<Listener>, Error> {
    let failed = |source: rustix::io::Errno| Error::Listen {
        address,
        source: source.into(),
    };
    let mut address = address;
    if count > 1 {
        // Sockets that share an address do not notice those of another process, one that does not share does.
        let probe = open(address, false).map_err(failed)?;
        address = local_address(&probe).map_err(failed)?;
    }
    let mut listeners = Vec::new();
    for _ in 0..count {
        let socket = open(address, count > 1).map_err(failed)?;
        address = local_address(&socket).map_err(failed)?;
        listeners.push(Listener {
            socket: mio::net::TcpListener::from_std(TcpListener::from(socket)),
            kind,
        });
    }
    Ok(listeners)
}

fn open(address: SocketAddr, is_shared: bool) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, is_shared)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn local_address(socket: &OwnedFd) -> rustix::io::Result<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket)?)
}
