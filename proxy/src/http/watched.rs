//! Notices that a client of HTTP/1.1 has gone while its request is under way: nothing is read from
//! it then, so hyper does not see it.
//!
//! A reset ends the exchange at once. An end of the client's side alone says little: some clients
//! close it as soon as they have asked and wait for the answer. Such an exchange goes on for a
//! bounded time, longer only while its answer flows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::delivery::WriteStall;
use crate::net::io::fill_from;

/// Bytes that are read before they are asked for: the end of what comes can only be seen behind
/// them.
const READ_AHEAD: usize = 4 << 10;

/// A stream whose reads go on while `busy` says that a request is under way.
pub(super) struct HalfCloseWatch<S, B> {
    stream: S,
    busy: B,
    /// How long an exchange may go on once the client has ended its side.
    bound: Duration,
    read_ahead: BytesMut,
    /// The client has ended its side.
    ended: bool,
    /// The end of the exchange, once `ended`.
    over: Option<Pin<Box<Sleep>>>,
    /// Of what is written.
    stall: WriteStall,
}

impl<S, B> HalfCloseWatch<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Fn() -> bool,
{
    /// `idle`: how long the client may take nothing of what is written.
    pub(super) fn new(stream: S, bound: Duration, idle: Option<Duration>, busy: B) -> Self {
        Self {
            stream,
            busy,
            bound,
            read_ahead: BytesMut::new(),
            ended: false,
            over: None,
            stall: WriteStall::new(idle),
        }
    }

    /// Errors when the exchange under way is not to go on.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !(self.busy)() {
            self.over = None;
            return Ok(());
        }
        while !self.ended && self.read_ahead.len() < READ_AHEAD {
            let mut read = BytesMut::with_capacity(READ_AHEAD - self.read_ahead.len());
            match poll_read_buf(Pin::new(&mut self.stream), cx, &mut read) {
                Poll::Pending => return Ok(()),
                Poll::Ready(length) => self.ended = length? == 0,
            }
            match self.read_ahead.is_empty() {
                true => self.read_ahead = read,
                false => self.read_ahead.extend_from_slice(&read),
            }
        }
        if !self.ended {
            return Ok(());
        }
        let bound = self.bound;
        let over = self.over.get_or_insert_with(|| Box::pin(sleep(bound)));
        match over.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the client has ended its side and the answer is not there",
            )),
        }
    }

    /// Errors when the client has taken nothing for too long, or the answer's time is over.
    fn blocked(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.stall.poll_blocked(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not take the answer",
            )),
        }
    }

    /// What a write came to; one that cannot go on now waits for the client's end, too.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(_)) => {
                self.stall.reset();
                if let Some(over) = &mut self.over {
                    over.as_mut().reset(Instant::now() + self.bound);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.watch(cx)?;
                self.blocked(cx)?;
            }
        }
        written
    }
}

impl<S, B> AsyncRead for HalfCloseWatch<S, B>
where
    S: AsyncRead + Unpin,
    B: Unpin,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read_ahead.is_empty() {
            fill_from(&mut this.read_ahead, buffer);
            return Poll::Ready(Ok(()));
        }
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl<S, B> AsyncWrite for HalfCloseWatch<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Fn() -> bool + Unpin,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever it is polled: it is here that the client is looked at.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch(cx)?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match flushed {
            Poll::Ready(_) => this.stall.reset(),
            Poll::Pending => this.blocked(cx)?,
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    /// Polls as hyper does until an error; returns the time it took.
    async fn time_to_error<B: Fn() -> bool + Unpin>(
        watched: &mut HalfCloseWatch<DuplexStream, B>,
    ) -> Duration {
        let begun = Instant::now();
        let failed = poll_fn(|cx| match Pin::new(&mut *watched).poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        });
        let longest = Duration::from_secs(3_600);
        let _ = tokio::time::timeout(longest, failed).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_client_is_cut_after_timeout() {
        let (mut client, near) = duplex(64);
        let mut watched = HalfCloseWatch::new(near, BOUND, None, || true);
        client.write_all(b"pipelined").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(time_to_error(&mut watched).await, BOUND);
        // Bytes before the end can still be read.
        let mut read = Vec::new();
        watched.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"pipelined");
    }

    #[tokio::test(start_paused = true)]
    async fn response_bytes_restart_half_close_timeout() {
        let (mut client, near) = duplex(64);
        let mut watched = HalfCloseWatch::new(near, BOUND, None, || true);
        client.shutdown().await.unwrap();
        watched.flush().await.unwrap();
        tokio::time::sleep(BOUND / 2).await;
        watched.write_all(b"begins").await.unwrap();
        assert_eq!(time_to_error(&mut watched).await, BOUND);
    }

    #[tokio::test(start_paused = true)]
    async fn half_close_is_not_watched_between_requests() {
        let busy = Arc::new(AtomicBool::new(false));
        let (mut client, near) = duplex(64);
        let asked = busy.clone();
        let mut watched = HalfCloseWatch::new(near, BOUND, None, move || asked.load(Relaxed));
        client.shutdown().await.unwrap();
        assert_eq!(
            time_to_error(&mut watched).await,
            Duration::from_secs(3_600)
        );
        assert!(!watched.ended);
        busy.store(true, Relaxed);
        assert_eq!(time_to_error(&mut watched).await, BOUND);
    }
}
