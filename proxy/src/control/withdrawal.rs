//! Withdrawal of a pod before its containers are signalled: nobody is to send to it any longer.
//!
//! Kubernetes calls `/drain` as the preStop hook of each container (the kubelet, from the node's
//! address). The call takes effect only if the controller sees that the pod is being deleted: from
//! anybody else, and for a container that is only restarted, it is answered within a second and
//! changes nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use weft_api::proto::Withdrawn;

use crate::drain::PeerConnections;

/// The state of the withdrawal; clones are the same.
#[derive(Clone, Debug)]
pub struct Withdrawal(Arc<watch::Sender<State>>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Idle,
    Asked,
    /// The pod is being deleted, which is final.
    Withdrawn(Withdrawn),
}

impl Default for Withdrawal {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::Idle)))
    }
}

/// How long the hook delays the containers' signal.
#[derive(Clone, Copy, Debug)]
pub struct DrainLimits {
    /// At most.
    pub bound: Duration,
    /// At least, if a Service has the pod: for clients outside the mesh, and those of other
    /// controllers.
    pub grace: Duration,
}

/// The result of a call of the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// The pod is not being deleted.
    Staying,
    /// No Service has the pod.
    Unused,
    /// All proxies that were told have acknowledged, and all others had their time.
    Withdrawn,
    /// Some proxies did not acknowledge.
    Unacknowledged(u32),
    /// The controller did not answer.
    Unanswered,
}

impl fmt::Display for DrainOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Staying => f.write_str("the pod is not being deleted: nothing changes"),
            Self::Unused => f.write_str("no Service has the pod"),
            Self::Withdrawn => f.write_str("withdrawn"),
            Self::Unacknowledged(proxies) => {
                write!(f, "withdrawn; not acknowledged by {proxies} proxies")
            }
            Self::Unanswered => f.write_str("no answer of the controller"),
        }
    }
}

impl Withdrawal {
    /// Asks the controller, or joins an earlier call, drains the peers' connections, and returns
    /// once the containers may be signalled: requests that were on their way have arrived then.
    pub async fn drain(&self, limits: DrainLimits, senders: &PeerConnections) -> DrainOutcome {
        let begun = Instant::now();
        let answer = tokio::time::timeout(limits.bound, self.answer()).await;
        let drained = match answer {
            Ok(None) => return DrainOutcome::Staying,
            Ok(Some(withdrawn)) if withdrawn.service_ports == 0 => return DrainOutcome::Unused,
            Ok(Some(withdrawn)) if withdrawn.unacknowledged == 0 => DrainOutcome::Withdrawn,
            Ok(Some(withdrawn)) => DrainOutcome::Unacknowledged(withdrawn.unacknowledged),
            Err(_) => return DrainOutcome::Unanswered,
        };
        let grace = tokio::time::sleep_until(begun + limits.grace.min(limits.bound));
        let gone = tokio::time::timeout_at(begun + limits.bound, senders.drain());
        // Streams may last longer: they end with the application, or with the process.
        let _ = tokio::join!(grace, gone);
        drained
    }

    /// Returns the controller's answer; `None` if the pod is not being deleted.
    async fn answer(&self) -> Option<Withdrawn> {
        let mut state = self.0.subscribe();
        self.0.send_if_modified(|state| {
            let first = *state == State::Idle;
            if first {
                *state = State::Asked;
            }
            first
        });
        // The sender lives in `self`: waiting cannot fail.
        let answered = state.wait_for(|state| *state != State::Asked).await.ok()?;
        match *answered {
            State::Withdrawn(withdrawn) => Some(withdrawn),
            State::Idle | State::Asked => None,
        }
    }

    /// Sets the controller's answer.
    pub(super) fn set_answer(&self, withdrawn: Withdrawn) {
        self.0.send_if_modified(|state| {
            let asked = *state == State::Asked;
            if asked {
                *state = match withdrawn.terminating {
                    true => State::Withdrawn(withdrawn),
                    false => State::Idle,
                };
            }
            asked
        });
    }

    pub(super) fn requests(&self) -> WithdrawRequests {
        WithdrawRequests(self.0.subscribe())
    }
}

/// Requests for the stream to ask the controller.
pub(super) struct WithdrawRequests(watch::Receiver<State>);

impl WithdrawRequests {
    /// Returns true if an answer is being waited for.
    pub(super) fn pending(&mut self) -> bool {
        *self.0.borrow_and_update() == State::Asked
    }

    /// Resolves when an answer is waited for anew.
    pub(super) async fn next(&mut self) {
        while self.0.changed().await.is_ok() {
            if self.pending() {
                return;
            }
        }
        // Nobody is left to ask.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Shutdown;

    const LIMITS: DrainLimits = DrainLimits {
        bound: Duration::from_secs(8),
        grace: Duration::from_secs(3),
    };

    fn withdrawn(service_ports: u32, unacknowledged: u32) -> Withdrawn {
        Withdrawn {
            terminating: true,
            service_ports,
            unacknowledged,
        }
    }

    /// The outcome of two concurrent calls, and their duration, if the controller answers after a
    /// second and a peer closes `going` after it was drained.
    async fn outcome(answer: Option<Withdrawn>, going: Duration) -> (DrainOutcome, Duration) {
        let withdrawal = Withdrawal::default();
        let shutdown = Shutdown::new();
        let (closing, sends) = shutdown.watch_for_peer();
        tokio::spawn(async move {
            closing.started().await;
            tokio::time::sleep(going).await;
            drop(sends);
        });
        let senders = shutdown.peers();
        let mut requests = withdrawal.requests();
        let begun = Instant::now();
        let controller = async {
            requests.next().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer
                .into_iter()
                .for_each(|one| withdrawal.set_answer(one));
        };
        let (one, other, ()) = tokio::join!(
            withdrawal.drain(LIMITS, senders),
            withdrawal.drain(LIMITS, senders),
            controller
        );
        assert_eq!(one, other);
        assert!(
            tokio::time::timeout(Duration::ZERO, requests.next())
                .await
                .is_err()
        );
        (one, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn drain_hook_waits_for_peers_up_to_its_limit() {
        let seconds = Duration::from_secs;
        let drained = DrainOutcome::Withdrawn;
        for (answer, going, expected) in [
            (Some(Withdrawn::default()), 5, (DrainOutcome::Staying, 1)),
            (Some(withdrawn(0, 0)), 5, (DrainOutcome::Unused, 1)),
            (Some(withdrawn(1, 0)), 0, (drained, 3)),
            (
                Some(withdrawn(1, 2)),
                0,
                (DrainOutcome::Unacknowledged(2), 3),
            ),
            (None, 0, (DrainOutcome::Unanswered, 8)),
            (Some(withdrawn(1, 0)), 1, (drained, 3)),
            (Some(withdrawn(1, 0)), 5, (drained, 6)),
            (Some(withdrawn(1, 0)), 60, (drained, 8)),
        ] {
            let (drained, after) = outcome(answer, seconds(going)).await;
            assert_eq!((drained, after.as_secs()), expected, "{answer:?} {going}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peer_that_connects_after_peer_drain_is_kept() {
        let shutdown = Shutdown::new();
        shutdown.peers().drain().await;
        let (closing, sends) = shutdown.watch_for_peer();
        assert!(sends.is_none());
        let started = tokio::time::timeout(Duration::from_secs(60), closing.started()).await;
        assert!(started.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_hook_may_be_repeated_when_pod_stays() {
        let (withdrawal, senders) = (Withdrawal::default(), PeerConnections::default());
        let mut requests = withdrawal.requests();
        for answer in [Withdrawn::default(), withdrawn(0, 0)] {
            let controller = async {
                requests.next().await;
                withdrawal.set_answer(answer);
            };
            let drained = withdrawal.drain(LIMITS, &senders);
            let (drained, ()) = tokio::join!(drained, controller);
            assert_eq!(drained == DrainOutcome::Staying, !answer.terminating);
        }
        // A known outcome needs no answer of the controller.
        let drained = withdrawal.drain(LIMITS, &senders).await;
        assert_eq!(drained, DrainOutcome::Unused);
    }
}
