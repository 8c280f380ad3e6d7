//! Informational responses of HTTP/1.1, which hyper's server cannot send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::delivery;
use crate::upstream::Informational;

/// A stream on which hyper serves HTTP/1.1. Writes the informational responses of the request that
/// is under way.
///
/// hyper flushes a stream whenever it has been polled, after all that it has to write: the earlier
/// responses are through then, and the response of the request is not begun before
/// [`delivery::informational_sent`].
pub(super) struct InterimWriter<S> {
    stream: S,
    /// What is left to be written.
    rest: BytesMut,
}

impl<S: AsyncWrite + Unpin> InterimWriter<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            rest: BytesMut::new(),
        }
    }

    fn write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.rest.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.rest.advance(written),
            }
        }
        self.rest = BytesMut::new();
        delivery::informational_written();
        // The response that waits for this is polled by the same task.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}

/// Appends the head as RFC 9112, 2.1, has it.
fn put(response: &Informational, to: &mut BytesMut) {
    let status = response.status();
    to.extend_from_slice(b"HTTP/1.1 ");
    to.extend_from_slice(status.as_str().as_bytes());
    to.extend_from_slice(b" ");
    to.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    to.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value.as_bytes());
        to.extend_from_slice(b"\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

impl<S: AsyncRead + Unpin> AsyncRead for InterimWriter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InterimWriter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_rest(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_rest(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        for response in delivery::take_informational() {
            put(&response, &mut this.rest);
        }
        ready!(this.write_rest(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_rest(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn informational_response_precedes_what_is_written_later() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = InterimWriter::new(near);
        let written = delivery::scope(async move {
            stream.write_all(b"earlier|").await.unwrap();
            let mut hints = Informational::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            let link = http::HeaderValue::from_static("</a>");
            hints.headers_mut().insert("link", link);
            assert!(delivery::send_informational(hints));
            let sent = std::future::poll_fn(|_| delivery::informational_sent());
            let (flushed, ()) = tokio::join!(stream.flush(), sent);
            flushed.unwrap();
            stream.write_all(b"response").await.unwrap();
        });
        let mut all = String::new();
        let (_, read) = tokio::join!(written, far.read_to_string(&mut all));
        read.unwrap();
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        assert_eq!(all, format!("earlier|{hints}response"));
    }
}
