//! The copy of a request's body that a mirror reads: what was read for the request itself, a little
//! later.
//!
//! The request never waits for its mirrors: a copy that lags too far behind ends in an error, and
//! so does one of a request whose own body is not read to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

use super::BodyError;

/// Bytes by which a mirror may lag behind.
const MAX_LAG: usize = 64 << 10;

enum TeeFrame {
    Frame(Frame<Bytes>),
    End,
}

/// The sending side of a copy.
pub(super) struct TeeSender {
    frames: mpsc::UnboundedSender<TeeFrame>,
    lag: Arc<AtomicUsize>,
}

/// The body that a mirror reads.
pub(super) struct TeeBody {
    frames: mpsc::UnboundedReceiver<TeeFrame>,
    lag: Arc<AtomicUsize>,
    ended: bool,
}

pub(super) fn channel() -> (TeeSender, TeeBody) {
    let (frames, receiver) = mpsc::unbounded_channel();
    let lag = Arc::<AtomicUsize>::default();
    let sender = TeeSender {
        frames,
        lag: lag.clone(),
    };
    let body = TeeBody {
        frames: receiver,
        lag,
        ended: false,
    };
    (sender, body)
}

impl TeeSender {
    /// Sends a frame. Returns false if the mirror has gone or lags too far behind: the sender is of
    /// no more use then.
    pub(super) fn offer(&self, frame: &Frame<Bytes>) -> bool {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                let lag = self.lag.fetch_add(data.len(), Relaxed);
                // One frame may be larger than all that is allowed.
                if lag > 0 && lag + data.len() > MAX_LAG {
                    return false;
                }
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return true,
        };
        self.frames.send(TeeFrame::Frame(copy)).is_ok()
    }

    /// Ends the copy: the body was read to its end.
    pub(super) fn end(self) {
        // A mirror that has gone need not know.
        let _ = self.frames.send(TeeFrame::End);
    }
}

impl TeeBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.frames.poll_recv(cx)) {
            Some(TeeFrame::Frame(frame)) => {
                let read = frame.data_ref().map_or(0, Bytes::len);
                self.lag.fetch_sub(read, Relaxed);
                Some(Ok(frame))
            }
            Some(TeeFrame::End) => {
                self.ended = true;
                None
            }
            None => Some(Err(BodyError::TeeLagged)),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }
}
