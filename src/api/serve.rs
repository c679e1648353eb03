//! Accepts connections and serves a router on them until told to stop.
//!
//! `axum::serve` gives hyper no timer, so hyper's own limit on slow request heads is off. The limit here
//! is below HTTP: a connection to which nothing was written for [`SILENCE_MAX`] is closed. That ends slow
//! heads, idle keep-alive and peers that do not read alike, and no request of ours takes as long. (A
//! WebSocket would have to ping more often than that.)
//! Not limited here: the number of connections (the open-file limit of the process does that; a reverse
//! proxy does it better). Bounded by hyper: heads of 400 KB or 100 headers; those answer without a body.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::time::Clock;

/// How long a connection may go without an answer. The longest request is a body of 10 s and then a
/// pull that waits 10 s; load balancers keep idle connections for 60 s or less.
const SILENCE_MAX: Duration = Duration::from_secs(65);

/// How long requests under way may take once `shutdown` has resolved.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Serves until `shutdown` resolves; then accepts no more, lets requests under way finish for up to
/// 10 s, and returns. Needs a tokio runtime with I/O and time; one thread is enough.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        // The receiver lives as long as the server does, unless the server failed.
        let _ = stopping.send(());
    };
    let drained = async {
        match stopped.await {
            Ok(()) => tokio::time::sleep(DRAIN_MAX).await,
            Err(_) => std::future::pending().await,
        }
    };
    let server = axum::serve(Patient(listener), router).with_graceful_shutdown(shutdown);
    tokio::select! {
        served = server.into_future() => served,
        () = drained => Ok(()),
    }
}

/// A listener whose connections are [`Bounded`].
struct Patient(TcpListener);

impl Listener for Patient {
    type Io = Bounded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounded, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        // Answers are single small writes: Nagle's algorithm could only delay them. Failure costs latency.
        let _ = stream.set_nodelay(true);
        (Bounded { stream, silence: Box::pin(tokio::time::sleep(SILENCE_MAX)) }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection that fails once nothing was written to it for [`SILENCE_MAX`].
struct Bounded {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
}

impl Bounded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.silence.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.silence.as_mut().reset((Clock::runtime_instant() + SILENCE_MAX).into());
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
