//! The body of a response, with what has to happen at its end: the log, the metrics, and the return
//! of the connection to its pool.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::delivery;
use super::errors;
use super::exchange::Exchange;
use super::external_auth::ResponseChanges;
use super::filters::FilterEffects;
use super::mirror::MirroredRequests;
use crate::body::{BodyError, Incoming, is_empty};
pub use crate::grpc::grpc_status;
use crate::upstream::Lease;

pub type Response = http::Response<ResponseBody>;

/// What goes to the client: an endpoint's body, or nothing.
pub struct ResponseBody {
    kind: Kind,
    request: Option<Box<RequestState>>,
}

enum Kind {
    Empty,
    /// A proxy's own words.
    Text(Option<Bytes>),
    Incoming(Incoming),
    /// A body that is read, and not passed on.
    Discarded(Incoming),
}

impl Kind {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Discarded(incoming) => loop {
                match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => return Poll::Ready(None),
                }
            },
        }
    }
}

/// What is known of a request, until the body of its response has ended.
pub struct RequestState {
    pub exchange: Exchange,
    pub lease: Option<Lease>,
    pub deadline: Option<Pin<Box<Sleep>>>,
    /// What filters ask for.
    pub asked: FilterEffects,
    /// What external servers change on the response.
    pub granted: Option<Box<ResponseChanges>>,
    /// Mirrored requests that have not been sent yet.
    pub mirrored: MirroredRequests,
}

impl RequestState {
    fn of_endpoint(&mut self, record: impl FnOnce(&mut Lease)) {
        if let Some(lease) = &mut self.lease {
            record(lease);
        }
    }
}

impl ResponseBody {
    pub fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            request: None,
        }
    }

    /// The body of an endpoint's response.
    pub fn incoming(incoming: Incoming) -> Self {
        Self {
            kind: Kind::Incoming(incoming),
            request: None,
        }
    }

    /// What a proxy read before.
    pub fn bytes(bytes: Bytes) -> Self {
        let kind = match bytes.is_empty() {
            true => Kind::Empty,
            false => Kind::Text(Some(bytes)),
        };
        Self {
            kind,
            request: None,
        }
    }

    /// A proxy's own words.
    pub fn text(text: String) -> Self {
        Self {
            kind: Kind::Text(Some(text.into())),
            request: None,
        }
    }

    /// Passes nothing of the body on.
    pub fn discard(&mut self) {
        self.kind = match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Incoming(incoming) | Kind::Discarded(incoming) => Kind::Discarded(incoming),
            Kind::Empty | Kind::Text(_) => Kind::Empty,
        };
    }

    /// Attaches what is to happen when this body has been sent or dropped.
    #[must_use]
    pub fn with_state(mut self, request: Box<RequestState>) -> Self {
        delivery::begin(
            request
                .deadline
                .as_ref()
                .map(|deadline| deadline.deadline()),
        );
        self.request = Some(request);
        self
    }

    /// Ends a response that cannot go on: a gRPC client gets a status, others see that it is cut
    /// off.
    fn abort(&mut self, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let mut last = Err(error);
        if let (Some(request), Err(error)) = (&mut self.request, &last) {
            if error.is_of_sender() {
                request.of_endpoint(Lease::broke_off);
            }
            request.exchange.aborted(error);
            if request.exchange.is_grpc() && request.exchange.version() == Version::HTTP_2 {
                let trailers = errors::grpc_trailers(error);
                request.exchange.trailers(&trailers);
                self.kind = Kind::Empty;
                last = Ok(Frame::trailers(trailers));
            }
        }
        self.finish(false);
        last
    }

    fn finish(&mut self, whole: bool) {
        if let Some(request) = self.request.take() {
            let RequestState {
                mut exchange,
                lease,
                ..
            } = *request;
            if let Some(cut) = delivery::end() {
                exchange.aborted(&cut.into());
            }
            if !whole && let Some(replay_buffer) = &exchange.replay_buffer {
                replay_buffer.abort();
            }
            if let Some(lease) = lease.filter(|_| whole) {
                lease.complete();
            }
            exchange.finish(whole);
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = loop {
            let frame = this.kind.poll_frame(cx);
            if !is_empty(&frame) {
                break frame;
            }
        };
        let Some(request) = &mut this.request else {
            return frame;
        };
        delivery::polled(frame.is_ready());
        // Also of a body that broke off because its request was denied.
        let passes = matches!(
            (&this.kind, &frame),
            (Kind::Incoming(_), Poll::Ready(Some(_)))
        );
        if passes && request.exchange.is_revoked() {
            return Poll::Ready(Some(this.abort(BodyError::Denied)));
        }
        match &frame {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => request.exchange.bytes_sent(data.len()),
                None => {
                    if let Some(trailers) = frame.trailers_ref() {
                        request.of_endpoint(|lease| lease.trailers(trailers));
                        request.exchange.trailers(trailers);
                    }
                }
            },
            Poll::Ready(Some(Err(_))) => {
                if let Poll::Ready(Some(Err(error))) = frame {
                    return Poll::Ready(Some(this.abort(error)));
                }
            }
            Poll::Ready(None) => this.finish(true),
            Poll::Pending => {
                if let Some(deadline) = &mut request.deadline {
                    ready!(deadline.as_mut().poll(cx));
                    return Poll::Ready(Some(this.abort(BodyError::Timeout)));
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Text(text) => text.is_none(),
            Kind::Incoming(incoming) | Kind::Discarded(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Discarded(_) => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.request.is_some() {
            // Where the length is known, the last frame is not followed by another poll.
            let whole = self.is_end_stream();
            self.finish(whole);
        }
    }
}
