//! PINGs of HTTP/2, by which a peer is noticed that has gone silent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::{AtomicTimestamp, Clock};

/// When bytes came from the peer last.
#[derive(Debug)]
pub(crate) struct LastRead {
    clock: Clock,
    at: AtomicTimestamp,
}

impl LastRead {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Clock::start(),
            at: AtomicTimestamp::default(),
        })
    }

    /// Records that bytes have come.
    pub(crate) fn record(&self) {
        self.at.store(self.clock.now());
    }

    fn at(&self) -> Instant {
        self.clock.instant(self.at.load())
    }
}

/// Pings a peer from which nothing has come for a while.
pub(crate) struct KeepAlive {
    pings: PingPong,
    read: Arc<LastRead>,
    interval: Duration,
    timeout: Duration,
    state: State,
    timer: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy)]
enum State {
    Inactive,
    /// The timer is that of the next ping.
    Waiting,
    /// The timer is that of the answer.
    Pinged,
}

impl KeepAlive {
    /// `interval`: the silence before a ping. `timeout`: the time for its answer. The reads of the
    /// connection are recorded in `read`.
    pub(crate) fn new(
        pings: PingPong,
        read: Arc<LastRead>,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        Self {
            pings,
            read,
            interval,
            timeout,
            state: State::Inactive,
            timer: Box::pin(sleep_until(Instant::now() + interval)),
        }
    }

    /// Ready when a ping has not been answered in time. To be polled by the task of the connection,
    /// whenever that is polled; `active`: the peer is to be pinged now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, active: bool) -> Poll<()> {
        loop {
            match self.state {
                State::Inactive if !active => return Poll::Pending,
                State::Inactive => {
                    self.timer.as_mut().reset(Instant::now() + self.interval);
                    self.state = State::Waiting;
                }
                State::Waiting => {
                    ready!(self.timer.as_mut().poll(cx));
                    let due = self.read.at() + self.interval;
                    if !active {
                        self.state = State::Inactive;
                    } else if due > Instant::now() {
                        self.timer.as_mut().reset(due);
                    } else if self.pings.send_ping(Ping::opaque()).is_ok() {
                        self.timer.as_mut().reset(Instant::now() + self.timeout);
                        self.state = State::Pinged;
                    } else {
                        // The connection has ended, which its task learns otherwise.
                        return Poll::Pending;
                    }
                }
                State::Pinged => match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => self.state = State::Inactive,
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => return self.timer.as_mut().poll(cx),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Polls as the task of a connection does until the ping has not been answered; returns the
    /// time that took.
    async fn time_to_silence(
        connection: &mut h2::client::Connection<DuplexStream>,
        keep_alive: &mut KeepAlive,
        active: bool,
    ) -> Duration {
        let begun = Instant::now();
        let silent = poll_fn(|cx| {
            let _ = Pin::new(&mut *connection).poll(cx);
            keep_alive.poll(cx, active)
        });
        let _ = tokio::time::timeout(60 * SECOND, silent).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_ping_is_noticed_after_interval_and_timeout() {
        for reads in [0, 4] {
            let (near, _far) = duplex(1 << 10);
            let handshake = h2::client::handshake(near).await;
            let (_sender, mut connection) = handshake.unwrap();
            let read = LastRead::new();
            let pings = connection.ping_pong().unwrap();
            let mut keep_alive = KeepAlive::new(pings, read.clone(), 2 * SECOND, 5 * SECOND);
            let reading = async {
                for _ in 0..reads {
                    tokio::time::sleep(SECOND).await;
                    read.record();
                }
            };
            let silence = time_to_silence(&mut connection, &mut keep_alive, true);
            let (elapsed, ()) = tokio::join!(silence, reading);
            assert_eq!(elapsed, SECOND * reads + 7 * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn live_peer_and_inactive_connection_are_kept() {
        for (answers, active) in [(true, true), (false, false)] {
            let (near, far) = duplex(1 << 10);
            tokio::spawn(async move {
                let mut server = h2::server::handshake(far).await.unwrap();
                while answers && server.accept().await.is_some() {}
                std::future::pending::<()>().await;
            });
            let (_sender, mut connection) = h2::client::handshake(near).await.unwrap();
            let pings = connection.ping_pong().unwrap();
            let mut keep_alive = KeepAlive::new(pings, LastRead::new(), SECOND, SECOND);
            let elapsed = time_to_silence(&mut connection, &mut keep_alive, active).await;
            assert_eq!(elapsed, 60 * SECOND, "{answers} {active}");
        }
    }
}
