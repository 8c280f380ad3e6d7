//! Whether an endpoint gives any sign of life while it is waited for.
//!
//! HTTP/2 between proxies asks a silent peer soon (`PING_EVERY`), so whoever is there is heard from often while a request
//! is open, however long its application takes. Nothing is closed here: a silent endpoint gets no new requests where
//! there are others, and is as good as before when it is heard again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Twice the time after which a peer is asked: its answer has half of this.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known of one endpoint. All times in nanoseconds on the clock of [`super::Shared::now`].
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Requests on HTTP/2 that are open.
    open: AtomicU32,
    /// When the first of those was begun.
    since: AtomicU64,
    /// When something came from the endpoint last.
    heard: AtomicU64,
}

impl Pulse {
    pub(super) fn begin(&self, now: u64) {
        if self.open.fetch_add(1, Relaxed) == 0 {
            self.since.store(now, Relaxed);
        }
    }

    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(super) fn heard(&self, now: u64) {
        self.heard.store(now, Relaxed);
    }

    /// It is waited for, and nothing has come for too long.
    pub(super) fn silent(&self, now: u64) -> bool {
        if self.open.load(Relaxed) == 0 {
            return false;
        }
        let last = self.heard.load(Relaxed).max(self.since.load(Relaxed));
        now.saturating_sub(last) > SILENCE.as_nanos() as u64
    }
}

/// A stream whose reads are signs of life.
pub(super) struct Heard<S> {
    stream: S,
    pulse: Arc<Pulse>,
    /// When the clock was zero.
    started: Instant,
}

impl<S> Heard<S> {
    pub(super) fn new(stream: S, pulse: Arc<Pulse>, started: Instant) -> Self {
        Self {
            stream,
            pulse,
            started,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.pulse.heard(this.started.elapsed().as_nanos() as u64);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn silent_is_who_is_waited_for_and_not_heard() {
        let pulse = Pulse::default();
        assert!(!pulse.silent(100 * SECOND), "nobody waits");
        pulse.begin(100 * SECOND);
        assert!(!pulse.silent(101 * SECOND), "the wait began now");
        assert!(pulse.silent(101 * SECOND + 1));
        // One more request does not make it live.
        pulse.begin(102 * SECOND);
        assert!(pulse.silent(102 * SECOND));
        pulse.heard(103 * SECOND);
        assert!(!pulse.silent(104 * SECOND));
        assert!(pulse.silent(104 * SECOND + 1));
        pulse.end();
        assert!(pulse.silent(105 * SECOND), "another is open");
        pulse.end();
        assert!(!pulse.silent(105 * SECOND));
    }
}
