//! Bodies on their way out over HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http_body::{Body, Frame};

use super::BodyError;

/// Writes a body to a stream, no faster than the peer's windows and the connection's send buffer
/// allow. Ready when the body, or the stream, has ended: a body that breaks off resets the stream.
pub struct StreamWriter<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Data that waits for the window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

/// The stream takes no more: it has ended, or was reset.
struct Ended;

impl<B> StreamWriter<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    pub fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self {
            stream,
            body,
            waiting: None,
        }
    }

    /// Ready once the data that waits has been handed on.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.waiting.is_none() {
            return Poll::Ready(Ok(()));
        }
        while self.stream.capacity() == 0 {
            let Some(Ok(_)) = ready!(self.stream.poll_capacity(cx)) else {
                return Poll::Ready(Err(Ended));
            };
        }
        let Some((data, is_last)) = self.waiting.take() else {
            return Poll::Ready(Ok(()));
        };
        Poll::Ready(self.send(data, is_last))
    }

    fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), Ended> {
        let sent = self.stream.send_data(data, is_last);
        if is_last || sent.is_err() {
            return Err(Ended);
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Ended> {
        let frame = match frame.into_data() {
            Ok(data) => {
                let is_last = self.body.is_end_stream();
                if data.is_empty() {
                    return self.send(data, is_last);
                }
                // Only now, and no more than needed to be woken by new capacity: what a stream
                // reserves of the connection's window, others do not have. h2 reserves the rest
                // for data that it has got.
                self.stream.reserve_capacity(1);
                self.waiting = Some((data, is_last));
                return Ok(());
            }
            Err(frame) => frame,
        };
        match frame.into_trailers() {
            Ok(trailers) => {
                self.stream.reserve_capacity(0);
                // A stream that was reset has nobody to tell.
                let _ = self.stream.send_trailers(trailers);
                Err(Ended)
            }
            Err(_) => Ok(()),
        }
    }
}

impl<B> Future for StreamWriter<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // First, so that a reset wakes the task, and is not taken for a failure of the body.
        if this.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            if let Err(Ended) = ready!(this.poll_waiting(cx)) {
                return Poll::Ready(());
            }
            let taken = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => this.take(frame),
                Some(Err(error)) => {
                    this.stream.send_reset(error.reset_reason());
                    Err(Ended)
                }
                None => this.send(Bytes::new(), true),
            };
            if let Err(Ended) = taken {
                return Poll::Ready(());
            }
        }
    }
}
