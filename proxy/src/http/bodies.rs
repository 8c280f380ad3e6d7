//! Bodies on their way through: passed on frame by frame, never copied.
//!
//! A request's body is kept up to 64 KiB until the response begins, so that a request that never reached its application
//! can go elsewhere. A response's body carries what has to happen at its end: the log, the metrics, and the return of
//! the connection to its pool.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::delivery;
use super::errors;
use super::exchange::Exchange;
use super::mirror::MirroredRequests;
use super::tee::{self, TeeBody, TeeSender};
use crate::overload::ReplayMemory;
use crate::upstream::Lease;

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Bytes of a request's body that are kept for another try.
const MAX_REPLAY: usize = 64 << 10;

/// A body of either direction.
pub struct Body {
    kind: Kind,
    request: Option<Box<RequestState>>,
}

enum Kind {
    Empty,
    Incoming(Incoming),
    Replayed(Reader),
}

impl Kind {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Replayed(reader) => reader.poll_frame(cx),
        }
    }
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Incoming(#[from] hyper::Error),
    #[error("not complete within the timeout of the rule")]
    Timeout,
    #[error("nothing more of it came")]
    Idle,
    #[error("the client took nothing more of it")]
    ClientStalled,
    /// What HTTP/2 says of it is the reason of the source.
    #[error("the request went elsewhere, or nobody waits for its answer")]
    Superseded(#[source] h2::Error),
    #[error("the copy fell behind, or the request was not read to its end")]
    TeeLagged,
}

/// What happens at the end of a response.
pub struct RequestState {
    pub exchange: Exchange,
    pub lease: Option<Lease>,
    pub deadline: Option<Pin<Box<Sleep>>>,
    /// Headers that the answer gets, whoever makes it.
    pub added: Option<Box<HeaderMap>>,
    /// For mirrors, which have not been sent.
    pub mirrored: MirroredRequests,
}

impl Body {
    pub fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            request: None,
        }
    }

    /// A request's body, and the handle by which it is read again.
    pub fn replayable(incoming: Incoming, replay: &Arc<ReplayMemory>) -> (Self, ReplayBuffer) {
        if incoming.is_end_stream() {
            return (Self::empty(), ReplayBuffer(None));
        }
        let hint = incoming.size_hint();
        Self::shared(BodySource::Client(incoming), hint, replay.clone())
    }

    fn shared(
        source: BodySource,
        hint: SizeHint,
        replay: Arc<ReplayMemory>,
    ) -> (Self, ReplayBuffer) {
        let shared = Arc::new(SharedBody {
            hint,
            state: Mutex::new(SharedState {
                source,
                generation: 0,
                frames: VecDeque::new(),
                next: 0,
                reserved: 0,
                read: 0,
                buffering: true,
                rule_retries: false,
                send_once: false,
                tees: Vec::new(),
                replay,
                idle: None,
                idle_timed_out: false,
                waker: None,
            }),
        });
        let replay_buffer = ReplayBuffer(Some(shared.clone()));
        (Self::reader(shared, 0), replay_buffer)
    }

    fn reader(shared: Arc<SharedBody>, generation: u32) -> Self {
        Self {
            kind: Kind::Replayed(Reader { shared, generation }),
            request: None,
        }
    }

    /// Whether all of it can be kept for another try; where its length is not known, it may be too long for that.
    pub fn fits_replay_buffer(&self) -> bool {
        match &self.kind {
            Kind::Replayed(reader) => {
                let most = reader.shared.hint.upper();
                most.is_some_and(|most| most <= MAX_REPLAY as u64)
            }
            Kind::Empty => true,
            Kind::Incoming(_) => false,
        }
    }

    /// It is not sent again once any of it has been in this try, unless its rule says so: nothing is kept for that.
    pub fn send_once(&self) {
        if let Kind::Replayed(reader) = &self.kind {
            let mut state = reader.shared.state();
            state.send_once = !state.rule_retries;
        }
    }

    /// A response's body.
    pub fn response(incoming: Incoming) -> Self {
        Self {
            kind: Kind::Incoming(incoming),
            request: None,
        }
    }

    /// Whether there is one, and nothing says how long it will be.
    pub fn has_unknown_length(&self) -> bool {
        !self.is_end_stream() && self.size_hint().exact().is_none()
    }

    /// What is to happen when this body has been sent, or dropped.
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

    /// An answer that cannot go on: a gRPC client gets a status, others see that it is cut off.
    fn abort(&mut self, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let mut last = Err(error);
        if let (Some(request), Err(error)) = (&mut self.request, &last) {
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

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = loop {
            let frame = this.kind.poll_frame(cx);
            // h2 takes few empty frames on a connection, and others share the one that they would go on by.
            let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
            if !matches!(&frame, Poll::Ready(Some(Ok(frame))) if is_empty(frame)) {
                break frame;
            }
        };
        let Some(request) = &mut this.request else {
            return frame;
        };
        delivery::polled(frame.is_ready());
        match &frame {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => request.exchange.bytes_sent(data.len()),
                None => {
                    if let Some(trailers) = frame.trailers_ref() {
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
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Replayed(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Incoming(incoming) => incoming.size_hint(),
            // Asked for before the first frame only.
            Kind::Replayed(reader) => reader.shared.hint,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.request.is_some() {
            // Where the length is known, the last frame is not followed by another poll.
            let whole = self.is_end_stream();
            self.finish(whole);
        }
    }
}

struct SharedBody {
    hint: SizeHint,
    state: Mutex<SharedState>,
}

/// Where a request's body comes from.
enum BodySource {
    Client(Incoming),
    /// Of a request that is mirrored.
    Tee(TeeBody),
}

impl BodySource {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Client(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Tee(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(incoming) => incoming.is_end_stream(),
            Self::Tee(body) => body.is_end_stream(),
        }
    }
}

struct SharedState {
    source: BodySource,
    /// Only the newest reader reads.
    generation: u32,
    frames: VecDeque<Bytes>,
    /// Place in `frames` of what the reader gets next.
    next: usize,
    /// Bytes in `frames`, as long as they are kept: they count against [`MAX_REPLAY`] and in `replay`.
    reserved: usize,
    read: u64,
    buffering: bool,
    /// A rule says that the request may be sent again.
    rule_retries: bool,
    /// What is sent now is not sent again.
    send_once: bool,
    /// Of mirrors: they get what is read.
    tees: Vec<TeeSender>,
    replay: Arc<ReplayMemory>,
    /// How long the client may send nothing, until there is an answer; its timer, once it does.
    idle: Option<(Duration, Option<Pin<Box<Sleep>>>)>,
    /// It was silent for longer.
    idle_timed_out: bool,
    /// Of the task that waits for more.
    waker: Option<Waker>,
}

impl SharedBody {
    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a kept body from its start on.
struct Reader {
    shared: Arc<SharedBody>,
    generation: u32,
}

impl Reader {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.shared.state();
        if state.generation != self.generation {
            let cancelled = h2::Reason::CANCEL.into();
            return Poll::Ready(Some(Err(BodyError::Superseded(cancelled))));
        }
        if let Some(data) = state.buffered_frame() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Poll::Ready(frame) = state.source.poll_frame(cx)? else {
            state.wait(cx.waker());
            ready!(state.poll_idle(cx));
            return Poll::Ready(Some(Err(BodyError::Idle)));
        };
        if !state.tees.is_empty() {
            state.send_to_tees(frame.as_ref());
        }
        match frame.as_ref().map(Frame::data_ref) {
            Some(Some(data)) => state.buffer(data),
            // Trailers are not kept.
            Some(None) => state.stop_buffering(),
            None => {}
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.state();
        state.next >= state.frames.len() && state.source.is_end_stream()
    }
}

impl SharedState {
    fn buffered_frame(&mut self) -> Option<Bytes> {
        if !self.buffering {
            return self.frames.pop_front();
        }
        let data = self.frames.get(self.next)?.clone();
        self.next += 1;
        Some(data)
    }

    /// Of what was read now.
    fn buffer(&mut self, data: &Bytes) {
        self.read += data.len() as u64;
        if let Some((limit, Some(timer))) = &mut self.idle {
            timer.as_mut().reset(Instant::now() + *limit);
        }
        if !self.buffering {
            return;
        }
        if self.send_once
            || self.reserved + data.len() > MAX_REPLAY
            || !self.replay.reserve(data.len())
        {
            self.stop_buffering();
            return;
        }
        self.reserved += data.len();
        self.frames.push_back(data.clone());
        self.next += 1;
    }

    /// More is waited for.
    fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// Resolves when the client has been silent for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((limit, timer)) = &mut self.idle else {
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(*limit)));
        ready!(timer.as_mut().poll(cx));
        self.idle_timed_out = true;
        Poll::Ready(())
    }

    /// Passes on what was read; where the source knows its length, the end is never read.
    fn send_to_tees(&mut self, frame: Option<&Frame<Bytes>>) {
        if let Some(frame) = frame {
            self.tees.retain(|tee| tee.offer(frame));
        }
        if frame.is_none() || self.source.is_end_stream() {
            self.tees.drain(..).for_each(TeeSender::end);
        }
    }

    /// Lets go of all that the reader has got.
    fn stop_buffering(&mut self) {
        if !self.buffering {
            return;
        }
        self.buffering = false;
        self.frames.drain(..self.next);
        self.frames.shrink_to_fit();
        self.next = 0;
        self.replay.release(std::mem::take(&mut self.reserved));
    }
}

impl Drop for SharedState {
    fn drop(&mut self) {
        self.replay.release(self.reserved);
    }
}

/// The means to send a request's body once more.
#[derive(Clone)]
pub struct ReplayBuffer(Option<Arc<SharedBody>>);

impl ReplayBuffer {
    /// Of a request without a body.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the body can be sent from its start.
    pub fn is_replayable(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|shared| shared.state().buffering)
    }

    /// The body from its start; what read it before gets an error. `None` when too much of it is gone.
    pub fn replay(&self) -> Option<Body> {
        let Some(shared) = &self.0 else {
            return Some(Body::empty());
        };
        let mut state = shared.state();
        if !state.buffering {
            return None;
        }
        state.generation += 1;
        state.next = 0;
        state.send_once = false;
        Some(Body::reader(shared.clone(), state.generation))
    }

    /// A body that follows this one, of which nothing may have been read yet.
    pub fn tee(&self) -> (Body, Self) {
        let Some(shared) = &self.0 else {
            return (Body::empty(), Self(None));
        };
        let (sender, body) = tee::channel();
        let mut state = shared.state();
        state.tees.push(sender);
        Body::shared(BodySource::Tee(body), shared.hint, state.replay.clone())
    }

    /// The rule says that the request may be sent again, whatever came of it.
    pub fn keep_for_retry(&self) {
        if let Some(shared) = &self.0 {
            shared.state().rule_retries = true;
        }
    }

    /// There is an answer: the request is not sent again, and its body may take its time.
    pub fn response_started(&self) {
        if let Some(shared) = &self.0 {
            let mut state = shared.state();
            state.stop_buffering();
            state.idle = None;
        }
    }

    /// Nobody gets the rest of the answer: the request ends, too.
    pub fn abort(&self) {
        if let Some(shared) = &self.0 {
            let mut state = shared.state();
            state.stop_buffering();
            state.generation += 1;
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// How long the client may send nothing of the body until there is an answer.
    pub fn set_idle_timeout(&self, limit: Option<Duration>) {
        if let Some(shared) = &self.0 {
            shared.state().idle = limit.map(|limit| (limit, None));
        }
    }

    /// Whether the client was silent for longer.
    pub fn is_idle_timed_out(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.state().idle_timed_out)
    }

    /// Bytes of the body that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.state().read)
    }
}

/// The status of a gRPC answer, where the headers (or trailers) hold one.
pub fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
