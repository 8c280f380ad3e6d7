//! Bodies of requests on their way to an endpoint, and why any body ends early.
//!
//! Bodies are passed on frame by frame and never copied. The body of a response, with what has to
//! happen at its end, is the HTTP side's.

mod client;
mod incoming;
mod memory;
mod replay;
mod source;
mod stream_writer;
mod tee;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use replay::ReplayReader;

pub use client::{ClientBody, PeekError};
pub use incoming::Incoming;
pub use memory::ReplayMemory;
pub use replay::ReplayBuffer;
pub use stream_writer::StreamWriter;

pub type Request = http::Request<RequestBody>;

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Http1(hyper::Error),
    #[error(transparent)]
    Http2(h2::Error),
    #[error("not complete within the timeout of the rule")]
    Timeout,
    #[error("nothing more of it came")]
    Idle,
    #[error("the client took nothing more of it")]
    ClientStalled,
    #[error("the request went elsewhere, or nobody waits for its answer")]
    Superseded,
    #[error("a policy denies it by now")]
    Denied,
    #[error("the copy fell behind, or the request was not read to its end")]
    TeeLagged,
}

impl BodyError {
    /// Returns true if the sender of the body, or the connection to it, broke it off.
    pub fn is_of_sender(&self) -> bool {
        matches!(self, Self::Http1(_) | Self::Http2(_))
    }

    /// Returns the code with which the other side of the exchange is reset in HTTP/2: that of this
    /// side, if it has one.
    pub fn reset_reason(&self) -> h2::Reason {
        let known = match self {
            Self::Http2(error) => error.reason(),
            Self::Superseded => Some(h2::Reason::CANCEL),
            Self::Http1(_)
            | Self::Timeout
            | Self::Idle
            | Self::ClientStalled
            | Self::Denied
            | Self::TeeLagged => None,
        };
        known.unwrap_or(h2::Reason::INTERNAL_ERROR)
    }
}

/// The body of a request as an endpoint's connection reads it.
pub struct RequestBody(Kind);

enum Kind {
    Empty,
    Replayed(ReplayReader),
}

impl RequestBody {
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// The body that comes from the client, and the handle by which it is read again.
    pub fn replayable(incoming: Incoming, memory: &Arc<ReplayMemory>) -> (Self, ReplayBuffer) {
        if incoming.is_end_stream() {
            return (Self::empty(), ReplayBuffer::none());
        }
        replay::of_client(incoming, memory)
    }

    /// A body of the proxy's own, and the handle by which it is read again.
    pub fn of_bytes(bytes: Bytes, memory: &Arc<ReplayMemory>) -> (Self, ReplayBuffer) {
        if bytes.is_empty() {
            return (Self::empty(), ReplayBuffer::none());
        }
        replay::of_bytes(bytes, memory)
    }

    fn replayed(reader: ReplayReader) -> Self {
        Self(Kind::Replayed(reader))
    }

    /// Returns true if all of the body can be buffered for another attempt; a body of unknown
    /// length may be too long.
    pub fn fits_replay_buffer(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Replayed(reader) => reader.fits_buffer(),
        }
    }

    /// Stops buffering once any of the body has been read in this attempt, unless the rule retries
    /// the request.
    pub fn send_once(&self) {
        if let Kind::Replayed(reader) = &self.0 {
            reader.send_once();
        }
    }

    /// Returns true if there is a body and nothing says how long it will be.
    pub fn has_unknown_length(&self) -> bool {
        !self.is_end_stream() && self.size_hint().exact().is_none()
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Kind::Replayed(reader) = &mut self.0 else {
            return Poll::Ready(None);
        };
        loop {
            let frame = reader.poll_frame(cx);
            if !is_empty(&frame) {
                return frame;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Replayed(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            // Asked for before the first frame only.
            Kind::Replayed(reader) => reader.size_hint(),
        }
    }
}

/// Returns true for an empty frame of data: h2 takes few of them on a connection, which other
/// streams share.
pub fn is_empty(frame: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) -> bool {
    let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
    matches!(frame, Poll::Ready(Some(Ok(frame))) if is_empty(frame))
}
