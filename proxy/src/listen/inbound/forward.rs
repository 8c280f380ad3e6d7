//! Requests to the pod's application.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Version;
use http::request::Parts;
use http_body::Body as _;
use weft_ir::ProbeRequest;

use super::NAME;
use crate::authorization::ClientPolicies;
use crate::http::errors::{Failure, ShortCircuit, contain};
use crate::http::exchange::{Downstream, Exchange};
use crate::http::forward::receive;
use crate::http::informational::Progress;
use crate::http::response_body::{RequestState, Response};
use crate::http::serve::{Handler, Request};
use crate::http::{headers, path, upgrade};
use crate::lease::Owner;
use crate::limits::{Admission, Limiter};
use crate::listen::plaintext_policy::{PlaintextPolicy, Refusal, is_probe};
use crate::telemetry::error_type::ErrorType;
use crate::upstream::{Cluster, UpstreamRequest};

/// One connection to the pod's application.
pub(super) struct Inbound {
    pub(super) downstream: Owner<Downstream>,
    /// The application as its only endpoint.
    pub(super) cluster: Arc<Cluster>,
    pub(super) app: SocketAddr,
    pub(super) app_http2: bool,
    pub(super) plaintext_policy: PlaintextPolicy,
    pub(super) probes: Vec<ProbeRequest>,
    pub(super) policies: Arc<ClientPolicies>,
}

impl Handler for Inbound {
    async fn handle(self: Arc<Self>, request: Request) -> Response {
        let exchange = Exchange::begin(
            &self.downstream,
            &request,
            &self.downstream.runtime.metrics.inbound,
        );
        let mut state = RequestState::new(exchange);
        let to_proxy = self.downstream.identity.is_some();
        let response = match contain(self.forward(request, &mut state)).await {
            Ok(Ok(response)) => response,
            Ok(Err(ShortCircuit::Response(response))) => *response,
            Ok(Err(ShortCircuit::Failure(failure))) => state.exchange.respond(&failure, to_proxy),
            Err(_) => state.exchange.respond(&Failure::Panicked, to_proxy),
        };
        state.attach(response)
    }

    fn is_busy(&self) -> bool {
        self.downstream.is_leased()
    }

    fn malformed_request(&self, error: &hyper::Error) {
        self.downstream.log_malformed(error);
    }

    fn count_protocol_error(&self, error_type: ErrorType) {
        let metrics = &self.downstream.runtime.metrics;
        metrics.protocol_error(NAME, error_type);
    }
}

impl Inbound {
    /// Counts and logs a request that only a proxy of the mesh, or the node, may make. A kubelet
    /// repeats its probes, so that one line a source is enough.
    fn refuse(&self, refusal: Refusal) -> Failure {
        let (runtime, client) = (&self.downstream.runtime, self.downstream.address);
        let (failure, is_logged) = match refusal {
            Refusal::PlainText => (Failure::PlainText(self.app), true),
            Refusal::Source => {
                let is_first = runtime.probe_sources.is_first_refusal(client.ip());
                (Failure::ProbeSource(client.ip().to_canonical()), is_first)
            }
        };
        let error_type = failure.error_type();
        runtime.metrics.protocol_error(NAME, error_type);
        if is_logged {
            tracing::info!(listener = NAME, %client, %error_type, "request refused: {failure}");
        }
        failure
    }

    /// Errors if the request comes in plain text and is not accepted so.
    fn check_plaintext(&self, head: &Parts, upgrade: bool, has_body: bool) -> Result<(), Failure> {
        let (runtime, client) = (&self.downstream.runtime, self.downstream.address.ip());
        let is_from = |node: &[IpAddr]| runtime.probe_sources.allow(client, node);
        let accepted = self
            .plaintext_policy
            .request(head, upgrade, has_body, is_from);
        accepted.map_err(|refusal| self.refuse(refusal))
    }

    /// Returns true if the client is where the kubelet is.
    fn is_from_node(&self) -> bool {
        let runtime = &self.downstream.runtime;
        let workload = runtime.store.workload();
        let node = workload.as_ref().map_or(&[][..], |of| &of.host_ips);
        let client = self.downstream.address.ip();
        runtime.probe_sources.allow(client, node)
    }

    /// Waits until the application may have one more request.
    async fn admitted(&self, limiter: Arc<Limiter>) -> Result<Admission, Failure> {
        limiter.enter().await.map_err(|at| {
            self.downstream.runtime.metrics.shed(at.error_type());
            Failure::Limited(at)
        })
    }

    async fn forward(
        &self,
        request: Request,
        state: &mut RequestState,
    ) -> Result<Response, ShortCircuit> {
        self.downstream.admit()?;
        let (mut head, body) = request.into_parts();
        let upgrade = headers::clean_request(&mut head)?;
        let has_body = !body.is_end_stream();
        self.check_plaintext(&head, upgrade, has_body)?;
        let is_probe = is_probe(&self.probes, &head, upgrade, has_body);
        if !is_probe {
            let permit = self.policies.request(&mut head, path::normalize);
            state.exchange.set_permit(permit)?;
        }
        let admission = match self.downstream.runtime.store.limits().of(self.app.port()) {
            Some(limiter) if !(is_probe && self.is_from_node()) => {
                // Boxed, so that the futures of requests without a limit stay small.
                Some(Box::pin(self.admitted(limiter)).await?)
            }
            _ => None,
        };
        let on_upgrade = upgrade.then(|| upgrade::take(&mut head));
        let version = if self.app_http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        headers::set_version(&mut head, version);
        let replay = &self.downstream.runtime.overload.replay;
        let request = UpstreamRequest::new(head, body, upgrade, self.app, replay);
        if admission.is_some() {
            // It keeps others waiting.
            let idle = self.downstream.runtime.body_idle;
            request.replay_buffer.set_idle_timeout(idle);
        }
        let permit = state.exchange.permit.as_ref();
        request.replay_buffer.set_permit(permit);
        state.exchange.replay_buffer = Some(request.replay_buffer.clone());
        let mut progress = Progress(&mut state.exchange);
        let sent = self.cluster.send(request, &mut progress).await;
        let mut upstream = sent.map_err(|error| state.exchange.denied_or(error.into()))?;
        upstream.lease.keep(admission);
        upgrade::check(&upstream, upgrade)?;
        let mut response = receive(upstream, true, state)?;
        let (permit, lease) = (&state.exchange.permit, &mut state.lease);
        upgrade::finish(&mut response, on_upgrade, &self.downstream, permit, lease);
        Ok(response)
    }
}
