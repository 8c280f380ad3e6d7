//! A lingering close: what was sent arrives, whatever the peer goes on to send.
//!
//! A socket that is closed with unread bytes in it resets its connection, and the kernel discards
//! what the peer has not got yet: the end of the last response. HTTP/2 peers send for as long as
//! they read (window updates, answers to pings), those of HTTP/1.1 may send the rest of a body that
//! nobody reads. So the stream is shut down for writing, in TLS with close_notify, and read until
//! the peer has ended too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::drain::DrainWatch;

/// A peer that sends nothing for this long is not waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// Nor is one that goes on sending for this long.
const LONGEST: Duration = Duration::from_secs(20);

/// A stream that is closed so on drop, in a task of its own, unless its peer has ended already.
pub(crate) struct Lingering<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// `None` only while it is dropped.
    stream: Option<S>,
    /// The peer has ended, or the connection is broken.
    ended: bool,
    closing: DrainWatch,
    /// If it is cancelled the stream is dropped at once: others wait for its place.
    evicted: Option<CancellationToken>,
}

impl<S> Lingering<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(crate) fn new(stream: S, closing: DrainWatch, evicted: Option<CancellationToken>) -> Self {
        Self {
            stream: Some(stream),
            ended: false,
            closing,
            evicted,
        }
    }

    fn poll<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let polled = poll(Pin::new(stream));
        self.ended |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }
}

impl<S> Drop for Lingering<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn drop(&mut self) {
        let evicted = self.evicted.as_ref();
        let at_once = self.ended || evicted.is_some_and(CancellationToken::is_cancelled);
        if let Some(stream) = self.stream.take().filter(|_| !at_once) {
            self.closing.spawn(timeout(LONGEST, end(stream)));
        }
    }
}

async fn end<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    // Does nothing where that was done already.
    stream.shutdown().await?;
    let mut nowhere = [0; 1 << 10];
    while timeout(SILENCE, stream.read(&mut nowhere)).await?? > 0 {}
    Ok(())
}

impl<S> AsyncRead for Lingering<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = this.poll(|stream| stream.poll_read(cx, buffer));
        let end = room > 0 && buffer.filled().len() == before;
        this.ended |= end && read.is_ready();
        read
    }
}

impl<S> AsyncWrite for Lingering<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut()
            .poll(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(S::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::time::Instant;

    use super::*;
    use crate::drain::Shutdown;

    /// Returns how long the drain takes for a dropped connection whose peer sends a byte per
    /// interval `every`.
    async fn drained(ended: bool, every: Option<Duration>) -> Duration {
        let shutdown = Shutdown::new();
        let (near, mut far) = duplex(64);
        let mut lingering = Lingering::new(near, shutdown.watch(), None);
        lingering.write_all(b"answer").await.unwrap();
        if ended {
            far.shutdown().await.unwrap();
            assert_eq!(lingering.read(&mut [0]).await.unwrap(), 0);
        }
        drop(lingering);
        let peer = tokio::spawn(async move {
            let mut answer = String::new();
            far.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
            while let Some(every) = every {
                tokio::time::sleep(every).await;
                if far.write_all(b".").await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        });
        let begun = Instant::now();
        assert_eq!(shutdown.drain(Duration::from_secs(60)).await, 0);
        peer.abort();
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn linger_skips_half_closed_peer_and_is_bounded() {
        let second = Duration::from_secs(1);
        assert_eq!(drained(true, None).await, Duration::ZERO);
        assert_eq!(drained(false, None).await, SILENCE);
        assert_eq!(drained(false, Some(second)).await, LONGEST);
    }
}
