//! Sends a request to an endpoint of a cluster, and to another one if it certainly did not reach
//! the application.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http::header::SET_COOKIE;
use http::{HeaderMap, Version};
use weft_ir::{ConnectTimeout, Protocol};

use super::attempt::{AttemptError, Framing, Observed, is_idempotent, send_to};
use super::balance::RequestKey;
use super::lease::Lease;
use super::observer::SendObserver;
use super::outliers::{Outcome, TrackedEndpoint};
use super::{Cluster, Endpoint, SendError, target};
use crate::body::{ClientBody, Incoming, ReplayBuffer, ReplayMemory, Request, RequestBody};
use crate::limits::Limiter;
use crate::telemetry::error_type::ErrorType;
use crate::wire::{ERROR_TYPE, REFUSED};

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
    /// The client as far as it is known, for session affinity and for keys.
    pub client: Option<IpAddr>,
    /// A copy of another request, which may wait for it: it takes no place of its client's limit.
    pub mirrored: bool,
}

impl UpstreamRequest {
    pub fn new(
        head: http::request::Parts,
        body: Incoming,
        upgrade: bool,
        address: SocketAddr,
        replay: &Arc<ReplayMemory>,
    ) -> Self {
        Self::with_body(head, ClientBody::new(body, replay), upgrade, address)
    }

    /// As [`UpstreamRequest::new`], with a body that may have been looked at.
    pub fn with_body(
        head: http::request::Parts,
        body: ClientBody,
        upgrade: bool,
        address: SocketAddr,
    ) -> Self {
        let ClientBody {
            body,
            replay_buffer,
        } = body;
        Self {
            head,
            body,
            replay_buffer,
            upgrade,
            address,
            exclude: Vec::new(),
            client: None,
            mirrored: false,
        }
    }
}

/// A response, and the lease of the connection that its body is read from.
pub struct UpstreamResponse {
    pub response: http::Response<Incoming>,
    pub lease: Lease,
}

/// What sending a request goes by, read once.
struct Preparation {
    /// Whether the endpoints are declared to speak HTTP/2.
    declared: bool,
    /// What the request is balanced by.
    key: RequestKey,
    /// If requests are limited.
    limiter: Option<Arc<Limiter>>,
    /// How long the request waits for a connection.
    connect: Option<ConnectTimeout>,
}

impl Cluster {
    /// Sends to the best endpoint, and to the next one if the request did not arrive, within the
    /// retry budget. Tells `observer` of each endpoint that is tried, and of its informational
    /// responses; once one of these was passed on there is no other attempt.
    pub async fn send(
        &self,
        mut request: UpstreamRequest,
        observer: &mut dyn SendObserver,
    ) -> Result<UpstreamResponse, SendError> {
        // A retry of the request's rule excludes the endpoints that had it.
        if request.exclude.is_empty() {
            self.retries.request();
        }
        let Preparation {
            declared,
            key,
            limiter,
            connect,
        } = self.prepare(&request);
        let admission = match limiter {
            // Boxed, so that the futures of requests without a limit stay small.
            Some(limiter) => Some(Box::pin(self.admit_request(limiter)).await?),
            None => None,
        };
        let http2 = declared || request.head.version == Version::HTTP_2;
        if declared && request.upgrade {
            // HTTP/2 has no upgrade (RFC 9113, 8.6).
            target::drop_upgrade(&mut request.head.headers);
            request.upgrade = false;
        }
        let mut tried = request.exclude;
        if !tried.is_empty() && self.members().are_all(&tried) {
            tried.clear();
        }
        let most = tried.len() + MAX_ATTEMPTS;
        let mut stale = 0;
        let mut last = None;
        let mut again = false;
        let mut body = Some(request.body);
        let mut observed = Observed {
            observer,
            committed: false,
        };
        while let Some((endpoint, tracked)) = self.pick_tracked(&tried, request.client, key.key) {
            if again && let Err(exhausted) = self.spend_retry() {
                last = exhausted.instead.or(last);
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
            observed.observer.endpoint(&endpoint);
            let Some(now) = body.take().or_else(|| request.replay_buffer.replay()) else {
                return Err(last.unwrap_or_else(|| broken(&endpoint, "the connection closed")));
            };
            let attempt = copy(&request.head, now);
            // Over TLS the application negotiates its version of HTTP.
            let framing = Framing {
                http2: if endpoint.tls.is_some() {
                    declared
                } else {
                    http2
                },
                upgrade: request.upgrade,
                address: request.address,
                connect,
            };
            let begun = Instant::now();
            match send_to(&self.registry, &endpoint, attempt, framing, &mut observed).await {
                Ok(response) if !observed.committed && refused(&endpoint, &response) => {
                    again = true;
                    tried.push(endpoint.address);
                    last = Some(if is_limited(&response) {
                        endpoint.pass_over(self.registry.now());
                        SendError::ServersLimited(self.name.clone())
                    } else {
                        failed(tracked.as_ref());
                        endpoint.eject(self.registry.now());
                        SendError::Refused(self.name.clone())
                    });
                    if tried.len() >= most {
                        break;
                    }
                }
                Ok(mut response) => {
                    endpoint.load.observe(begun.elapsed(), self.registry.now());
                    endpoint.mark_reachable();
                    response.lease.keep(admission);
                    if let Some(field) = key.set_cookie {
                        let headers = response.response.headers_mut();
                        headers.append(SET_COOKIE, *field);
                    }
                    if let Some(tracked) = tracked {
                        response.track(tracked, &request.head.headers);
                    }
                    return Ok(response);
                }
                Err(AttemptError::Connect(error)) => {
                    failed(tracked.as_ref());
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
                    let turned_away = error.is_unprocessed();
                    let vanished = error.is_timeout();
                    // The next pick goes elsewhere if there are others.
                    if vanished {
                        self.registry.eject_pod(&endpoint);
                    } else if turned_away {
                        // It is busy, or about to end.
                        endpoint.eject(self.registry.now());
                    }
                    let stale_connection = reused && error.is_cut_off();
                    if !stale_connection {
                        failed(tracked.as_ref());
                    }
                    let lost = vanished || stale_connection;
                    again = turned_away || (lost && is_idempotent(&request.head.method));
                    let failure = broken(&endpoint, &error.to_string());
                    if !again || observed.committed || stale >= MAX_ATTEMPTS {
                        return Err(failure);
                    }
                    stale += 1;
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| SendError::NoEndpoints(self.name.clone())))
    }
}

impl Cluster {
    fn prepare(&self, request: &UpstreamRequest) -> Preparation {
        let members = self.members();
        let limiter = members.limiters.requests.as_ref();
        Preparation {
            declared: matches!(members.protocol, Protocol::Http2 | Protocol::Grpc),
            key: members.key_of_request(&request.head, request.client),
            limiter: limiter.filter(|_| !request.mirrored).cloned(),
            connect: members.connect_timeout,
        }
    }
}

impl UpstreamResponse {
    /// The response is of a cluster with outlier detection, to a request with these headers.
    fn track(&mut self, endpoint: TrackedEndpoint, request: &HeaderMap) {
        let has_trailers = endpoint.record_response(request, &self.response);
        self.lease.track(endpoint, has_trailers);
    }
}

/// Records that there was no response.
fn failed(endpoint: Option<&TrackedEndpoint>) {
    if let Some(endpoint) = endpoint {
        endpoint.record(Outcome::GatewayError);
    }
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

/// Returns true if that is because of the limit of its requests.
fn is_limited(upstream: &UpstreamResponse) -> bool {
    let error_type = upstream.response.headers().get(ERROR_TYPE);
    error_type.is_some_and(|of| of == ErrorType::ServerRequestLimit.as_str())
}

fn broken(endpoint: &Endpoint, cause: &str) -> SendError {
    SendError::Broken {
        endpoint: endpoint.address,
        cause: cause.to_owned(),
    }
}
