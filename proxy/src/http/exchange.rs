//! One request, from its head to the last byte of its response: what metrics and the access log say
//! of it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tonic::Code;
use weft_ir::Identity;

use super::client_connections::ClientConnection;
use super::errors::{Failure, body_error_type, is_grpc};
use super::informational::Wanted;
use super::response_body::grpc_status;
use super::runtime::Runtime;
use crate::authorization::{Permit, Verdict};
use crate::body::{BodyError, ReplayBuffer};
use crate::drain::DrainWatch;
use crate::lease::Owner;
use crate::telemetry::access::Record;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{Direction, RequestProtocol, RetryResult};
use crate::telemetry::outcome::RequestOutcome;
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::Endpoint;
use crate::wire::{ERROR, ERROR_TYPE};

/// The status in metrics and logs of a request whose client went away before the response; common
/// among proxies, and sent to nobody.
const CLIENT_GONE: u16 = 499;

/// The client side of a connection. The connection owns it, and each exchange has a lease until its
/// response has ended.
pub struct Downstream {
    pub runtime: Arc<Runtime>,
    pub direction: Direction,
    pub address: SocketAddr,
    /// Proven by its certificate, or this proxy's own for what its pod sends.
    pub identity: Option<Arc<Identity>>,
    /// When the connection is to finish.
    pub closing: DrainWatch,
    /// At a gateway: the connection's entry among those of all clients.
    pub client: Option<Arc<ClientConnection>>,
}

impl Downstream {
    /// Errors if the latest request is one too many.
    pub fn admit(&self) -> Result<(), Failure> {
        let shed = self.runtime.overload.check_request();
        shed.map_or(Ok(()), |limit| Err(Failure::Overloaded(limit)))
    }

    /// Logs a malformed request: hyper has answered it, and closes the connection.
    pub fn log_malformed(&self, error: &hyper::Error) {
        let (code, error_type) = match error.is_parse_too_large() {
            true => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                ErrorType::HeadersTooLarge,
            ),
            false => (StatusCode::BAD_REQUEST, ErrorType::BadRequest),
        };
        if !self.runtime.access.wants(code, None, true) {
            return;
        }
        let metrics = match self.direction {
            Direction::Inbound => &self.runtime.metrics.inbound,
            Direction::Outbound => &self.runtime.metrics.outbound_unknown,
            Direction::Gateway => &self.runtime.metrics.gateway,
        };
        let words = format!("bad request: {error}");
        self.runtime.access.write(&Record {
            direction: self.direction,
            client: Some(self.address),
            client_id: self.identity.as_deref(),
            error_type: Some(error_type),
            error: Some(&words),
            ..Record::of(metrics, RequestProtocol::Http1, code)
        });
    }
}

/// Recorded in metrics and log on drop.
pub struct Exchange {
    downstream: Arc<Downstream>,
    started: Instant,
    protocol: RequestProtocol,
    version: Version,
    wanted: Wanted,
    logged: Option<LoggedHead>,
    pub metrics: Arc<RequestMetrics>,
    pub replay_buffer: Option<ReplayBuffer>,
    /// Of a request on which policies decide.
    pub permit: Option<Permit>,
    endpoint: Option<Arc<Endpoint>>,
    status: Option<StatusCode>,
    grpc: Option<Code>,
    sent: u64,
    error: Option<ExchangeError>,
}

/// Why a proxy answered itself, or why the response broke off.
struct ExchangeError {
    error_type: ErrorType,
    words: Cow<'static, str>,
}

impl ExchangeError {
    fn new(error_type: ErrorType, words: impl Into<Cow<'static, str>>) -> Self {
        let words = words.into();
        Self { error_type, words }
    }
}

/// What the access log needs of a request's head.
struct LoggedHead {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    /// Of a gateway.
    listener: Option<Arc<str>>,
}

impl Exchange {
    pub fn begin<B>(
        downstream: &Owner<Downstream>,
        request: &http::Request<B>,
        metrics: &Arc<RequestMetrics>,
    ) -> Self {
        let version = request.version();
        let protocol = match version {
            _ if is_grpc(request.headers()) => RequestProtocol::Grpc,
            Version::HTTP_2 => RequestProtocol::Http2,
            _ => RequestProtocol::Http1,
        };
        let logged = downstream.runtime.logs_requests.then(|| LoggedHead {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            listener: None,
        });
        downstream.runtime.overload.request_started();
        let all = &downstream.runtime.metrics;
        all.active_requests(downstream.direction).inc();
        if let Some(client) = &downstream.client {
            client.request_started();
        }
        Self {
            downstream: downstream.lease(),
            started: Instant::now(),
            protocol,
            version,
            wanted: Wanted::by(request),
            logged,
            metrics: metrics.clone(),
            replay_buffer: None,
            permit: None,
            endpoint: None,
            status: None,
            grpc: None,
            sent: 0,
            error: None,
        }
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol == RequestProtocol::Grpc
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Which informational responses the client gets.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Sets the listener of the request, for the log.
    pub fn set_listener(&mut self, listener: &Arc<str>) {
        if let Some(logged) = &mut self.logged {
            logged.listener = Some(listener.clone());
        }
    }

    /// Returns true if the request is from a gateway's client, outside the mesh.
    pub fn is_from_gateway(&self) -> bool {
        self.downstream.direction == Direction::Gateway
    }

    /// Sets the endpoint that was tried last.
    pub fn set_endpoint(&mut self, endpoint: &Arc<Endpoint>) {
        self.endpoint = Some(endpoint.clone());
    }

    /// A retry was sent, or would have been.
    pub fn count_retry(&self, result: RetryResult) {
        self.metrics.count_retry(result);
    }

    /// Resolves when the process ends.
    pub async fn draining(&self) {
        self.downstream.closing.draining().await;
    }

    /// Records that an external server denied the request.
    pub fn denied_by_server(&mut self, server: &str) {
        let words = format!("denied by the authorization server {server}");
        self.error = Some(ExchangeError::new(ErrorType::ExternalAuthDenied, words));
    }

    /// Returns the address of the client, at a gateway as the trusted hops say.
    pub fn client_address(&self) -> SocketAddr {
        let peer = self.downstream.address;
        match self.permit.as_ref().map(Permit::client) {
            Some(client) if client != peer.ip() => SocketAddr::new(client, 0),
            _ => peer,
        }
    }

    pub fn failed(&mut self, failure: &Failure) {
        let error = ExchangeError::new(failure.error_type(), failure.to_string());
        self.error = Some(error);
    }

    /// Records the head of the response, as the client gets it.
    pub fn response_started(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        if self.is_grpc() {
            self.grpc = grpc_status(headers);
        }
        let failed = status.is_client_error() || status.is_server_error() || self.has_grpc_error();
        if failed && self.error.is_none() {
            // Only a proxy's answer still has it: the one at the other end names the cause.
            let error_type = headers.get(ERROR_TYPE).map(HeaderValue::as_bytes);
            let error_type = error_type.map_or(ErrorType::Other, ErrorType::from_name);
            self.error = headers.get(ERROR).map(|words| {
                let words = String::from_utf8_lossy(words.as_bytes());
                ExchangeError::new(error_type, words.into_owned())
            });
        }
    }

    fn has_grpc_error(&self) -> bool {
        self.grpc.is_some_and(|status| status != Code::Ok)
    }

    pub fn bytes_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc() {
            self.grpc = grpc_status(trailers).or(self.grpc);
        }
    }

    pub fn aborted(&mut self, error: &BodyError) {
        let words = format!("the answer broke off: {error}");
        self.error = Some(ExchangeError::new(body_error_type(error), words));
    }

    /// Ends the exchange. `whole`: the response was sent to its end.
    pub fn finish(mut self, whole: bool) {
        if !whole && self.error.is_none() {
            let words = "the client did not take the whole answer";
            self.error = Some(ExchangeError::new(ErrorType::ClientDisconnected, words));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let runtime = &self.downstream.runtime;
        runtime.overload.request_ended();
        let active = runtime.metrics.active_requests(self.downstream.direction);
        active.dec();
        let now = Instant::now();
        if let Some(client) = &self.downstream.client {
            client.request_ended(now);
        }
        let duration = now.saturating_duration_since(self.started);
        let status = self.status.unwrap_or_else(|| {
            let words = "the client went away before the answer";
            self.error = Some(ExchangeError::new(ErrorType::ClientDisconnected, words));
            StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST)
        });
        let outcome = RequestOutcome {
            protocol: self.protocol,
            code: status,
            grpc_status: self.grpc,
            error_type: self.error.as_ref().map(|error| error.error_type),
        };
        self.metrics.record(outcome, duration);
        let access = &self.downstream.runtime.access;
        if access.wants(status, self.grpc, self.error.is_some()) {
            self.log(status, duration);
        }
    }
}

impl Exchange {
    fn log(&self, status: StatusCode, duration: Duration) {
        let Some(logged) = &self.logged else { return };
        let authority = match &logged.host {
            Some(host) => host.to_str().ok(),
            None => logged.uri.authority().map(Authority::as_str),
        };
        let verdict = self.permit.as_ref().and_then(Permit::verdict);
        let own = &*self.downstream.runtime.identity;
        let expected = || self.endpoint.as_ref()?.identity.as_deref();
        self.downstream.runtime.access.write(&Record {
            client: Some(self.downstream.address),
            client_id: self.downstream.identity.as_deref(),
            server_id: match self.downstream.direction {
                Direction::Inbound => Some(own),
                Direction::Outbound | Direction::Gateway => expected(),
            },
            listener: logged.listener.as_deref(),
            method: logged.method.as_str(),
            authority,
            path: logged.uri.path(),
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.address),
            authorization: verdict.map(|verdict| verdict.decision),
            authorization_policy: verdict.and_then(Verdict::policy),
            grpc_status: self.grpc,
            error_type: self.error.as_ref().map(|error| error.error_type),
            error: self.error.as_ref().map(|error| &*error.words),
            duration,
            bytes_in: self
                .replay_buffer
                .as_ref()
                .map_or(0, ReplayBuffer::bytes_read),
            bytes_out: self.sent,
            ..Record::of(&self.metrics, self.protocol, status)
        });
    }
}
