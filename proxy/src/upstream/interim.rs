//! Informational responses of HTTP/1.1 on their way from the task of a connection to that of the
//! request.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};

use super::attempt::Observed;
use super::observer::Informational;

/// Informational responses that the request's task has not taken yet; further ones are dropped.
const MAX_WAITING: usize = 16;

/// Those to one request at a time.
#[derive(Default)]
pub(super) struct Interim(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    responses: Vec<Informational>,
    task: Option<Waker>,
}

impl Interim {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, status: StatusCode, headers: HeaderMap) {
        let mut waiting = self.waiting();
        if waiting.responses.len() >= MAX_WAITING {
            return;
        }
        let mut response = Informational::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        waiting.responses.push(response);
        let task = waiting.task.take();
        drop(waiting);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Takes what has come; wakes the task when more does.
    fn take(&self, cx: &Context<'_>) -> Vec<Informational> {
        let mut waiting = self.waiting();
        match &mut waiting.task {
            Some(task) => task.clone_from(cx.waker()),
            None => waiting.task = Some(cx.waker().clone()),
        }
        std::mem::take(&mut waiting.responses)
    }
}

/// Polls `sent`, and tells the observer of informational responses that have come by then.
pub(super) fn poll_observed<F: Future>(
    sent: Pin<&mut F>,
    interim: Option<&Interim>,
    observed: &mut Observed<'_>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    let polled = sent.poll(cx);
    // Afterwards: those before the final response are there, too.
    for response in interim.map_or_else(Vec::new, |interim| interim.take(cx)) {
        observed.informational(response);
    }
    polled
}
