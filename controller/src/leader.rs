//! Leader election by a Lease, so that one replica at a time writes statuses, and one provisions.
//! Serving proxies needs no leader.
//!
//! A Lease that is not renewed is acquired after it has been observed unchanged for its duration.
//! The clocks of other machines are not used: only the time during which the Lease did not change
//! here.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::kubernetes;
use crate::metrics::ClusterMetrics;

/// A Lease that is unchanged for this long is free.
const DURATION: Duration = Duration::from_secs(10);
/// The interval between reads of the Lease.
const ROUND: Duration = Duration::from_secs(2);
/// Leadership ends after this long without a renewal: well before another replica can acquire it.
const GIVE_UP: Duration = Duration::from_secs(7);
/// One request to the API server.
const REQUEST: Duration = Duration::from_secs(3);

/// A candidate.
pub struct Election {
    pub client: Client,
    pub namespace: String,
    /// The name of the Lease.
    pub lease: &'static str,
    /// The unique name of this replica.
    pub name: String,
    pub metrics: Arc<ClusterMetrics>,
    pub stop: CancellationToken,
}

/// The Lease's version as last read, and since when it has been unchanged.
#[derive(Clone, Debug)]
struct ObservedLease {
    version: Option<String>,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Held by this replica: renew it.
    Renew,
    /// Free: acquire it.
    Acquire,
    Wait,
}

/// Decides the step for a Lease that has been unchanged for `unchanged`.
fn decide(spec: Option<&LeaseSpec>, me: &str, unchanged: Duration) -> Step {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    match holder {
        Some(holder) if holder == me => Step::Renew,
        None | Some("") => Step::Acquire,
        Some(_) => {
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
            let duration = seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DURATION, Duration::from_secs);
            if unchanged >= duration {
                Step::Acquire
            } else {
                Step::Wait
            }
        }
    }
}

impl Election {
    /// Keeps `leads` true while this replica is the leader; releases the Lease at the end.
    pub async fn run(self, leads: watch::Sender<bool>) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut seen: Option<ObservedLease> = None;
        let mut renewed: Option<Instant> = None;
        loop {
            // The last round may have taken long.
            self.lead(&leads, renewed.is_some_and(|at| at.elapsed() < GIVE_UP));
            let begin = Instant::now();
            match timeout(REQUEST, self.round(&api, &mut seen)).await {
                Ok(Ok(true)) => renewed = Some(begin),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::warn!(
                    %error, lease = self.lease, namespace = self.namespace,
                    "reading or renewing the Lease failed: trying again; check that the account of \
                     this process may get, create and update it"
                ),
                Err(_) => tracing::warn!(
                    lease = self.lease,
                    "the API server did not answer about the Lease: trying again"
                ),
            }
            self.lead(&leads, renewed.is_some_and(|at| at.elapsed() < GIVE_UP));
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                () = self.stop.cancelled() => break,
            }
        }
        if *leads.borrow() {
            self.lead(&leads, false);
            self.release(&api).await;
        }
    }

    /// Returns true if this replica holds the Lease now.
    async fn round(
        &self,
        api: &Api<Lease>,
        seen: &mut Option<ObservedLease>,
    ) -> Result<bool, KubeError> {
        let Some(mut lease) = api.get_opt(self.lease).await? else {
            return self.create(api).await;
        };
        let version = lease.metadata.resource_version.clone();
        let since = match seen {
            Some(seen) if seen.version == version => seen.since,
            _ => Instant::now(),
        };
        *seen = Some(ObservedLease { version, since });
        let step = decide(lease.spec.as_ref(), &self.name, since.elapsed());
        if step == Step::Wait {
            return Ok(false);
        }
        let before = lease.spec.take().unwrap_or_default();
        lease.spec = Some(self.spec(before, step));
        match api.replace(self.lease, &kubernetes::post(), &lease).await {
            Ok(_) => Ok(true),
            Err(KubeError::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, api: &Api<Lease>) -> Result<bool, KubeError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec(LeaseSpec::default(), Step::Acquire)),
        };
        match api.create(&kubernetes::post(), &lease).await {
            Ok(_) => Ok(true),
            Err(KubeError::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: LeaseSpec, step: Step) -> LeaseSpec {
        let acquired = step == Step::Acquire;
        let now = MicroTime(Timestamp::now());
        let transitions = before.lease_transitions.unwrap_or_default();
        let taken_over = before.holder_identity.is_some();
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(now.clone()),
            acquire_time: if acquired {
                Some(now)
            } else {
                before.acquire_time
            },
            lease_transitions: Some(transitions.saturating_add(i32::from(acquired && taken_over))),
            ..before
        }
    }

    fn lead(&self, leads: &watch::Sender<bool>, now: bool) {
        self.metrics.leader.set(i64::from(now));
        leads.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                tracing::info!(leads = now, "leadership changed");
            }
            *before = now;
            changed
        });
    }

    /// Releases the Lease, so that the next leader need not wait.
    async fn release(&self, api: &Api<Lease>) {
        let giving = async {
            let mut lease = api.get(self.lease).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.name) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            api.replace(self.lease, &kubernetes::post(), &lease)
                .await
                .map(drop)
        };
        if let Ok(Err(error)) = timeout(REQUEST, giving).await {
            tracing::info!(%error, "releasing the Lease failed: it expires");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(10),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn free_lease_is_acquired_and_own_lease_renewed() {
        assert_eq!(decide(None, "me", Duration::ZERO), Step::Acquire);
        assert_eq!(
            decide(Some(&held_by("")), "me", Duration::ZERO),
            Step::Acquire
        );
        let long = Duration::from_secs(100);
        assert_eq!(decide(Some(&held_by("me")), "me", long), Step::Renew);
    }

    #[test]
    fn lease_of_another_is_acquired_only_after_it_expired() {
        let other = held_by("other");
        assert_eq!(
            decide(Some(&other), "me", Duration::from_millis(9_999)),
            Step::Wait
        );
        assert_eq!(
            decide(Some(&other), "me", Duration::from_secs(10)),
            Step::Acquire
        );
        let negative = LeaseSpec {
            lease_duration_seconds: Some(-5),
            ..other
        };
        assert_eq!(
            decide(Some(&negative), "me", Duration::from_secs(9)),
            Step::Wait
        );
    }

    #[test]
    fn leadership_ends_before_another_can_acquire_it() {
        assert!(GIVE_UP + REQUEST <= DURATION);
        // A killed leader is replaced within 15 seconds.
        assert!(DURATION + ROUND < Duration::from_secs(15));
    }
}
