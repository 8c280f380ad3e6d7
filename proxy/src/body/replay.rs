//! The buffer from which a request's body is sent again.
//!
//! A body is buffered up to 64 KiB until the response begins, so that a request that never reached
//! its application can go elsewhere.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::source::BodySource;
use super::tee::{self, TeeSender};
use super::{BodyError, Incoming, ReplayMemory, RequestBody};
use crate::authorization::Permit;
use crate::wire::OVERHEAD;

/// Bytes of a request's body that are buffered for another attempt.
const MAX_REPLAY: usize = 64 << 10;

/// A client's body, and its buffer.
pub(super) fn of_client(
    incoming: Incoming,
    memory: &Arc<ReplayMemory>,
) -> (RequestBody, ReplayBuffer) {
    let hint = incoming.size_hint();
    share(BodySource::Client(incoming), hint, memory.clone())
}

/// A body of the proxy's own.
pub(super) fn of_bytes(bytes: Bytes, memory: &Arc<ReplayMemory>) -> (RequestBody, ReplayBuffer) {
    let hint = SizeHint::with_exact(bytes.len() as u64);
    share(BodySource::Own(Some(bytes)), hint, memory.clone())
}

fn share(
    source: BodySource,
    hint: SizeHint,
    memory: Arc<ReplayMemory>,
) -> (RequestBody, ReplayBuffer) {
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
            keeps_trailers: false,
            trailers: None,
            tees: Vec::new(),
            memory,
            idle: None,
            idle_timed_out: false,
            permit: None,
            waker: None,
        }),
    });
    let buffer = ReplayBuffer(Some(shared.clone()));
    (reader(shared, 0), buffer)
}

fn reader(shared: Arc<SharedBody>, generation: u32) -> RequestBody {
    RequestBody::replayed(ReplayReader { shared, generation })
}

/// The handle by which a request's body is sent again.
#[derive(Clone)]
pub struct ReplayBuffer(Option<Arc<SharedBody>>);

impl ReplayBuffer {
    /// The handle of a request without a body.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if the body can be sent again from its start.
    pub fn is_replayable(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|shared| shared.state().buffering)
    }

    /// Returns the body from its start; the reader before gets an error. Returns `None` if too much
    /// of it is gone.
    pub fn replay(&self) -> Option<RequestBody> {
        let Some(shared) = &self.0 else {
            return Some(RequestBody::empty());
        };
        let mut state = shared.state();
        if !state.buffering {
            return None;
        }
        state.generation += 1;
        state.next = 0;
        state.send_once = false;
        if let Some((_, is_read)) = &mut state.trailers {
            *is_read = false;
        }
        Some(reader(shared.clone(), state.generation))
    }

    /// Returns a copy of the body, of which nothing may have been read yet that is not buffered: it
    /// follows as the original is read.
    pub fn tee(&self) -> (RequestBody, Self) {
        let Some(shared) = &self.0 else {
            return (RequestBody::empty(), Self(None));
        };
        let (sender, body) = tee::channel();
        shared.state().add_tee(sender);
        let state = shared.state();
        share(BodySource::Tee(body), shared.hint, state.memory.clone())
    }

    /// Keeps the buffer for the rule's retries, whatever came of an attempt.
    pub fn keep_for_retry(&self) {
        if let Some(shared) = &self.0 {
            shared.state().rule_retries = true;
        }
    }

    /// Keeps trailers as well, so that a body that was read to its end can be read again.
    pub(super) fn keep_whole(&self) {
        if let Some(shared) = &self.0 {
            shared.state().keeps_trailers = true;
        }
    }

    /// Stops buffering: there is a response, so the request is not sent again, and its body may
    /// take its time.
    pub fn response_started(&self) {
        if let Some(shared) = &self.0 {
            let mut state = shared.state();
            state.stop_buffering();
            state.idle = None;
        }
    }

    /// Ends the request, as nobody receives the rest of the response.
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

    /// Sets how long the client may send nothing of the body until there is a response.
    pub fn set_idle_timeout(&self, limit: Option<Duration>) {
        if let Some(shared) = &self.0 {
            shared.state().idle = limit.map(|limit| (limit, None));
        }
    }

    /// Ends the body once the request is denied.
    pub fn set_permit(&self, permit: Option<&Permit>) {
        if let Some(shared) = &self.0 {
            shared.state().permit = permit.cloned();
        }
    }

    /// Returns true if the client was silent for longer than that.
    pub fn is_idle_timed_out(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.state().idle_timed_out)
    }

    /// Returns true if the client has sent the whole body, and all of it was read.
    pub fn is_read(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|shared| shared.state().source.is_end_stream())
    }

    /// Returns the bytes of the body that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.state().read)
    }
}

/// Reads the body from its start.
pub(super) struct ReplayReader {
    shared: Arc<SharedBody>,
    generation: u32,
}

impl ReplayReader {
    pub(super) fn fits_buffer(&self) -> bool {
        let most = self.shared.hint.upper();
        most.is_some_and(|most| most <= MAX_REPLAY as u64)
    }

    pub(super) fn send_once(&self) {
        let mut state = self.shared.state();
        state.send_once = !state.rule_retries;
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.shared.hint
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.shared.state();
        if state.generation != self.generation {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if state.permit.as_mut().is_some_and(Permit::is_revoked) {
            return Poll::Ready(Some(Err(BodyError::Denied)));
        }
        if let Some(data) = state.buffered_frame() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = state.buffered_trailers() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
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
            Some(None) => state.buffer_trailers(frame.as_ref().and_then(Frame::trailers_ref)),
            None => {}
        }
        Poll::Ready(frame.map(Ok))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.shared.state();
        let has_trailers = matches!(state.trailers, Some((_, false)));
        state.next >= state.frames.len() && !has_trailers && state.source.is_end_stream()
    }
}

struct SharedBody {
    hint: SizeHint,
    state: Mutex<SharedState>,
}

struct SharedState {
    source: BodySource,
    /// Only the newest reader reads.
    generation: u32,
    frames: VecDeque<Bytes>,
    /// The index in `frames` of what the reader gets next.
    next: usize,
    /// Bytes in `frames`, as long as they are kept: they count against [`MAX_REPLAY`] and in
    /// `memory`.
    reserved: usize,
    read: u64,
    buffering: bool,
    /// The request's rule retries it.
    rule_retries: bool,
    /// The current attempt is the last one.
    send_once: bool,
    /// Trailers are buffered as well.
    keeps_trailers: bool,
    /// The buffered trailers, and whether the reader has got them.
    trailers: Option<(HeaderMap, bool)>,
    /// The mirrors' copies.
    tees: Vec<TeeSender>,
    memory: Arc<ReplayMemory>,
    /// How long the client may send nothing until there is a response, and the timer once it does.
    idle: Option<(Duration, Option<Pin<Box<Sleep>>>)>,
    /// The client was silent for longer.
    idle_timed_out: bool,
    permit: Option<Permit>,
    /// The task that waits for more.
    waker: Option<Waker>,
}

impl SharedBody {
    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Buffers what was just read.
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
            || !self.memory.reserve(data.len())
        {
            self.stop_buffering();
            return;
        }
        self.reserved += data.len();
        self.frames.push_back(data.clone());
        self.next += 1;
    }

    fn buffered_trailers(&mut self) -> Option<HeaderMap> {
        let (trailers, is_read) = self.trailers.as_mut().filter(|(_, is_read)| !is_read)?;
        *is_read = true;
        Some(trailers.clone())
    }

    /// Buffers the trailers that were just read, if they are to be kept.
    fn buffer_trailers(&mut self, trailers: Option<&HeaderMap>) {
        let Some(trailers) = trailers.filter(|_| self.keeps_trailers && self.buffering) else {
            self.stop_buffering();
            return;
        };
        let fields = trailers.iter();
        let size = fields.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
        let size = size.sum();
        if self.send_once || !self.memory.reserve(size) {
            self.stop_buffering();
            return;
        }
        self.reserved += size;
        self.trailers = Some((trailers.clone(), true));
    }

    /// Adds a copy, which gets what is buffered at once.
    fn add_tee(&mut self, tee: TeeSender) {
        let frames = self.frames.iter().map(|data| Frame::data(data.clone()));
        let trailers = self.trailers.iter();
        let trailers = trailers.map(|(trailers, _)| Frame::trailers(trailers.clone()));
        let mut buffered = frames.chain(trailers);
        let follows = buffered.all(|frame| tee.offer(&frame));
        if follows && !self.frames.is_empty() && self.source.is_end_stream() {
            tee.end();
        } else if follows {
            self.tees.push(tee);
        }
    }

    /// Registers the task that waits for more.
    fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// Ready once the client has been silent for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((limit, timer)) = &mut self.idle else {
            return Poll::Pending;
        };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(*limit)));
        ready!(timer.as_mut().poll(cx));
        self.idle_timed_out = true;
        Poll::Ready(())
    }

    /// Sends what was read to the tees. If the source knows its length, its end is never read.
    fn send_to_tees(&mut self, frame: Option<&Frame<Bytes>>) {
        if let Some(frame) = frame {
            self.tees.retain(|tee| tee.offer(frame));
        }
        if frame.is_none() || self.source.is_end_stream() {
            self.tees.drain(..).for_each(TeeSender::end);
        }
    }

    /// Drops what the reader has already got.
    fn stop_buffering(&mut self) {
        if !self.buffering {
            return;
        }
        self.buffering = false;
        self.frames.drain(..self.next);
        self.frames.shrink_to_fit();
        self.next = 0;
        // Those that the reader has still to get stay.
        self.trailers.take_if(|(_, is_read)| *is_read);
        self.memory.release(std::mem::take(&mut self.reserved));
    }
}

impl Drop for SharedState {
    fn drop(&mut self) {
        self.memory.release(self.reserved);
    }
}
