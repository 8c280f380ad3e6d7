//! Active health checks: endpoints are asked whether they are healthy, and one that is not gets no
//! requests as long as others do.
//!
//! A cluster is checked by one task, from its first use until it has not been used for
//! [`IDLE_INTERVALS`]. What is known of an endpoint holds on while nothing is checked. An endpoint
//! begins as healthy: Kubernetes has said that it is ready, and one that were left out until its
//! first check would leave its requests to those that are about to go.
//!
//! An endpoint that cannot be connected to is also ejected and probed by [`super::Endpoint`], for
//! all clusters. It gets requests again when neither leaves it out.

mod check;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use weft_ir::{HealthCheck, HealthChecks, Protocol};

use super::{Endpoint, EndpointRegistry, Members};
use crate::clock::{AtomicTimestamp, Timestamp};
use check::Failure;

/// A cluster that was not used for this many intervals is not checked.
const IDLE_INTERVALS: u32 = 10;
/// Checks of one cluster at a time.
const CLUSTER_CHECKS: usize = 16;
/// Checks of all clusters at a time, beside one of each: whoever has endpoints that never answer
/// does not keep others from being checked.
pub(super) const ALL_CHECKS: usize = 64;
/// The first checks of a cluster begin within this time, or an interval if that is shorter, so that
/// proxies that get a policy at the same time do not check at the same time.
const SPREAD: Duration = Duration::from_secs(10);
/// How exactly it is known when a cluster was used last.
const USE_PRECISION: Duration = Duration::from_millis(500);
/// Changes that are logged in one round; the others are counted.
const LOGGED: usize = 10;

/// What checks have found out of one endpoint.
#[derive(Debug)]
pub(super) struct HealthState {
    unhealthy: AtomicBool,
    /// Checks in a row that speak against the state.
    row: AtomicU32,
    /// Of all unhealthy endpoints.
    gauge: Gauge,
}

impl HealthState {
    fn new(gauge: Gauge) -> Self {
        Self {
            unhealthy: AtomicBool::new(false),
            row: AtomicU32::new(0),
            gauge,
        }
    }

    /// Counts a check. Returns true if the state has changed.
    fn record(&self, passed: bool, settings: &HealthChecks) -> bool {
        let unhealthy = self.unhealthy.load(Relaxed);
        if passed != unhealthy {
            self.row.store(0, Relaxed);
            return false;
        }
        let threshold = match unhealthy {
            true => settings.healthy_threshold,
            false => settings.unhealthy_threshold,
        };
        if self.row.fetch_add(1, Relaxed) + 1 < threshold.get() {
            return false;
        }
        self.row.store(0, Relaxed);
        self.unhealthy.store(!unhealthy, Relaxed);
        match unhealthy {
            true => self.gauge.dec(),
            false => self.gauge.inc(),
        };
        true
    }
}

impl Drop for HealthState {
    fn drop(&mut self) {
        if *self.unhealthy.get_mut() {
            self.gauge.dec();
        }
    }
}

/// The health of a cluster's endpoints, for one version of them.
pub(super) struct ClusterHealth {
    pub(super) checker: Arc<HealthChecker>,
    /// In the order of the endpoints.
    states: Vec<Arc<HealthState>>,
}

impl ClusterHealth {
    /// Has the endpoints checked in place of those `before`. What is known of one that is among
    /// these is kept.
    pub(super) fn new(
        checker: &Arc<HealthChecker>,
        protocol: Protocol,
        endpoints: &[Arc<Endpoint>],
        before: &Members,
    ) -> Self {
        let known: HashMap<SocketAddr, &Arc<HealthState>> = match &before.health {
            Some(health) => {
                let addresses = before.endpoints.iter().map(|endpoint| endpoint.address);
                addresses.zip(&health.states).collect()
            }
            None => HashMap::new(),
        };
        let gauge = &checker.work.registry.metrics.health.unhealthy;
        let new = || Arc::new(HealthState::new(gauge.clone()));
        let state = |of: &Arc<Endpoint>| known.get(&of.address).copied().cloned();
        let states = endpoints.iter().map(|of| state(of).unwrap_or_else(new));
        let states: Vec<Arc<HealthState>> = states.collect();
        let endpoints = endpoints.iter().cloned().zip(states.iter().cloned());
        let targets = Targets {
            http2: matches!(protocol, Protocol::Http2 | Protocol::Grpc),
            endpoints: endpoints.collect(),
        };
        checker.work.targets.store(Arc::new(targets));
        Self {
            checker: Arc::clone(checker),
            states,
        }
    }

    pub(super) fn is_healthy(&self, place: usize) -> bool {
        let state = self.states.get(place);
        state.is_none_or(|state| !state.unhealthy.load(Relaxed))
    }
}

/// Checks the endpoints of a cluster with one policy, until it is dropped.
pub(super) struct HealthChecker {
    work: Arc<Work>,
    task: Mutex<Option<AbortHandle>>,
}

/// What the task that checks has.
struct Work {
    cluster: Arc<str>,
    registry: Arc<EndpointRegistry>,
    settings: HealthChecks,
    targets: ArcSwap<Targets>,
    /// When the cluster was used.
    used: AtomicTimestamp,
    running: AtomicBool,
    /// The check that needs no place among those of all clusters.
    own_place: Semaphore,
}

/// What is checked.
#[derive(Default)]
struct Targets {
    /// Whether the Service port declares HTTP/2.
    http2: bool,
    endpoints: Vec<(Arc<Endpoint>, Arc<HealthState>)>,
}

/// An endpoint whose state has changed.
struct Change {
    endpoint: SocketAddr,
    found: Result<(), Failure>,
}

impl HealthChecker {
    pub(super) fn new(
        settings: &HealthChecks,
        cluster: &Arc<str>,
        registry: &Arc<EndpointRegistry>,
    ) -> Arc<Self> {
        let work = Work {
            cluster: Arc::clone(cluster),
            registry: Arc::clone(registry),
            settings: settings.clone(),
            targets: ArcSwap::default(),
            used: AtomicTimestamp::default(),
            running: AtomicBool::new(false),
            own_place: Semaphore::new(1),
        };
        Arc::new(Self {
            work: Arc::new(work),
            task: Mutex::default(),
        })
    }

    pub(super) fn settings(&self) -> &HealthChecks {
        &self.work.settings
    }

    /// Records that the cluster is used for a request.
    pub(super) fn request(&self, now: Timestamp) {
        if now.since(self.work.used.load()) >= USE_PRECISION {
            self.work.used.store(now);
        }
        if !self.work.running.load(Relaxed) && !self.work.running.swap(true, Relaxed) {
            self.start();
        }
    }

    /// Records that the cluster is used for bytes. An application that may not speak HTTP is sent
    /// none.
    pub(super) fn connection(&self, now: Timestamp) {
        if self.work.settings.check == HealthCheck::Tcp {
            self.request(now);
        }
    }

    fn start(&self) {
        let task = tokio::spawn(run(Arc::clone(&self.work))).abort_handle();
        let mut running = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        *running = Some(task);
    }
}

impl Drop for HealthChecker {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

/// Checks until the cluster is no longer used.
async fn run(work: Arc<Work>) {
    let mut random = fastrand::Rng::new();
    let interval = work.settings.timing.interval();
    sleep(interval.min(SPREAD).mul_f64(random.f64())).await;
    loop {
        let next = Instant::now() + pause(interval, &mut random);
        work.check_all().await;
        sleep_until(next).await;
        if is_idle(work.used.load(), work.registry.now(), interval) {
            // The next request starts another task.
            work.running.store(false, Relaxed);
            return;
        }
    }
}

/// Returns the time between two rounds: the interval, up to a tenth more or less.
fn pause(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random.f64())
}

fn is_idle(used: Timestamp, now: Timestamp, interval: Duration) -> bool {
    now.since(used) > interval * IDLE_INTERVALS
}

impl Work {
    /// Checks each endpoint once.
    async fn check_all(self: &Arc<Self>) {
        let targets = self.targets.load_full();
        let http2 = targets.http2;
        let checks = targets.endpoints.iter().cloned().map(|(endpoint, state)| {
            let work = Arc::clone(self);
            async move { work.check(endpoint, state, http2).await }
        });
        // Collected, so that nothing is borrowed while it is waited for.
        let checks: Vec<_> = checks.collect();
        let mut checks = futures::stream::iter(checks).buffer_unordered(CLUSTER_CHECKS);
        let mut changes = 0;
        while let Some(change) = checks.next().await {
            if let Some(change) = change {
                changes += 1;
                if changes <= LOGGED {
                    self.log(&change);
                }
            }
        }
        if changes > LOGGED {
            let (cluster, others) = (&self.cluster, changes - LOGGED);
            tracing::info!(%cluster, others, "the health of other endpoints has changed");
        }
    }

    /// Checks an endpoint. Returns it if its state has changed.
    async fn check(
        &self,
        endpoint: Arc<Endpoint>,
        state: Arc<HealthState>,
        http2: bool,
    ) -> Option<Change> {
        let _place = place(&self.own_place, &self.registry.checks).await;
        let found = check::check(&self.registry, &endpoint, &self.settings, http2).await;
        let result = Failure::result(found.as_ref().err());
        self.registry.metrics.health.checked(result);
        let changed = state.record(found.is_ok(), &self.settings);
        changed.then(|| Change {
            endpoint: endpoint.address,
            found,
        })
    }

    fn log(&self, change: &Change) {
        let (cluster, endpoint) = (&self.cluster, change.endpoint);
        match &change.found {
            Ok(()) => tracing::info!(%cluster, %endpoint, "healthy again"),
            Err(why) => tracing::info!(%cluster, %endpoint, "unhealthy: {why}"),
        }
    }
}

/// Waits for a cluster's own place, or for one of those that all clusters share.
async fn place<'a>(own: &'a Semaphore, shared: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
    let place = tokio::select! {
        biased;
        place = own.acquire() => place,
        place = shared.acquire() => place,
    };
    place.ok()
}

#[cfg(test)]
mod tests;
