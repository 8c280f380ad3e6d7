//! What streams that wrap another have in common: observed or buffered reads, and delegated writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// `AsyncWrite` for a wrapper whose writes are those of the stream `S` in its field. `$more`: its
/// other parameters.
macro_rules! delegate_writes {
    ($wrapper:ty, $field:ident $(, $more:ident)*) => {
        impl<S: ::tokio::io::AsyncWrite + Unpin $(, $more: Unpin)*> ::tokio::io::AsyncWrite for $wrapper {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bytes: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                ::std::pin::Pin::new(&mut self.get_mut().$field).poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                slices: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                ::std::pin::Pin::new(&mut self.get_mut().$field).poll_write_vectored(cx, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.get_mut().$field).poll_flush(cx)
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::pin::Pin::new(&mut self.get_mut().$field).poll_shutdown(cx)
            }
        }
    };
}

pub(crate) use delegate_writes;

/// Fills `buffer` from what was `read` before. An empty `read` holds no memory.
pub(crate) fn fill_from(read: &mut BytesMut, buffer: &mut ReadBuf<'_>) {
    let length = read.len().min(buffer.remaining());
    buffer.put_slice(&read[..length]);
    read.advance(length);
    if read.is_empty() {
        *read = BytesMut::new();
    }
}

/// A stream that calls `on_read` with the length of each read.
pub(crate) struct ObservedReads<S, F> {
    stream: S,
    on_read: F,
}

impl<S, F: FnMut(usize)> ObservedReads<S, F> {
    pub(crate) fn new(stream: S, on_read: F) -> Self {
        Self { stream, on_read }
    }
}

impl<S: AsyncRead + Unpin, F: FnMut(usize) + Unpin> AsyncRead for ObservedReads<S, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let length = buffer.filled().len() - before;
        if length > 0 {
            (this.on_read)(length);
        }
        read
    }
}

delegate_writes!(ObservedReads<S, F>, stream, F);
