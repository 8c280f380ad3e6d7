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

use super::copied::{self, Copied, Copier};
use super::delivery;
use super::errors;
use super::exchange::Exchange;
use super::mirror::Copies;
use crate::overload::Replay;
use crate::upstream::Lease;

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Bytes of a request's body that are kept for another try.
const KEEP: usize = 64 << 10;

/// A body of either direction.
pub struct Body {
    kind: Kind,
    tail: Option<Box<Tail>>,
}

enum Kind {
    Empty,
    Incoming(Incoming),
    Kept(Reader),
}

impl Kind {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Kept(reader) => reader.poll_frame(cx),
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
    NotTaken,
    /// What HTTP/2 says of it is the reason of the source.
    #[error("the request went elsewhere, or nobody waits for its answer")]
    Superseded(#[source] h2::Error),
    #[error("the copy fell behind, or the request was not read to its end")]
    NotCopied,
}

/// What happens at the end of a response.
pub struct Tail {
    pub exchange: Exchange,
    pub lease: Option<Lease>,
    pub deadline: Option<Pin<Box<Sleep>>>,
    /// Headers that the answer gets, whoever makes it.
    pub added: Option<Box<HeaderMap>>,
    /// For mirrors, which have not been sent.
    pub copies: Copies,
}

impl Body {
    pub fn empty() -> Self {
        Self {
            kind: Kind::Empty,
            tail: None,
        }
    }

    /// A request's body, and the handle by which it is read again.
    pub fn keeping(incoming: Incoming, replay: &Arc<Replay>) -> (Self, Spare) {
        if incoming.is_end_stream() {
            return (Self::empty(), Spare(None));
        }
        let hint = incoming.size_hint();
        Self::kept(Source::Client(incoming), hint, replay.clone())
    }

    fn kept(source: Source, hint: SizeHint, replay: Arc<Replay>) -> (Self, Spare) {
        let kept = Arc::new(Kept {
            hint,
            state: Mutex::new(KeptState {
                source,
                generation: 0,
                frames: VecDeque::new(),
                next: 0,
                charged: 0,
                read: 0,
                keeping: true,
                for_rule: false,
                once: false,
                copies: Vec::new(),
                replay,
                idle: None,
                was_idle: false,
                waker: None,
            }),
        });
        let spare = Spare(Some(kept.clone()));
        (Self::reader(kept, 0), spare)
    }

    fn reader(kept: Arc<Kept>, generation: u32) -> Self {
        Self {
            kind: Kind::Kept(Reader { kept, generation }),
            tail: None,
        }
    }

    /// Whether all of it can be kept for another try; where its length is not known, it may be too long for that.
    pub fn is_repeatable(&self) -> bool {
        match &self.kind {
            Kind::Kept(reader) => {
                let most = reader.kept.hint.upper();
                most.is_some_and(|most| most <= KEEP as u64)
            }
            Kind::Empty => true,
            Kind::Incoming(_) => false,
        }
    }

    /// It is not sent again once any of it has been in this try, unless its rule says so: nothing is kept for that.
    pub fn send_once(&self) {
        if let Kind::Kept(reader) = &self.kind {
            let mut state = reader.kept.state();
            state.once = !state.for_rule;
        }
    }

    /// A response's body.
    pub fn response(incoming: Incoming) -> Self {
        Self {
            kind: Kind::Incoming(incoming),
            tail: None,
        }
    }

    /// Whether there is one, and nothing says how long it will be.
    pub fn is_of_unknown_length(&self) -> bool {
        !self.is_end_stream() && self.size_hint().exact().is_none()
    }

    /// What is to happen when this body has been sent, or dropped.
    #[must_use]
    pub fn with_tail(mut self, tail: Box<Tail>) -> Self {
        delivery::begin(tail.deadline.as_ref().map(|deadline| deadline.deadline()));
        self.tail = Some(tail);
        self
    }

    /// An answer that cannot go on: a gRPC client gets a status, others see that it is cut off.
    fn break_off(&mut self, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let mut last = Err(error);
        if let (Some(tail), Err(error)) = (&mut self.tail, &last) {
            tail.exchange.broke(error);
            if tail.exchange.is_grpc() && tail.exchange.version() == Version::HTTP_2 {
                let trailers = errors::grpc_trailers(error);
                tail.exchange.trailers(&trailers);
                self.kind = Kind::Empty;
                last = Ok(Frame::trailers(trailers));
            }
        }
        self.finish(false);
        last
    }

    fn finish(&mut self, whole: bool) {
        if let Some(tail) = self.tail.take() {
            let Tail {
                mut exchange,
                lease,
                ..
            } = *tail;
            if let Some(cut) = delivery::end() {
                exchange.broke(&cut.into());
            }
            if !whole && let Some(spare) = &exchange.spare {
                spare.abandon();
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
        let Some(tail) = &mut this.tail else {
            return frame;
        };
        delivery::polled(frame.is_ready());
        match &frame {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => tail.exchange.sent(data.len()),
                None => {
                    if let Some(trailers) = frame.trailers_ref() {
                        tail.exchange.trailers(trailers);
                    }
                }
            },
            Poll::Ready(Some(Err(_))) => {
                if let Poll::Ready(Some(Err(error))) = frame {
                    return Poll::Ready(Some(this.break_off(error)));
                }
            }
            Poll::Ready(None) => this.finish(true),
            Poll::Pending => {
                if let Some(deadline) = &mut tail.deadline {
                    ready!(deadline.as_mut().poll(cx));
                    return Poll::Ready(Some(this.break_off(BodyError::Timeout)));
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Kept(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Incoming(incoming) => incoming.size_hint(),
            // Asked for before the first frame only.
            Kind::Kept(reader) => reader.kept.hint,
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.tail.is_some() {
            // Where the length is known, the last frame is not followed by another poll.
            let whole = self.is_end_stream();
            self.finish(whole);
        }
    }
}

struct Kept {
    hint: SizeHint,
    state: Mutex<KeptState>,
}

/// Where a request's body comes from.
enum Source {
    Client(Incoming),
    /// Of a request that is mirrored.
    Copy(Copied),
}

impl Source {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Client(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Copy(copied) => copied.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(incoming) => incoming.is_end_stream(),
            Self::Copy(copied) => copied.is_end_stream(),
        }
    }
}

struct KeptState {
    source: Source,
    /// Only the newest reader reads.
    generation: u32,
    frames: VecDeque<Bytes>,
    /// Place in `frames` of what the reader gets next.
    next: usize,
    /// Bytes in `frames`, as long as they are kept: they count against [`KEEP`] and in `replay`.
    charged: usize,
    read: u64,
    keeping: bool,
    /// A rule says that the request may be sent again.
    for_rule: bool,
    /// What is sent now is not sent again.
    once: bool,
    /// Of mirrors: they get what is read.
    copies: Vec<Copier>,
    replay: Arc<Replay>,
    /// How long the client may send nothing, until there is an answer; its timer, once it does.
    idle: Option<(Duration, Option<Pin<Box<Sleep>>>)>,
    /// It was silent for longer.
    was_idle: bool,
    /// Of the task that waits for more.
    waker: Option<Waker>,
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, KeptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a kept body from its start on.
struct Reader {
    kept: Arc<Kept>,
    generation: u32,
}

impl Reader {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.kept.state();
        if state.generation != self.generation {
            let cancelled = h2::Reason::CANCEL.into();
            return Poll::Ready(Some(Err(BodyError::Superseded(cancelled))));
        }
        if let Some(data) = state.kept_frame() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Poll::Ready(frame) = state.source.poll_frame(cx)? else {
            state.wait(cx.waker());
            ready!(state.poll_idle(cx));
            return Poll::Ready(Some(Err(BodyError::Idle)));
        };
        if !state.copies.is_empty() {
            state.copy(frame.as_ref());
        }
        match frame.as_ref().map(Frame::data_ref) {
            Some(Some(data)) => state.keep(data),
            // Trailers are not kept.
            Some(None) => state.stop_keeping(),
            None => {}
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.kept.state();
        state.next >= state.frames.len() && state.source.is_end_stream()
    }
}

impl KeptState {
    fn kept_frame(&mut self) -> Option<Bytes> {
        if !self.keeping {
            return self.frames.pop_front();
        }
        let data = self.frames.get(self.next)?.clone();
        self.next += 1;
        Some(data)
    }

    /// Of what was read now.
    fn keep(&mut self, data: &Bytes) {
        self.read += data.len() as u64;
        if let Some((limit, Some(timer))) = &mut self.idle {
            timer.as_mut().reset(Instant::now() + *limit);
        }
        if !self.keeping {
            return;
        }
        if self.once || self.charged + data.len() > KEEP || !self.replay.take(data.len()) {
            self.stop_keeping();
            return;
        }
        self.charged += data.len();
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
        self.was_idle = true;
        Poll::Ready(())
    }

    /// Passes on what was read; where the source knows its length, the end is never read.
    fn copy(&mut self, frame: Option<&Frame<Bytes>>) {
        if let Some(frame) = frame {
            self.copies.retain(|copy| copy.offer(frame));
        }
        if frame.is_none() || self.source.is_end_stream() {
            self.copies.drain(..).for_each(Copier::end);
        }
    }

    /// Lets go of all that the reader has got.
    fn stop_keeping(&mut self) {
        if !self.keeping {
            return;
        }
        self.keeping = false;
        self.frames.drain(..self.next);
        self.frames.shrink_to_fit();
        self.next = 0;
        self.replay.give(std::mem::take(&mut self.charged));
    }
}

impl Drop for KeptState {
    fn drop(&mut self) {
        self.replay.give(self.charged);
    }
}

/// The means to send a request's body once more.
#[derive(Clone)]
pub struct Spare(Option<Arc<Kept>>);

impl Spare {
    /// Of a request without a body.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the body can be sent from its start.
    pub fn is_whole(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.state().keeping)
    }

    /// The body from its start; what read it before gets an error. `None` when too much of it is gone.
    pub fn again(&self) -> Option<Body> {
        let Some(kept) = &self.0 else {
            return Some(Body::empty());
        };
        let mut state = kept.state();
        if !state.keeping {
            return None;
        }
        state.generation += 1;
        state.next = 0;
        state.once = false;
        Some(Body::reader(kept.clone(), state.generation))
    }

    /// A body that follows this one, of which nothing may have been read yet.
    pub fn copy(&self) -> (Body, Self) {
        let Some(kept) = &self.0 else {
            return (Body::empty(), Self(None));
        };
        let (copier, copied) = copied::pair();
        let mut state = kept.state();
        state.copies.push(copier);
        Body::kept(Source::Copy(copied), kept.hint, state.replay.clone())
    }

    /// The rule says that the request may be sent again, whatever came of it.
    pub fn keep(&self) {
        if let Some(kept) = &self.0 {
            kept.state().for_rule = true;
        }
    }

    /// There is an answer: the request is not sent again, and its body may take its time.
    pub fn answered(&self) {
        if let Some(kept) = &self.0 {
            let mut state = kept.state();
            state.stop_keeping();
            state.idle = None;
        }
    }

    /// Nobody gets the rest of the answer: the request ends, too.
    pub fn abandon(&self) {
        if let Some(kept) = &self.0 {
            let mut state = kept.state();
            state.stop_keeping();
            state.generation += 1;
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// How long the client may send nothing of the body until there is an answer.
    pub fn limit_idle(&self, limit: Option<Duration>) {
        if let Some(kept) = &self.0 {
            kept.state().idle = limit.map(|limit| (limit, None));
        }
    }

    /// Whether the client was silent for longer.
    pub fn is_idle(&self) -> bool {
        self.0.as_ref().is_some_and(|kept| kept.state().was_idle)
    }

    /// Bytes of the body that were read so far.
    pub fn read(&self) -> u64 {
        self.0.as_ref().map_or(0, |kept| kept.state().read)
    }
}

/// The status of a gRPC answer, where the headers (or trailers) hold one.
pub fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
