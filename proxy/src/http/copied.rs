//! A request's body as a mirror reads it: what was read for the request itself, a little later.
//!
//! The request never waits for its copies: one that is too far behind ends in an error, and so does one of a request whose
//! own body is not read to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

use super::bodies::BodyError;

/// Bytes by which a copy may be behind.
const MAX_BEHIND: usize = 64 << 10;

enum Piece {
    Frame(Frame<Bytes>),
    End,
}

/// Where the frames that are read go to.
pub(super) struct Copier {
    pieces: mpsc::UnboundedSender<Piece>,
    behind: Arc<AtomicUsize>,
}

/// Where they come out.
pub(super) struct Copied {
    pieces: mpsc::UnboundedReceiver<Piece>,
    behind: Arc<AtomicUsize>,
    ended: bool,
}

pub(super) fn pair() -> (Copier, Copied) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let behind = Arc::<AtomicUsize>::default();
    let copier = Copier {
        pieces: sender,
        behind: behind.clone(),
    };
    let copied = Copied {
        pieces: receiver,
        behind,
        ended: false,
    };
    (copier, copied)
}

impl Copier {
    /// Passes the frame on. False: nobody reads any longer, or too slowly; the copier is of no more use.
    pub(super) fn offer(&self, frame: &Frame<Bytes>) -> bool {
        let copy = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                let behind = self.behind.fetch_add(data.len(), Relaxed);
                // One frame may be larger than all that is allowed.
                if behind > 0 && behind + data.len() > MAX_BEHIND {
                    return false;
                }
                Frame::data(data.clone())
            }
            (None, Some(trailers)) => Frame::trailers(trailers.clone()),
            (None, None) => return true,
        };
        self.pieces.send(Piece::Frame(copy)).is_ok()
    }

    /// The body was read to its end.
    pub(super) fn end(self) {
        // Who does not read any longer need not know.
        let _ = self.pieces.send(Piece::End);
    }
}

impl Copied {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Frame(frame)) => {
                let read = frame.data_ref().map_or(0, Bytes::len);
                self.behind.fetch_sub(read, Relaxed);
                Some(Ok(frame))
            }
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => Some(Err(BodyError::NotCopied)),
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }
}
