//! Limits of what is under way at a time, and the queue of what waits for a place.
//!
//! A [`Limiter`] is shared by all that it limits, and outlives changes of its limit: what is under
//! way stays counted. Who waits is admitted in the order of arrival, and whoever goes away, while
//! it waits or with its place, makes room for the next.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;
use weft_ir::{Queue, RequestLimit};

use crate::telemetry::error_type::ErrorType;

pub use client::ClientLimiters;
pub use server::ServerLimiters;

/// What is limited, and by which section of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    ClientRequests,
    ClientConnections,
    ServerRequests,
}

/// There is no place: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtLimit {
    of: Limited,
    limit: RequestLimit,
    /// Whether there was a wait, which is over.
    waited: bool,
}

impl AtLimit {
    pub fn error_type(&self) -> ErrorType {
        match self.of {
            Limited::ClientRequests => ErrorType::ClientRequestLimit,
            Limited::ClientConnections => ErrorType::ClientConnectionLimit,
            Limited::ServerRequests => ErrorType::ServerRequestLimit,
        }
    }
}

impl fmt::Display for AtLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RequestLimit {
            max_requests,
            queue,
        } = self.limit;
        let (section, what) = match self.of {
            Limited::ClientRequests => ("limits.client", "requests are under way"),
            Limited::ClientConnections => ("limits.client", "connections are open"),
            Limited::ServerRequests => ("limits.server", "requests are under way"),
        };
        write!(f, "{section}: {max_requests} {what}")?;
        match queue {
            Some(queue) if self.waited => {
                write!(f, ", and none ended within {:?}", queue.timeout())
            }
            Some(queue) => write!(f, ", and {} wait", queue.max_pending()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AtLimit {}

/// Counts what is under way, and admits no more than the limit.
#[derive(Debug)]
pub struct Limiter {
    of: Limited,
    state: Mutex<State>,
    waiting: Gauge,
}

#[derive(Debug)]
struct State {
    /// `None`: everything is admitted.
    limit: Option<RequestLimit>,
    under_way: usize,
    /// By ticket, which are in the order of arrival. Whoever is taken out of it is counted in
    /// `under_way`.
    queue: BTreeMap<u64, oneshot::Sender<()>>,
    next_ticket: u64,
}

impl State {
    fn has_place(&self) -> bool {
        let most = self.limit.map(|limit| limit.max_requests.get() as usize);
        most.is_none_or(|most| self.under_way < most)
    }

    fn admit_waiting(&mut self) {
        while self.has_place()
            && let Some((_, waiter)) = self.queue.pop_first()
        {
            self.under_way += 1;
            // The waiter takes its ticket out of the queue before it goes: it is there.
            let _ = waiter.send(());
        }
    }
}

impl Limiter {
    /// `waiting` counts what waits.
    pub fn new(of: Limited, limit: RequestLimit, waiting: Gauge) -> Arc<Self> {
        Arc::new(Self {
            of,
            state: Mutex::new(State {
                limit: Some(limit),
                under_way: 0,
                queue: BTreeMap::new(),
                next_ticket: 0,
            }),
            waiting,
        })
    }

    /// Replaces the limit; `None` admits everything. What is under way beyond a smaller one goes
    /// on.
    pub fn set(&self, limit: Option<RequestLimit>) {
        let mut state = self.state();
        state.limit = limit;
        state.admit_waiting();
    }

    /// Returns a place at once or, where the limit has a queue, after a wait.
    pub async fn enter(self: &Arc<Self>) -> Result<Admission, AtLimit> {
        let (waiter, limit, queue) = match self.try_enter() {
            Ok(admission) => return Ok(admission),
            Err(at) => {
                let Some(queue) = at.limit.queue else {
                    return Err(at);
                };
                (self.line_up(&queue).ok_or(at)?, at.limit, queue)
            }
        };
        let at = AtLimit {
            of: self.of,
            limit,
            waited: true,
        };
        waiter.admitted_within(queue.timeout()).await.ok_or(at)
    }

    /// Returns a place if there is one now.
    pub fn try_enter(self: &Arc<Self>) -> Result<Admission, AtLimit> {
        let mut state = self.state();
        match state.limit {
            Some(limit) if !state.has_place() => Err(AtLimit {
                of: self.of,
                limit,
                waited: false,
            }),
            _ => {
                state.under_way += 1;
                Ok(Admission(Arc::clone(self)))
            }
        }
    }

    /// Takes the last place of the queue. Returns `None` if the queue is full.
    fn line_up(self: &Arc<Self>, queue: &Queue) -> Option<Waiter> {
        let mut state = self.state();
        if state.queue.len() >= queue.max_pending().get() as usize {
            return None;
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let (sender, admitted) = oneshot::channel();
        state.queue.insert(ticket, sender);
        // A place may have come free since there was none.
        state.admit_waiting();
        drop(state);
        self.waiting.inc();
        Some(Waiter {
            limiter: Arc::clone(self),
            ticket,
            admitted,
            taken: false,
        })
    }

    fn release(&self) {
        let mut state = self.state();
        state.under_way -= 1;
        state.admit_waiting();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, which the next one gets when it is dropped.
#[derive(Debug)]
pub struct Admission(Arc<Limiter>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Somebody in the queue.
struct Waiter {
    limiter: Arc<Limiter>,
    ticket: u64,
    admitted: oneshot::Receiver<()>,
    /// Whether the place is somebody else's to release.
    taken: bool,
}

impl Waiter {
    async fn admitted_within(mut self, timeout: Duration) -> Option<Admission> {
        let admitted = tokio::time::timeout(timeout, &mut self.admitted).await;
        admitted.ok()?.ok()?;
        self.taken = true;
        Some(Admission(Arc::clone(&self.limiter)))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.limiter.waiting.dec();
        if self.taken {
            return;
        }
        let waited = self.limiter.state().queue.remove(&self.ticket);
        if waited.is_none() {
            // It was admitted, and does not know yet.
            self.limiter.release();
        }
    }
}
