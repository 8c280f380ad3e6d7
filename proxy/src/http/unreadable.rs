//! Words for the answers that hyper makes itself, to bytes that are no request of HTTP/1.1: no
//! handler sees these.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What hyper writes, and what is written in its place.
const RESPONSES: [(&[u8], &[u8]); 2] = [
    (
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nweft-error: bad request: the head cannot be read, or its target is no URI\r\n\
          weft-error-type: bad_request\r\n\
          connection: close\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nweft-error: the head of the request is over 64 KiB or 512 fields\r\n\
          weft-error-type: headers_too_large\r\n\
          connection: close\r\ncontent-length: 0\r\n\r\n",
    ),
];

/// As the number of requests that were begun: nothing gets words from now on.
pub(super) const NOT_HTTP: u64 = u64::MAX;

/// A stream on which hyper serves HTTP/1.1.
pub(super) struct ErrorRewriter<S, B> {
    stream: S,
    /// Requests that were begun on the connection.
    begun: Arc<AtomicU64>,
    /// Whether a handler's answer may still be written.
    busy: B,
    /// The requests that had been begun when all that was written was through, and none was under
    /// way: as long as there are no more, what is written is hyper's own.
    done: u64,
    /// Of the answer that is being written in the place of another.
    rest: &'static [u8],
}

impl<S, B: Fn() -> bool> ErrorRewriter<S, B> {
    pub(super) fn new(stream: S, begun: Arc<AtomicU64>, busy: B) -> Self {
        let done = if busy() { NOT_HTTP } else { 0 };
        Self {
            stream,
            begun,
            busy,
            done,
            rest: &[],
        }
    }

    fn replacement(&self, bytes: &[u8]) -> Option<&'static [u8]> {
        let begun = self.begun.load(Relaxed);
        if begun != self.done || begun == NOT_HTTP {
            return None;
        }
        let found = RESPONSES.iter().find(|(own, _)| *own == bytes);
        found.map(|(_, rewritten)| *rewritten)
    }
}

impl<S: AsyncRead + Unpin, B: Unpin> AsyncRead for ErrorRewriter<S, B> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, B: Fn() -> bool + Unpin> AsyncWrite for ErrorRewriter<S, B> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match this.replacement(bytes) {
                Some(rewritten) => this.rest = rewritten,
                None => return Pin::new(&mut this.stream).poll_write(cx, bytes),
            }
        }
        while !this.rest.is_empty() {
            match ready!(Pin::new(&mut this.stream).poll_write(cx, this.rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => this.rest = &this.rest[written..],
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        if !(this.busy)() {
            this.done = this.begun.load(Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_hyper_error_responses_are_rewritten() {
        for (busy, begun, rewritten) in [(false, 0, true), (false, 1, false), (true, 1, false)] {
            let (near, mut far) = tokio::io::duplex(1 << 10);
            let counter = Arc::<AtomicU64>::default();
            let mut stream = ErrorRewriter::new(near, counter.clone(), move || busy);
            counter.store(begun, Relaxed);
            stream.write_all(RESPONSES[0].0).await.unwrap();
            drop(stream);
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            let expected = if rewritten {
                RESPONSES[0].1
            } else {
                RESPONSES[0].0
            };
            assert_eq!(all, expected, "{busy} {begun}");
        }
    }

    #[tokio::test]
    async fn error_response_after_earlier_response_is_rewritten() {
        let (near, mut far) = tokio::io::duplex(64);
        let counter = Arc::new(AtomicU64::new(1));
        let mut stream = ErrorRewriter::new(near, counter, || false);
        let written = async move {
            stream.write_all(b"an answer").await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(RESPONSES[1].0).await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(written, far.read_to_end(&mut all));
        read.unwrap();
        assert_eq!(all, [&b"an answer"[..], RESPONSES[1].1].concat());
    }
}
