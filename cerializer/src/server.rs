//! Connections: accepted, bounded, watched, and ended in order.
//!
//! Invariants:
//! - At most CONNECTIONS_MAX connections, and fewer than the process may have descriptors; more are closed.
//! - A connection on which a head or a reply does not move for its time is closed.
//! - After a stop nothing new begins, what has begun may end within STOP_GRACE, then the process ends.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use crate::app::App;
use crate::metrics::Counted;

/// 10,000 idle browsers and scripts fit; each costs some 10 KiB.
const CONNECTIONS_MAX: usize = 12_000;
/// Descriptors kept for the cluster, logs and listening.
const DESCRIPTORS_RESERVED: usize = 64;
/// From a connection's first byte, or the end of the request before, to the end of a head. Idle connections
/// end by it too; clients that keep some open meet a closed one and open the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const HEAD_SIZE_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// A reader that takes nothing for this long is gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
const STOP_GRACE: Duration = Duration::from_secs(4);

/// Answers until `stop` comes.
pub async fn serve(listener: TcpListener, app: App, stop: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(
        CONNECTIONS_MAX.min(descriptors().saturating_sub(DESCRIPTORS_RESERVED)),
    ));
    let graceful = GracefulShutdown::new();
    let router = app.clone().router();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a connection that ended before it began.
                tracing::debug!(%error, "cannot accept");
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            app.metrics()
                .connections_refused
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            continue;
        };
        let connection = graceful.watch(connection(stream, router.clone()));
        let app = app.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let _counted = Counted::new(&app.metrics().connections);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    if timeout(STOP_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still being answered and are given up");
    }
}

type HttpConnection = http1::Connection<TokioIo<Watched>, TowerToHyperService<Router>>;

fn connection(stream: TcpStream, router: Router) -> HttpConnection {
    // Without it small replies wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .serve_connection(
            TokioIo::new(Watched::new(stream)),
            TowerToHyperService::new(router),
        )
}

/// Raises the soft limit to the hard one and says what it is.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    current.map_or(usize::MAX, |current| current as usize)
}

/// A stream whose writes fail when the peer takes nothing for WRITE_STALL_MAX.
struct Watched {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(stream: TcpStream) -> Watched {
        Watched {
            stream,
            stalled: None,
        }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(WRITE_STALL_MAX)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
