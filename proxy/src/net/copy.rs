//! Copies bytes between two streams, both ways, and passes each side's end on.
//!
//! A direction that waits for bytes holds no memory: what was read lies on the stack and is written
//! at once, and only what the other side does not take is kept until it does. Whose bytes, for how
//! long, and how they are counted is others' matter.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once: the largest TLS record.
const SIZE: usize = 16 << 10;

/// Until both have ended. Errors: the first of either side, in either direction.
pub(crate) async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (HalfCopy::default(), HalfCopy::default());
    poll_fn(|cx| {
        let there = there.poll(cx, a, b)?;
        let back = back.poll(cx, b, a)?;
        ready!(there);
        back.map(Ok)
    })
    .await
}

/// One direction.
#[derive(Default)]
struct HalfCopy {
    /// Read, and not taken yet.
    unwritten: Bytes,
    /// Something was written after the last flush.
    unflushed: bool,
    end: End,
}

#[derive(Default, PartialEq)]
enum End {
    #[default]
    Open,
    /// The reader's end, which the writer does not know yet.
    Read,
    Forwarded,
}

impl HalfCopy {
    /// Ready once the writer knows the reader's end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.unwritten.is_empty() {
                let taken = ready!(self.write(cx, writer, &self.unwritten.clone()))?;
                self.unwritten.advance(taken);
            }
            // Nothing of it is held on to.
            self.unwritten = Bytes::new();
            match self.end {
                End::Open => ready!(self.read(cx, reader, writer))?,
                End::Read => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.end = End::Forwarded;
                }
                End::Forwarded => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes what the writer takes of it.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); SIZE];
        let mut space = ReadBuf::uninit(&mut space);
        if Pin::new(reader).poll_read(cx, &mut space)?.is_pending() {
            if self.unflushed {
                ready!(Pin::new(writer).poll_flush(cx))?;
                self.unflushed = false;
            }
            return Poll::Pending;
        }
        let read = space.filled();
        if read.is_empty() {
            self.end = End::Read;
            return Poll::Ready(Ok(()));
        }
        let taken = match self.write(cx, writer, read)? {
            Poll::Ready(taken) => taken,
            Poll::Pending => 0,
        };
        if taken < read.len() {
            self.unwritten = Bytes::copy_from_slice(&read[taken..]);
        }
        Poll::Ready(Ok(()))
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(writer).poll_write(cx, bytes))?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        Poll::Ready(Ok(taken))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn bytes(seed: u32) -> Vec<u8> {
        (0..300_000)
            .map(|n| ((n + seed) % (250 + seed)) as u8)
            .collect()
    }

    /// Sends `bytes`, half-closes, and reads to the peer's end.
    async fn exchange(stream: DuplexStream, bytes: &[u8]) -> Vec<u8> {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut seen = Vec::new();
        let send = async {
            write.write_all(bytes).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(send, read.read_to_end(&mut seen));
        read.unwrap();
        seen
    }

    #[tokio::test]
    async fn bidirectional_copy_is_complete_through_small_buffers() {
        let (client, mut near) = duplex(700);
        let (mut far, server) = duplex(900);
        let (asked, answered) = (bytes(0), bytes(1));
        let (copied, at_client, at_server) = tokio::join!(
            copy_bidirectional(&mut near, &mut far),
            exchange(client, &asked),
            exchange(server, &answered),
        );
        copied.unwrap();
        assert!(at_client == answered && at_server == asked);
    }

    #[tokio::test]
    async fn unwritten_bytes_are_kept_only_until_written() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut server) = duplex(4);
        client.write_all(b"123456").await.unwrap();
        let mut half = HalfCopy::default();
        let poll = async |half: &mut HalfCopy, near: &mut DuplexStream, far: &mut DuplexStream| {
            poll_fn(|cx| Poll::Ready(half.poll(cx, near, far))).await
        };
        assert!(poll(&mut half, &mut near, &mut far).await.is_pending());
        assert_eq!(half.unwritten, "56");
        let mut seen = [0; 4];
        server.read_exact(&mut seen).await.unwrap();
        assert!(poll(&mut half, &mut near, &mut far).await.is_pending());
        assert!(half.unwritten.is_empty());
        assert!(!half.unflushed);
        drop(client);
        assert!(poll(&mut half, &mut near, &mut far).await.is_ready());
    }

    #[tokio::test]
    async fn write_error_ends_both_directions() {
        let (mut client, mut near) = duplex(64);
        let (mut far, server) = duplex(64);
        drop(server);
        client.write_all(b"lost").await.unwrap();
        let broken = copy_bidirectional(&mut near, &mut far).await;
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
