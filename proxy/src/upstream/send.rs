//! Sends a request to an endpoint of a cluster, and to another one when it surely did not reach the application.

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
use crate::wire::{REFUSED, http2_cause};

/// Endpoints tried for one request.
const MAX_ATTEMPTS: usize = 3;

/// A request on its way out.
pub struct UpstreamRequest {
    pub head: http::request::Parts,
    pub body: RequestBody,
    pub replay_buffer: ReplayBuffer,
    /// The client asks to change the protocol of its connection.
    pub upgrade: bool,
    /// Names the host where the client did not.
    pub address: SocketAddr,
    /// Endpoints left out where there are others.
    pub exclude: Vec<SocketAddr>,
    /// Whose request it is, where clients may have endpoints of their own.
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

/// An answer, and what is held until it has been read.
pub struct UpstreamResponse {
    pub response: http::Response<Incoming>,
    pub lease: Lease,
}

/// How one try ended without an answer.
enum AttemptError {
    /// There is no connection.
    Connect(ConnectError),
    /// The application did not see it; whether it may be sent again to the same endpoint.
    NotSent,
    /// It may have been seen. `reused`: the connection had served other requests before.
    Broken { error: hyper::Error, reused: bool },
    /// The request cannot be put as the endpoint's protocol needs it.
    Unsendable(SendError),
}

impl Cluster {
    /// Sends to the best endpoint; to the next where the request did not arrive, within the budget for that. `seen` is told
    /// each endpoint tried.
    pub async fn send(
        &self,
        mut request: UpstreamRequest,
        mut seen: impl FnMut(&Arc<Endpoint>),
    ) -> Result<UpstreamResponse, SendError> {
        // What its rule has sent again leaves out who had it.
        if request.exclude.is_empty() {
            self.budget.request();
        }
        let declared = matches!(self.members().protocol, Protocol::Http2 | Protocol::Grpc);
        let http2 = declared || request.head.version == Version::HTTP_2;
        if declared && request.upgrade {
            // HTTP/2 has no such change of protocol (RFC 9113, 8.6).
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
                self.registry.metrics.shed("endpoint");
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
            // Over TLS the application says what it speaks.
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
                    // Elsewhere, where there are others.
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

/// One request to one endpoint, in the version that its application gets.
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
        // In a box: requests of the mesh carry no room for it.
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

/// One request to an application that speaks TLS itself: in HTTP/2 where its port is declared so, else as it chooses.
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
        // In a box: the state of a handshake is large, and every request would carry room for it.
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

/// With the framing of HTTP/1.1 where nothing says how long the body is; and the connection that it may go on, if one waits.
/// By value: what is borrowed in a future stays in it.
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
        // Once it has begun on a new connection it may have been processed.
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

/// The proxy at the other end says that its application did not get the request.
fn refused(endpoint: &Endpoint, upstream: &UpstreamResponse) -> bool {
    endpoint.is_proxy() && upstream.response.headers().contains_key(REFUSED)
}

/// The HTTP/2 endpoint says so: REFUSED_STREAM, or a stream beyond the last one of its GOAWAY (RFC 9113, 8.7).
fn never_processed(error: &hyper::Error) -> bool {
    let told_to_go = |error: &h2::Error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    is_refused(error) || http2_cause(error).is_some_and(told_to_go)
}

fn is_refused(error: &hyper::Error) -> bool {
    http2_cause(error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// The endpoint has not acknowledged, or not answered a ping, for too long.
fn timed_out(error: &hyper::Error) -> bool {
    let unreachable = [
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
    ];
    error.is_timeout() || io_error(error).is_some_and(|cause| unreachable.contains(&cause.kind()))
}

/// The connection ended before any byte of the response.
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
    // rustls ends some of its words with the address of a page.
    let cause = cause.split(": https://").next().unwrap_or_default();
    format!("{error}: {cause}")
}
