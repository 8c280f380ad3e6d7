//! Sends a request to an endpoint of a cluster, and to another one if it certainly did not reach
//! the application.

use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::{Method, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use weft_api::alpn;
use weft_ir::Protocol;

use super::connect::ConnectError;
use super::lease::{ActiveRequest, Lease, LeasedConnection};
use super::{Cluster, Endpoint, EndpointRegistry, SendError, http1, target};
use crate::body::{ReplayBuffer, ReplayMemory, Request, RequestBody};
use crate::telemetry::error_type::ErrorType;
use crate::wire::{REFUSED, http2_cause};

/// Endpoints tried for one request.
const MAX_ATTEMPTS: usize = 3;

/// A request to be sent to an endpoint of a cluster.
pub struct UpstreamRequest {
    pub head: http::request::Parts,
    pub body: RequestBody,
    pub replay_buffer: ReplayBuffer,
    /// Whether the client asks for an upgrade of its connection.
    pub upgrade: bool,
    /// The host, if the client named none.
    pub address: SocketAddr,
    /// Endpoints to avoid if there are others.
    pub exclude: Vec<SocketAddr>,
    /// The client, for session affinity.
    pub client: Option<IpAddr>,
}

impl UpstreamRequest {
    pub fn new(
        head: http::request::Parts,
        body: Incoming,
        upgrade: bool,
        address: SocketAddr,
        replay: &Arc<ReplayMemory>,
    ) -> Self {
        let (body, replay_buffer) = RequestBody::replayable(body, replay);
        Self {
            head,
            body,
            replay_buffer,
            upgrade,
            address,
            exclude: Vec::new(),
            client: None,
        }
    }
}

/// A response, and the lease of the connection that its body is read from.
pub struct UpstreamResponse {
    pub response: http::Response<Incoming>,
    pub lease: Lease,
}

/// Why one attempt got no response.
enum AttemptError {
    /// No connection could be opened.
    Connect(ConnectError),
    /// The application did not see the request: it may be sent again to the same endpoint.
    NotSent,
    /// The application may have seen the request. `reused`: the connection had served others
    /// before.
    Broken { error: hyper::Error, reused: bool },
    /// The request cannot be written in the endpoint's protocol.
    Unsendable(SendError),
}

impl Cluster {
    /// Sends to the best endpoint, and to the next one if the request did not arrive, within the
    /// retry budget. Calls `seen` with each endpoint that is tried.
    pub async fn send(
        &self,
        mut request: UpstreamRequest,
        mut seen: impl FnMut(&Arc<Endpoint>),
    ) -> Result<UpstreamResponse, SendError> {
        // A retry of the request's rule excludes the endpoints that had it.
        if request.exclude.is_empty() {
            self.budget.request();
        }
        let declared = matches!(self.members().protocol, Protocol::Http2 | Protocol::Grpc);
        let http2 = declared || request.head.version == Version::HTTP_2;
        if declared && request.upgrade {
            // HTTP/2 has no upgrade (RFC 9113, 8.6).
            target::drop_upgrade(&mut request.head.headers);
            request.upgrade = false;
        }
        let mut tried = request.exclude;
        if !tried.is_empty() && self.pick(&tried, request.client).is_none() {
            tried.clear();
        }
        let most = tried.len() + MAX_ATTEMPTS;
        let mut stale = 0;
        let mut last = None;
        let mut again = false;
        let mut body = Some(request.body);
        while let Some(endpoint) = self.pick(&tried, request.client) {
            if again && !self.try_spend_retry() {
                break;
            }
            if endpoint.load.active() >= self.registry.endpoint_requests {
                self.registry.metrics.shed(ErrorType::EndpointRequestLimit);
                tried.push(endpoint.address);
                last = Some(SendError::Overloaded);
                if tried.len() >= most {
                    break;
                }
                continue;
            }
            seen(&endpoint);
            let Some(now) = body.take().or_else(|| request.replay_buffer.replay()) else {
                return Err(last.unwrap_or_else(|| broken(&endpoint, "the connection closed")));
            };
            let attempt = copy(&request.head, now);
            // Over TLS the application negotiates its version of HTTP.
            let http2 = if endpoint.tls.is_some() {
                declared
            } else {
                http2
            };
            let begun = Instant::now();
            match send_to(
                &self.registry,
                &endpoint,
                attempt,
                http2,
                request.upgrade,
                request.address,
            )
            .await
            {
                Ok(response) if refused(&endpoint, &response) => {
                    again = true;
                    endpoint.eject(self.registry.now());
                    tried.push(endpoint.address);
                    last = Some(SendError::Refused(self.name.clone()));
                    if tried.len() >= most {
                        break;
                    }
                }
                Ok(response) => {
                    endpoint.load.observe(begun.elapsed(), self.registry.now());
                    endpoint.mark_reachable();
                    return Ok(response);
                }
                Err(AttemptError::Connect(error)) => {
                    again = true;
                    endpoint.eject(self.registry.now());
                    tried.push(endpoint.address);
                    last = Some(SendError::Unreachable {
                        cluster: self.name.clone(),
                        last: error,
                    });
                    if tried.len() >= most {
                        break;
                    }
                }
                Err(AttemptError::Unsendable(error)) => return Err(error),
                Err(AttemptError::NotSent) if stale < MAX_ATTEMPTS => stale += 1,
                Err(AttemptError::NotSent) => {
                    return Err(broken(&endpoint, "the connection closed"));
                }
                Err(AttemptError::Broken { .. }) if request.replay_buffer.is_idle_timed_out() => {
                    return Err(SendError::BodyIdle);
                }
                Err(AttemptError::Broken { error, reused }) => {
                    let turned_away = never_processed(&error);
                    let vanished = timed_out(&error);
                    // The next pick goes elsewhere if there are others.
                    if vanished {
                        self.registry.eject_pod(&endpoint);
                    } else if turned_away {
                        // It is busy, or about to end.
                        endpoint.eject(self.registry.now());
                    }
                    let lost = vanished || (reused && cut_off(&error));
                    again = turned_away || (lost && idempotent(&request.head.method));
                    if !again || stale >= MAX_ATTEMPTS {
                        return Err(broken(&endpoint, &describe(&error)));
                    }
                    stale += 1;
                    last = Some(broken(&endpoint, &describe(&error)));
                }
            }
        }
        Err(last.unwrap_or_else(|| SendError::NoEndpoints(self.name.clone())))
    }
}

/// Sends a request to an endpoint, in the version of HTTP that its application gets.
async fn send_to(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    request: Request,
    http2: bool,
    upgrade: bool,
    address: SocketAddr,
) -> Result<UpstreamResponse, AttemptError> {
    let meshed = endpoint.identity.is_some();
    let active = ActiveRequest::new(endpoint.clone());
    if endpoint.tls.is_some() {
        // Boxed, so that it does not grow the futures of the mesh's requests.
        return Box::pin(send_over_tls(
            registry, active, request, http2, upgrade, address,
        ))
        .await;
    }
    let (mut head, body) = request.into_parts();
    if upgrade || !(meshed || http2) {
        target::for_http1(&mut head, address).map_err(AttemptError::Unsendable)?;
        return send_http1(registry, active, Request::from_parts(head, body), upgrade).await;
    }
    target::for_http2(&mut head, address).map_err(AttemptError::Unsendable)?;
    let alpn = if http2 { alpn::H2 } else { alpn::H2_FOR_H1 };
    send_http2(registry, active, Request::from_parts(head, body), alpn).await
}

async fn send_http2(
    registry: &Arc<EndpointRegistry>,
    active: ActiveRequest,
    request: Request,
    alpn: &'static [u8],
) -> Result<UpstreamResponse, AttemptError> {
    let (stream, reused) = active
        .endpoint()
        .reserve_stream(registry, alpn)
        .await
        .map_err(AttemptError::Connect)?;
    let Some(sent) = stream.send(request) else {
        return Err(AttemptError::NotSent);
    };
    match sent.await {
        Ok(response) => {
            let lease = Lease::new(active, LeasedConnection::Http2 { _stream: stream });
            Ok(UpstreamResponse { response, lease })
        }
        Err(error) => {
            if is_refused(error.error()) {
                stream.limit_streams();
            }
            Err(attempt_error(error, reused))
        }
    }
}

/// Sends a request to an application that speaks TLS itself: in HTTP/2 if its port is declared so,
/// else as it negotiates.
async fn send_over_tls(
    registry: &Arc<EndpointRegistry>,
    active: ActiveRequest,
    request: Request,
    declared: bool,
    upgrade: bool,
    address: SocketAddr,
) -> Result<UpstreamResponse, AttemptError> {
    let http2 = !upgrade
        && (declared
            || active
                .endpoint()
                .negotiates_http2(registry)
                .await
                .map_err(AttemptError::Connect)?);
    let (mut head, body) = request.into_parts();
    if !http2 {
        target::for_http1(&mut head, address).map_err(AttemptError::Unsendable)?;
        return send_http1(registry, active, Request::from_parts(head, body), upgrade).await;
    }
    target::for_http2(&mut head, address).map_err(AttemptError::Unsendable)?;
    target::over_tls(&mut head);
    send_http2(registry, active, Request::from_parts(head, body), alpn::H2).await
}

async fn send_http1(
    registry: &EndpointRegistry,
    active: ActiveRequest,
    request: Request,
    upgrade: bool,
) -> Result<UpstreamResponse, AttemptError> {
    let endpoint = active.endpoint();
    let (request, mut held) = placed(request, endpoint, upgrade);
    if held.is_none() {
        // Boxed, so that the handshake's state does not grow every request's future.
        let opened = Box::pin(http1::connect(registry, endpoint, alpn::H1)).await;
        held = Some(opened.map_err(AttemptError::Connect)?);
    }
    let Some(connection) = &mut held else {
        return Err(AttemptError::NotSent);
    };
    match connection.send(request).await {
        Ok(response) => {
            let connection = match upgrade {
                true => LeasedConnection::Exclusive { _connection: held },
                false => LeasedConnection::Http1(held),
            };
            let lease = Lease::new(active, connection);
            Ok(UpstreamResponse { response, lease })
        }
        Err(None) => Err(AttemptError::NotSent),
        Err(Some(error)) => Err(attempt_error(error, connection.is_reused())),
    }
}

/// Frames a body of unknown length for HTTP/1.1, and takes an idle connection if there is one. By
/// value: what is borrowed in a future stays in it.
fn placed(
    mut request: Request,
    endpoint: &Endpoint,
    upgrade: bool,
) -> (Request, Option<http1::Connection>) {
    if request.body().has_unknown_length() {
        target::in_chunks(request.headers_mut());
    }
    let idempotent = idempotent(request.method());
    let once = !idempotent || !request.body().fits_replay_buffer();
    let waiting = (!upgrade).then(|| endpoint.http1.take(once)).flatten();
    if waiting.is_none() && !idempotent {
        // Once begun on a new connection the request may have been processed.
        request.body().send_once();
    }
    (request, waiting)
}

fn attempt_error(mut error: TrySendError<Request>, reused: bool) -> AttemptError {
    if error.take_message().is_some() {
        return AttemptError::NotSent;
    }
    match error.into_error() {
        error if is_stale(&error) => AttemptError::NotSent,
        error => AttemptError::Broken { error, reused },
    }
}

/// The connection had ended before anything was written.
fn is_stale(error: &hyper::Error) -> bool {
    let cause = io_error(error).and_then(std::io::Error::get_ref);
    cause.is_some_and(|cause| cause.is::<http1::Stale>())
}

fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    error.source()?.downcast_ref()
}

/// The request without its extensions, which belong to the client's connection.
fn copy(head: &http::request::Parts, body: RequestBody) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    request.headers_mut().clone_from(&head.headers);
    request
}

/// Returns true if the proxy at the other end says that its application did not get the request.
fn refused(endpoint: &Endpoint, upstream: &UpstreamResponse) -> bool {
    endpoint.is_proxy() && upstream.response.headers().contains_key(REFUSED)
}

/// Returns true if the HTTP/2 peer says that it did not process the request: REFUSED_STREAM, or a
/// stream beyond the last one of its GOAWAY (RFC 9113, 8.7).
fn never_processed(error: &hyper::Error) -> bool {
    let told_to_go = |error: &h2::Error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    is_refused(error) || http2_cause(error).is_some_and(told_to_go)
}

fn is_refused(error: &hyper::Error) -> bool {
    http2_cause(error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Returns true if the endpoint acknowledged nothing, or answered no ping, for too long.
fn timed_out(error: &hyper::Error) -> bool {
    let unreachable = [
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
    ];
    error.is_timeout() || io_error(error).is_some_and(|cause| unreachable.contains(&cause.kind()))
}

/// Returns true if the connection ended before any byte of the response.
fn cut_off(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_canceled()
        || error.is_closed()
        || io_error(error).is_some()
}

/// RFC 9110, 9.2.2.
fn idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

fn broken(endpoint: &Endpoint, cause: &str) -> SendError {
    SendError::Broken {
        endpoint: endpoint.address,
        cause: cause.to_owned(),
    }
}

fn describe(error: &hyper::Error) -> String {
    let Some(cause) = error.source() else {
        return error.to_string();
    };
    let cause = cause.to_string();
    // rustls ends some of its messages with the address of a page.
    let cause = cause.split(": https://").next().unwrap_or_default();
    format!("{error}: {cause}")
}
