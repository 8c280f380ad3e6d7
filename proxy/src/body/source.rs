//! Where the bodies of requests come from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::tee::TeeBody;
use super::{BodyError, Incoming};

/// Where a request's body comes from.
pub(super) enum BodySource {
    Client(Incoming),
    /// The copy for a mirror.
    Tee(TeeBody),
    /// Of the proxy itself; `None` once it is read.
    Own(Option<Bytes>),
}

impl BodySource {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Client(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Tee(body) => body.poll_frame(cx),
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(incoming) => incoming.is_end_stream(),
            Self::Tee(body) => body.is_end_stream(),
            Self::Own(bytes) => bytes.is_none(),
        }
    }
}
