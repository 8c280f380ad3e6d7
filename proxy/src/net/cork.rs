//! Fewer system calls on busy connections: many frames in one write, many records in one read.
//!
//! HTTP/2 flushes after each frame of data, and TLS reads 4 KiB at a time; under load each costs a
//! system call, and the peer another. [`Corked`] goes above TLS and [`BufferedReads`] below it.
//! Neither delays what is there: a write waits until the tasks that are ready now have run, no
//! longer. Idle, they hold no memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;
use tokio_util::io::poll_read_buf;

use super::io::fill_from;

/// The largest TLS record, so that a full buffer is one.
const SIZE: usize = 16 << 10;

/// What is read at most before other tasks run. HTTP/2 reads until nothing is there, and each
/// stream is answered by a task of its own: a few bytes of HPACK are a head of many fields, which
/// is freed when that task refuses it.
const TURN: usize = 32 << 10;

/// Gathers writes, and writes them when its task is polled once more; reads in turns of [`TURN`]
/// bytes.
///
/// Only for those who, whenever they are polled, read until nothing is there, and then write and
/// flush, as HTTP/2 does once the peer has been heard from: what is to be written by then goes
/// along.
pub struct Corked<S> {
    stream: S,
    written: BytesMut,
    /// Something has come from the peer.
    opened: bool,
    /// The task will be polled again, and write then.
    woken: bool,
    /// The task is polled again: the next flush writes.
    due: bool,
    /// The stream took less than it was given, and wakes the task when it takes more.
    blocked: bool,
    /// Bytes read in this turn.
    read: usize,
    /// The turn is over, and no other has begun.
    over: bool,
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            written: BytesMut::new(),
            opened: false,
            woken: false,
            due: false,
            blocked: false,
            read: 0,
            over: false,
        }
    }

    /// Writes what was buffered.
    fn uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.due = false;
        self.blocked = true;
        while !self.written.is_empty() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.written))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written.advance(taken);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.written = BytesMut::new();
        self.blocked = false;
        Poll::Ready(Ok(()))
    }

    /// Ready in a turn in which more may be read. The budget that tokio gives a task whenever it
    /// runs tells turns apart, since one turn of HTTP/2 reads again after each stream.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.read < TURN {
            return Poll::Ready(());
        }
        if !self.over {
            self.over = true;
            // Budgets are smaller than that.
            for _ in 0..u8::MAX {
                ready!(coop::poll_proceed(cx)).made_progress();
            }
        }
        if !coop::has_budget_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.over = false;
        self.read = 0;
        Poll::Ready(())
    }

    /// Room for `length` more bytes; false: they are to be written without gathering.
    fn room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<bool>> {
        if self.written.len() + length > SIZE {
            ready!(self.uncork(cx))?;
        }
        if length >= SIZE {
            return Poll::Ready(Ok(false));
        }
        if self.written.capacity() == 0 {
            self.written.reserve(SIZE);
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.woken {
            this.woken = false;
            this.due = true;
        }
        if this.blocked
            && let Poll::Ready(Err(error)) = this.uncork(cx)
        {
            return Poll::Ready(Err(error));
        }
        ready!(this.poll_turn(cx));
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        match read {
            Poll::Ready(_) => {
                this.opened = true;
                this.read += buffer.filled().len() - before;
            }
            Poll::Pending => this.read = 0,
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if !ready!(this.room(cx, length))? {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            this.written.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Puts the writing off, unless it has been or the stream is blocked already.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.blocked || this.due || !this.opened {
            return this.uncork(cx);
        }
        if this.written.is_empty() {
            return Pin::new(&mut this.stream).poll_flush(cx);
        }
        if !this.woken {
            this.woken = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.uncork(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// Reads as much as is there at once, and gives it out in the portions that are asked for.
#[derive(Debug)]
pub struct BufferedReads<S> {
    stream: S,
    read: BytesMut,
}

impl<S> BufferedReads<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
        }
    }

    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BufferedReads<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            let mut read = BytesMut::with_capacity(SIZE);
            ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut read))?;
            this.read = read;
        }
        fill_from(&mut this.read, buffer);
        Poll::Ready(Ok(()))
    }
}

crate::net::io::delegate_writes!(BufferedReads<S>, stream);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use task::polled;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    mod task {
        use std::future::Future;
        use std::pin::pin;
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        use std::task::{Context, Poll, Wake, Waker};

        struct Count(AtomicU32);

        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }

        /// Polls once; returns the result, and how often the task was woken.
        pub(super) fn polled<T>(future: impl Future<Output = T>) -> (Poll<T>, u32) {
            let count = Arc::new(Count(AtomicU32::new(0)));
            let waker = Waker::from(count.clone());
            let polled = pin!(future).poll(&mut Context::from_waker(&waker));
            (polled, count.0.load(Relaxed))
        }
    }

    async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    /// Polls a read, as a connection does whenever it is polled.
    fn read_ahead(stream: &mut Corked<DuplexStream>) -> (Poll<usize>, u32) {
        let mut buffer = [0; 8];
        polled(async { stream.read(&mut buffer).await.unwrap() })
    }

    /// A connection whose peer has been heard from.
    fn opened(size: usize) -> (Corked<DuplexStream>, DuplexStream) {
        let (near, mut far) = duplex(size);
        let mut corked = Corked::new(near);
        assert!(polled(far.write_all(b"1")).0.is_ready());
        assert_eq!(read_ahead(&mut corked), (Poll::Ready(1), 0));
        (corked, far)
    }

    #[test]
    fn first_flush_is_not_corked() {
        let (near, mut far) = duplex(1 << 10);
        let mut corked = Corked::new(near);
        assert_eq!(polled(write(&mut corked, b"one")), (Poll::Ready(()), 0));
        let mut seen = [0; 16];
        assert!(matches!(polled(far.read(&mut seen)).0, Poll::Ready(Ok(3))));
    }

    #[test]
    fn writes_are_corked_until_next_poll() {
        let (mut corked, mut far) = opened(1 << 10);
        let (_, woken) = polled(async {
            write(&mut corked, b"one").await;
            write(&mut corked, b"two").await;
        });
        assert_eq!(woken, 1, "the task is woken once");
        let mut seen = [0; 16];
        assert!(polled(far.read(&mut seen)).0.is_pending());
        assert!(read_ahead(&mut corked).0.is_pending());
        let (_, woken) = polled(write(&mut corked, b"three"));
        assert_eq!(woken, 0);
        assert!(matches!(polled(far.read(&mut seen)).0, Poll::Ready(Ok(11))));
        assert_eq!(&seen[..11], b"onetwothree");
        assert_eq!(corked.written.capacity(), 0);
    }

    #[test]
    fn blocked_peer_causes_no_busy_loop() {
        let (mut corked, mut far) = opened(4);
        assert!(polled(write(&mut corked, b"123456")).0.is_ready());
        assert_eq!(read_ahead(&mut corked), (Poll::Pending, 0));
        let flushed = polled(poll_fn(|cx| Pin::new(&mut corked).poll_flush(cx)));
        assert!(flushed.0.is_pending(), "the peer takes four bytes");
        assert_eq!(read_ahead(&mut corked), (Poll::Pending, 0));
        let flushed = polled(poll_fn(|cx| Pin::new(&mut corked).poll_flush(cx)));
        assert!(flushed.0.is_pending(), "a blocked flush is pending");
        assert_eq!(flushed.1, 0);
        let mut seen = [0; 8];
        assert!(matches!(polled(far.read(&mut seen)).0, Poll::Ready(Ok(4))));
        assert_eq!(read_ahead(&mut corked), (Poll::Pending, 0));
        assert!(matches!(polled(far.read(&mut seen)).0, Poll::Ready(Ok(2))));
        assert!(!corked.blocked);
    }

    #[tokio::test]
    async fn reads_yield_to_other_tasks() {
        let endless = tokio::io::join(tokio::io::repeat(1), tokio::io::sink());
        let mut corked = Corked::new(endless);
        for _ in 0..3 {
            let turn = poll_fn(|cx| {
                let mut read = 0;
                let mut pending = 0;
                // Polled again after Pending, as HTTP/2 does.
                while pending < 3 {
                    let mut bytes = [0; 8 << 10];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    match Pin::new(&mut corked).poll_read(cx, &mut buffer) {
                        Poll::Ready(_) => read += buffer.filled().len(),
                        Poll::Pending => pending += 1,
                    }
                }
                Poll::Ready(read)
            });
            assert_eq!(turn.await, TURN);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn writes_of_any_length_arrive_in_order() {
        let (near, mut far) = duplex(1_000);
        let mut corked = Corked::new(near);
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let writing = async {
            let mut rest = &bytes[..];
            for length in [1, 16_383, 16_384, 16_385, 5, 100_000, usize::MAX] {
                let (now, later) = rest.split_at(length.min(rest.len()));
                write(&mut corked, now).await;
                rest = later;
            }
            corked.shutdown().await.unwrap();
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(writing, far.read_to_end(&mut seen));
        read.unwrap();
        assert!(seen == bytes);
    }

    #[tokio::test]
    async fn one_buffered_read_serves_several_callers() {
        let (mut near, far) = duplex(1 << 10);
        let mut buffered = BufferedReads::new(far);
        near.write_all(b"123456").await.unwrap();
        let mut seen = [0; 4];
        assert_eq!(buffered.read(&mut seen).await.unwrap(), 4);
        assert_eq!(buffered.read(&mut seen).await.unwrap(), 2);
        assert_eq!(buffered.read.capacity(), 0);
        drop(near);
        assert_eq!(buffered.read(&mut seen).await.unwrap(), 0);
    }
}
