//! One endpoint: how it is spoken to, and when it is ejected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weft_ir::Identity;

use super::balance::Load;
use super::liveness::Liveness;
use super::negotiated_http::NegotiatedHttp;
use super::{http1, http2};
use crate::tls::backend::Backend;

/// How long an endpoint is ejected after a failed connection, if the cluster has others; doubled
/// with each further failure, up to `EJECTION_TIME << MAX_DOUBLINGS`.
const EJECTION_TIME: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 4;
/// How long an endpoint is passed over that has as many requests as its limit allows, if the
/// cluster has others: its load looks light to a client that gets none through.
const FULL_TIME: Duration = Duration::from_millis(100);
/// How long a probe of a failed endpoint (see [`super::EndpointRegistry::probe`]) keeps its claim:
/// longer than connecting may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(6);

/// An endpoint: its address, its connections, its load and its health.
pub struct Endpoint {
    pub address: SocketAddr,
    /// The identity expected over mutual TLS; `None` for plain text.
    pub identity: Option<Arc<Identity>>,
    /// TLS with the application itself, inside mutual TLS if there is an identity.
    pub tls: Option<Arc<Backend>>,
    /// Whether the endpoint is the proxy's own pod.
    pub own: bool,
    pub load: Load,
    /// Nanoseconds on the clock of [`super::EndpointRegistry::now`].
    pub(super) ejected_until: AtomicU64,
    /// Failed connections since the last successful one; failures at the same time count once.
    pub(super) failures: AtomicU32,
    /// Shared by all ports of the pod.
    pub(super) liveness: Arc<Liveness>,
    /// HTTP/1.1 with the application itself.
    pub(super) http1: http1::Pool,
    /// HTTP/2 for an application that speaks it: plain, or between proxies.
    pub(super) http2: http2::Pool,
    /// HTTP/2 between proxies for an application that speaks HTTP/1.1.
    pub(super) http2_for_http1: http2::Pool,
    /// The version of HTTP that the application negotiated over TLS.
    pub(super) negotiated: NegotiatedHttp,
}

impl Endpoint {
    pub(super) fn new(
        config: &weft_ir::Endpoint,
        tls: Option<Arc<Backend>>,
        own: bool,
        liveness: Arc<Liveness>,
    ) -> Self {
        Self {
            address: config.address,
            identity: config.identity.clone().filter(|_| !own).map(Arc::new),
            tls,
            own,
            load: Load::default(),
            ejected_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            liveness,
            http1: http1::Pool::default(),
            http2: http2::Pool::default(),
            http2_for_http1: http2::Pool::default(),
            negotiated: NegotiatedHttp::default(),
        }
    }

    /// Returns true if requests reach a proxy of the mesh, whose response headers are believed,
    /// rather than the application.
    pub fn is_proxy(&self) -> bool {
        self.identity.is_some() && self.tls.is_none()
    }

    pub(super) fn eject(&self, now: u64) {
        if self.ejected_until.load(Relaxed) > now {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).min(MAX_DOUBLINGS);
        let until = now + ((EJECTION_TIME.as_nanos() as u64) << failures);
        self.ejected_until.store(until, Relaxed);
    }

    /// Records that the endpoint has as many requests as its limit allows. It has not failed.
    pub(super) fn pass_over(&self, now: u64) {
        let until = now + FULL_TIME.as_nanos() as u64;
        self.ejected_until.fetch_max(until, Relaxed);
    }

    /// Records a sign that the endpoint is there: a connection, a response, or a datagram.
    pub fn mark_reachable(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Relaxed) > now
    }

    /// Returns true if the endpoint has not failed, is not ejected and is not silent.
    pub(super) fn is_healthy(&self, now: u64) -> bool {
        self.failures.load(Relaxed) == 0 && !self.is_ejected(now) && !self.liveness.is_silent(now)
    }

    /// Claims the probe of an endpoint whose ejection is over. Returns true for one caller, until
    /// the probe ends or [`PROBE_TIMEOUT`] has passed.
    pub(super) fn try_claim_probe(&self, now: u64) -> bool {
        if self.failures.load(Relaxed) == 0 {
            return false;
        }
        let until = self.ejected_until.load(Relaxed);
        let claimed_until = now + PROBE_TIMEOUT.as_nanos() as u64;
        until <= now
            && self
                .ejected_until
                .compare_exchange(until, claimed_until, Relaxed, Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let identity = None;
        Endpoint::new(
            &weft_ir::Endpoint { address, identity },
            None,
            false,
            Arc::default(),
        )
    }

    #[test]
    fn ejection_time_doubles_up_to_maximum() {
        let endpoint = endpoint();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            endpoint.eject(now);
            // Further failures at the same time do not extend it.
            endpoint.eject(now);
            endpoint.eject(now + 1);
            let until = endpoint.ejected_until.load(Relaxed);
            pauses.push(Duration::from_nanos(until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
        endpoint.mark_reachable();
        endpoint.eject(now);
        assert_eq!(
            endpoint.ejected_until.load(Relaxed) - now,
            EJECTION_TIME.as_nanos() as u64
        );
    }

    #[test]
    fn full_endpoint_is_passed_over_without_a_probe() {
        let (endpoint, full) = (endpoint(), FULL_TIME.as_nanos() as u64);
        endpoint.pass_over(7);
        assert!(!endpoint.is_healthy(7) && !endpoint.is_healthy(full + 6));
        assert!(endpoint.is_healthy(full + 7) && !endpoint.try_claim_probe(full + 7));
        // An ejection is not cut short.
        endpoint.eject(full + 7);
        endpoint.pass_over(full + 8);
        let until = endpoint.ejected_until.load(Relaxed);
        assert_eq!(until, full + 7 + EJECTION_TIME.as_nanos() as u64);
    }

    #[test]
    fn ejected_endpoint_is_probed_once_before_reuse() {
        let endpoint = endpoint();
        assert!(endpoint.is_healthy(0) && !endpoint.try_claim_probe(0));
        endpoint.eject(0);
        let (back, probe) = (
            EJECTION_TIME.as_nanos() as u64,
            PROBE_TIMEOUT.as_nanos() as u64,
        );
        assert!(!endpoint.try_claim_probe(back - 1));
        assert!(endpoint.try_claim_probe(back) && !endpoint.try_claim_probe(back));
        assert!(
            !endpoint.is_healthy(back + probe),
            "the probe had no result"
        );
        assert!(endpoint.try_claim_probe(back + probe));
        endpoint.mark_reachable();
        assert!(
            endpoint.is_healthy(back + 2 * probe) && !endpoint.try_claim_probe(back + 2 * probe)
        );
    }
}
