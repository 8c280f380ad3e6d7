//! Answers that their client does not take.
//!
//! While a client takes nothing hyper does not poll the answer's body: over HTTP/1.1 the socket is
//! full, over HTTP/2 the window of the stream is used up. So time limits on an answer are kept by
//! the task that writes it as well. What that task has to know of the answer is in a task-local,
//! which the body fills in.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::informational::Queue;
use crate::body::BodyError;
use crate::upstream::Informational;

tokio::task_local! {
    static DELIVERY: Delivery;
}

/// The answer that a task writes.
#[derive(Default)]
struct Delivery {
    under_way: Cell<bool>,
    /// When it has to be over.
    deadline: Cell<Option<Instant>>,
    polled: Cell<Polled>,
    cut: Cell<Option<CutReason>>,
    informational: RefCell<Queue>,
    /// Informational responses wait to be written.
    unwritten: Cell<bool>,
}

/// What polling the body gave last, since the task began to be polled.
#[derive(Clone, Copy, Default)]
enum Polled {
    #[default]
    Never,
    Frame,
    Pending,
}

/// Why an answer is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CutReason {
    Deadline,
    Idle,
}

impl From<CutReason> for BodyError {
    fn from(cut: CutReason) -> Self {
        match cut {
            CutReason::Deadline => Self::Timeout,
            CutReason::Idle => Self::ClientStalled,
        }
    }
}

/// Runs a task that writes answers one after the other.
pub(super) fn scope<F: Future>(task: F) -> impl Future<Output = F::Output> {
    DELIVERY.scope(Delivery::default(), task)
}

/// The task writes this answer from now on.
pub(super) fn begin(deadline: Option<Instant>) {
    let _ = DELIVERY.try_with(|delivery| {
        delivery.under_way.set(true);
        delivery.deadline.set(deadline);
        delivery.polled.set(Polled::Never);
        delivery.cut.set(None);
        delivery.informational.borrow_mut().restart();
    });
}

/// The task sends this before the answer that it waits for. Returns false if it does not: the
/// exchange has had as many as it may.
pub(super) fn send_informational(response: Informational) -> bool {
    let sent = DELIVERY.try_with(|delivery| {
        let sent = delivery.informational.borrow_mut().push(response);
        delivery.unwritten.set(delivery.unwritten.get() || sent);
        sent
    });
    sent.unwrap_or(false)
}

/// What is to be sent now.
pub(super) fn take_informational() -> Vec<Informational> {
    let taken = DELIVERY.try_with(|delivery| delivery.informational.borrow_mut().take());
    taken.unwrap_or_default()
}

/// What was taken has been written.
pub(super) fn informational_written() {
    let _ = DELIVERY.try_with(|delivery| delivery.unwritten.set(false));
}

/// Ready once no informational response waits to be written. Who writes them wakes the task.
pub(super) fn informational_sent() -> Poll<()> {
    match DELIVERY.try_with(|delivery| delivery.unwritten.get()) {
        Ok(true) => Poll::Pending,
        Ok(false) | Err(_) => Poll::Ready(()),
    }
}

/// The task polled the answer's body, which has a frame or is waited for.
pub(super) fn polled(is_ready: bool) {
    let polled = match is_ready {
        true => Polled::Frame,
        false => Polled::Pending,
    };
    let _ = DELIVERY.try_with(|delivery| delivery.polled.set(polled));
}

/// The answer is over; gives why it was cut, if it was.
pub(super) fn end() -> Option<CutReason> {
    let ended = DELIVERY.try_with(|delivery| {
        delivery.under_way.set(false);
        delivery.cut.take()
    });
    ended.ok().flatten()
}

/// How long a client has taken nothing of what is there for it.
pub(super) struct WriteStall {
    /// The longest that it may.
    idle: Option<Duration>,
    since: Option<Instant>,
    /// Runs on when the client takes something, and is set anew once it has run down.
    timer: Option<Pin<Box<Sleep>>>,
}

impl WriteStall {
    pub(super) fn new(idle: Option<Duration>) -> Self {
        Self {
            idle,
            since: None,
            timer: None,
        }
    }

    /// The client has taken something, or there is nothing for it.
    pub(super) fn reset(&mut self) {
        self.since = None;
    }

    /// The socket takes nothing now. Ready when the task is to end for it.
    pub(super) fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        let of = |delivery: &Delivery| {
            let deadline = delivery.deadline.get();
            let cut = self.poll(cx, deadline.filter(|_| delivery.under_way.get()));
            if let Poll::Ready(cut) = cut {
                delivery.cut.set(Some(cut));
            }
            cut
        };
        let cut = DELIVERY.try_with(of);
        cut.unwrap_or(Poll::Pending)
    }

    fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<CutReason> {
        let mut now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let idle = self.idle.and_then(|idle| since.checked_add(idle));
        let ends = [(deadline, CutReason::Deadline), (idle, CutReason::Idle)];
        let ends = ends.into_iter().filter_map(|(at, cut)| Some((at?, cut)));
        let Some((at, cut)) = ends.min_by_key(|(at, _)| *at) else {
            return Poll::Pending;
        };
        while now < at {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.is_elapsed() || timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            now = Instant::now();
        }
        Poll::Ready(cut)
    }
}

/// Runs a stream of HTTP/2 in a task of its own, which ends when the client does not take its
/// answer. That resets the stream (CANCEL). `idle`: how long a client may take nothing of an
/// answer.
pub(super) fn spawn<F>(stream: F, idle: Option<Duration>)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(scope(stream_until_cut(stream, idle)));
}

async fn stream_until_cut(stream: impl Future<Output = ()>, idle: Option<Duration>) {
    let mut stream = pin!(stream);
    let mut stall = WriteStall::new(idle);
    poll_fn(|cx| {
        DELIVERY.with(|delivery| delivery.polled.set(Polled::Never));
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        DELIVERY.with(|delivery| delivery.poll_stream(&mut stall, cx))
    })
    .await;
}

impl Delivery {
    /// After a poll of the stream that has not ended it. A body that waits to go on was polled
    /// last; one that was not, or has given a frame and was not polled again, waits for the client.
    fn poll_stream(&self, stall: &mut WriteStall, cx: &mut Context<'_>) -> Poll<()> {
        match self.polled.get() {
            _ if !self.under_way.get() => stall.reset(),
            Polled::Pending => stall.reset(),
            Polled::Frame => {
                stall.reset();
                return stall.poll_blocked(cx).map(drop);
            }
            Polled::Never => return stall.poll_blocked(cx).map(drop),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn blocked(stall: &mut WriteStall) -> CutReason {
        poll_fn(|cx| stall.poll_blocked(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_response_is_cut_after_idle_timeout() {
        scope(async {
            let mut stall = WriteStall::new(Some(10 * SECOND));
            let begun = Instant::now();
            for _ in 0..5 {
                let early = tokio::time::timeout(9 * SECOND, blocked(&mut stall));
                assert!(early.await.is_err());
                stall.reset();
            }
            assert_eq!(blocked(&mut stall).await, CutReason::Idle);
            assert_eq!(begun.elapsed(), 55 * SECOND);
            assert_eq!(end(), Some(CutReason::Idle));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn response_deadline_applies_while_client_reads() {
        scope(async {
            let mut stall = WriteStall::new(Some(10 * SECOND));
            let begun = Instant::now();
            begin(Some(begun + 12 * SECOND));
            let early = tokio::time::timeout(8 * SECOND, blocked(&mut stall));
            assert!(early.await.is_err());
            stall.reset();
            assert_eq!(blocked(&mut stall).await, CutReason::Deadline);
            assert_eq!(begun.elapsed(), 12 * SECOND);
            assert_eq!(end(), Some(CutReason::Deadline));
            // The deadline does not apply to the next response.
            begin(None);
            stall.reset();
            assert_eq!(blocked(&mut stall).await, CutReason::Idle);
            assert_eq!(begun.elapsed(), 22 * SECOND);
        })
        .await;
    }

    /// Returns how long a stream lasts whose body is polled every second, with these outcomes.
    async fn stream_lasts(polls: &'static [Option<bool>]) -> Duration {
        let begun = Instant::now();
        let stream = async move {
            begin(None);
            for upstream in polls.iter().copied() {
                if let Some(is_ready) = upstream {
                    polled(is_ready);
                }
                tokio::time::sleep(SECOND).await;
            }
            std::future::pending::<()>().await;
        };
        let task = scope(stream_until_cut(stream, Some(5 * SECOND)));
        let _ = tokio::time::timeout(100 * SECOND, task).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn http2_stream_is_cut_when_client_stalls_not_upstream() {
        const FRAME: Option<bool> = Some(true);
        const WAITS: Option<bool> = Some(false);
        assert_eq!(stream_lasts(&[FRAME]).await, 5 * SECOND);
        assert_eq!(stream_lasts(&[FRAME, None, FRAME, None]).await, 7 * SECOND);
        // Waits for its body for twenty seconds, and then for its client.
        assert_eq!(stream_lasts(&[WAITS; 20]).await, 25 * SECOND);
    }
}
