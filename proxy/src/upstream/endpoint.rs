//! One endpoint: how it is spoken to, and when it is ejected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use weft_ir::Identity;

use super::balance::Load;
use super::liveness::Liveness;
use super::negotiated_http::NegotiatedHttp;
use super::{http1, http2};
use crate::clock::{AtomicTimestamp, Timestamp};
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
    pub(super) ejected_until: AtomicTimestamp,
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
            ejected_until: AtomicTimestamp::default(),
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

    pub(super) fn eject(&self, now: Timestamp) {
        if self.ejected_until.load() > now {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).min(MAX_DOUBLINGS);
        self.ejected_until
            .store(now + EJECTION_TIME * (1 << failures));
    }

    /// Records that the endpoint has as many requests as its limit allows. It has not failed.
    pub(super) fn pass_over(&self, now: Timestamp) {
        self.ejected_until.extend(now + FULL_TIME);
    }

    /// Records a sign that the endpoint is there: a connection, a response, or a datagram.
    pub fn mark_reachable(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    pub(super) fn is_ejected(&self, now: Timestamp) -> bool {
        self.ejected_until.load() > now
    }

    /// Returns true if the endpoint has not failed, is not ejected and is not silent.
    pub(super) fn is_healthy(&self, now: Timestamp) -> bool {
        self.failures.load(Relaxed) == 0 && !self.is_ejected(now) && !self.liveness.is_silent(now)
    }

    /// Claims the probe of an endpoint whose ejection is over. Returns true for one caller, until
    /// the probe ends or [`PROBE_TIMEOUT`] has passed.
    pub(super) fn try_claim_probe(&self, now: Timestamp) -> bool {
        if self.failures.load(Relaxed) == 0 {
            return false;
        }
        let until = self.ejected_until.load();
        until <= now && self.ejected_until.replace(until, now + PROBE_TIMEOUT)
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
        let mut now = Timestamp::START;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            endpoint.eject(now);
            // Further failures at the same time do not extend it.
            endpoint.eject(now);
            endpoint.eject(now + Duration::from_nanos(1));
            let until = endpoint.ejected_until.load();
            pauses.push(until.since(now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 16, 16]);
        endpoint.mark_reachable();
        endpoint.eject(now);
        assert_eq!(endpoint.ejected_until.load(), now + EJECTION_TIME);
    }

    #[test]
    fn full_endpoint_is_passed_over_without_a_probe() {
        let endpoint = endpoint();
        let at = |nanos| Timestamp::START + Duration::from_nanos(nanos);
        let end = at(7) + FULL_TIME;
        endpoint.pass_over(at(7));
        assert!(!endpoint.is_healthy(at(7)) && !endpoint.is_healthy(at(6) + FULL_TIME));
        assert!(endpoint.is_healthy(end) && !endpoint.try_claim_probe(end));
        // An ejection is not cut short.
        endpoint.eject(end);
        endpoint.pass_over(at(8) + FULL_TIME);
        assert_eq!(endpoint.ejected_until.load(), end + EJECTION_TIME);
    }

    #[test]
    fn ejected_endpoint_is_probed_once_before_reuse() {
        let endpoint = endpoint();
        let start = Timestamp::START;
        assert!(endpoint.is_healthy(start) && !endpoint.try_claim_probe(start));
        endpoint.eject(start);
        let (back, probe) = (start + EJECTION_TIME, PROBE_TIMEOUT);
        let before = start + (EJECTION_TIME - Duration::from_nanos(1));
        assert!(!endpoint.try_claim_probe(before));
        assert!(endpoint.try_claim_probe(back) && !endpoint.try_claim_probe(back));
        assert!(
            !endpoint.is_healthy(back + probe),
            "the probe had no result"
        );
        assert!(endpoint.try_claim_probe(back + probe));
        endpoint.mark_reachable();
        assert!(
            endpoint.is_healthy(back + probe * 2) && !endpoint.try_claim_probe(back + probe * 2)
        );
    }
}
