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
use super::lease::{Busy, Lease, On};
use super::{Cluster, Peer, Shared, http1};
use crate::http::bodies::{Body, Request, Spare};
use crate::http::errors::{Failure, REFUSED, of_http2};
use crate::http::headers;
use crate::overload::Replay;

/// Endpoints tried for one request.
const MAX_TRIES: usize = 3;

/// A request on its way out.
pub struct Ask {
    pub head: http::request::Parts,
    pub body: Body,
    pub spare: Spare,
    /// The client asks to change the protocol of its connection.
    pub upgrade: bool,
    /// Names the host where the client did not.
    pub address: SocketAddr,
    /// Endpoints left out where there are others.
    pub avoid: Vec<SocketAddr>,
    /// Whose request it is, where clients may have endpoints of their own.
    pub client: Option<IpAddr>,
}

impl Ask {
    pub fn new(
        head: http::request::Parts,
        body: Incoming,
        upgrade: bool,
        address: SocketAddr,
        replay: &Arc<Replay>,
    ) -> Self {
        let (body, spare) = Body::keeping(body, replay);
        Self {
            head,
            body,
            spare,
            upgrade,
            address,
            avoid: Vec::new(),
            client: None,
        }
    }
}

/// An answer, and what is held until it has been read.
pub struct Outcome {
    pub response: http::Response<Incoming>,
    pub lease: Lease,
}

/// How one try ended without an answer.
enum Miss {
    /// There is no connection.
    Connect(ConnectError),
    /// The application did not see it; whether it may be sent again to the same endpoint.
    Unsent,
    /// It may have been seen. `reused`: the connection had served other requests before.
    Lost { error: hyper::Error, reused: bool },
    /// The request cannot be put as the endpoint's protocol needs it.
    Failed(Failure),
}

impl Cluster {
    /// Sends to the best endpoint; to the next where the request did not arrive, within the budget for that. `seen` is told
    /// each endpoint tried.
    pub async fn send(
        &self,
        mut ask: Ask,
        mut seen: impl FnMut(&Arc<Peer>),
    ) -> Result<Outcome, Failure> {
        // What its rule has sent again leaves out who had it.
        if ask.avoid.is_empty() {
            self.budget.request();
        }
        let declared = matches!(self.members().protocol, Protocol::Http2 | Protocol::Grpc);
        let http2 = declared || ask.head.version == Version::HTTP_2;
        if declared && ask.upgrade {
            // HTTP/2 has no such change of protocol (RFC 9113, 8.6).
            headers::drop_upgrade(&mut ask.head.headers);
            ask.upgrade = false;
        }
        let mut tried = ask.avoid;
        if !tried.is_empty() && self.pick(&tried, ask.client).is_none() {
            tried.clear();
        }
        let most = tried.len() + MAX_TRIES;
        let mut stale = 0;
        let mut last = None;
        let mut again = false;
        let mut body = Some(ask.body);
        while let Some(peer) = self.pick(&tried, ask.client) {
            if again && !self.may_repeat() {
                break;
            }
            if peer.load.busy() >= self.shared.endpoint_requests {
                self.shared.metrics.shed("endpoint");
                tried.push(peer.address);
                last = Some(Failure::Overloaded(
                    "too many requests are under way to the endpoint",
                ));
                if tried.len() >= most {
                    break;
                }
                continue;
            }
            seen(&peer);
            let Some(now) = body.take().or_else(|| ask.spare.again()) else {
                return Err(last.unwrap_or_else(|| broken(&peer, "the connection closed")));
            };
            let request = copy(&ask.head, now);
            // Over TLS the application says what it speaks.
            let http2 = if peer.tls.is_some() { declared } else { http2 };
            let begun = Instant::now();
            match send_to(
                &self.shared,
                &peer,
                request,
                http2,
                ask.upgrade,
                ask.address,
            )
            .await
            {
                Ok(outcome) if refused(&peer, &outcome) => {
                    again = true;
                    peer.avoid(self.shared.now());
                    tried.push(peer.address);
                    last = Some(Failure::Refused(self.name.clone()));
                    if tried.len() >= most {
                        break;
                    }
                }
                Ok(outcome) => {
                    peer.load.observe(begun.elapsed(), self.shared.now());
                    peer.reached();
                    return Ok(outcome);
                }
                Err(Miss::Connect(error)) => {
                    again = true;
                    peer.avoid(self.shared.now());
                    tried.push(peer.address);
                    last = Some(Failure::Unreachable {
                        cluster: self.name.clone(),
                        last: error,
                    });
                    if tried.len() >= most {
                        break;
                    }
                }
                Err(Miss::Failed(failure)) => return Err(failure),
                Err(Miss::Unsent) if stale < MAX_TRIES => stale += 1,
                Err(Miss::Unsent) => return Err(broken(&peer, "the connection closed")),
                Err(Miss::Lost { .. }) if ask.spare.is_idle() => return Err(Failure::BodyIdle),
                Err(Miss::Lost { error, reused }) => {
                    let turned_away = never_processed(&error);
                    let vanished = timed_out(&error);
                    // Elsewhere, where there are others.
                    if vanished {
                        self.shared.avoid_pod(&peer);
                    } else if turned_away {
                        // It is busy, or about to end.
                        peer.avoid(self.shared.now());
                    }
                    let lost = vanished || (reused && cut_off(&error));
                    again = turned_away || (lost && idempotent(&ask.head.method));
                    if !again || stale >= MAX_TRIES {
                        return Err(broken(&peer, &describe(&error)));
                    }
                    stale += 1;
                    last = Some(broken(&peer, &describe(&error)));
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::NoEndpoints(self.name.clone())))
    }
}

/// One request to one endpoint, in the version that its application gets.
async fn send_to(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    request: Request,
    http2: bool,
    upgrade: bool,
    address: SocketAddr,
) -> Result<Outcome, Miss> {
    let meshed = peer.identity.is_some();
    let busy = Busy::new(peer.clone());
    if peer.tls.is_some() {
        // In a box: requests of the mesh carry no room for it.
        return Box::pin(send_over_tls(
            shared, busy, request, http2, upgrade, address,
        ))
        .await;
    }
    let (mut head, body) = request.into_parts();
    if upgrade || !(meshed || http2) {
        headers::for_http1(&mut head, address).map_err(Miss::Failed)?;
        return send_http1(shared, busy, Request::from_parts(head, body), upgrade).await;
    }
    headers::for_http2(&mut head, address).map_err(Miss::Failed)?;
    let alpn = if http2 { alpn::H2 } else { alpn::H2_FOR_H1 };
    send_http2(shared, busy, Request::from_parts(head, body), alpn).await
}

async fn send_http2(
    shared: &Arc<Shared>,
    busy: Busy,
    request: Request,
    alpn: &'static [u8],
) -> Result<Outcome, Miss> {
    let (stream, reused) = busy
        .peer()
        .stream(shared, alpn)
        .await
        .map_err(Miss::Connect)?;
    let Some(sent) = stream.send(request) else {
        return Err(Miss::Unsent);
    };
    match sent.await {
        Ok(response) => {
            let lease = Lease::new(busy, On::Http2 { _stream: stream });
            Ok(Outcome { response, lease })
        }
        Err(error) => {
            if is_refused(error.error()) {
                stream.refused();
            }
            Err(missed(error, reused))
        }
    }
}

/// One request to an application that speaks TLS itself: in HTTP/2 where its port is declared so, else as it chooses.
async fn send_over_tls(
    shared: &Arc<Shared>,
    busy: Busy,
    request: Request,
    declared: bool,
    upgrade: bool,
    address: SocketAddr,
) -> Result<Outcome, Miss> {
    let http2 = !upgrade
        && (declared
            || busy
                .peer()
                .chooses_http2(shared)
                .await
                .map_err(Miss::Connect)?);
    let (mut head, body) = request.into_parts();
    if !http2 {
        headers::for_http1(&mut head, address).map_err(Miss::Failed)?;
        return send_http1(shared, busy, Request::from_parts(head, body), upgrade).await;
    }
    headers::for_http2(&mut head, address).map_err(Miss::Failed)?;
    headers::over_tls(&mut head);
    send_http2(shared, busy, Request::from_parts(head, body), alpn::H2).await
}

async fn send_http1(
    shared: &Shared,
    busy: Busy,
    request: Request,
    upgrade: bool,
) -> Result<Outcome, Miss> {
    let peer = busy.peer();
    let (request, mut held) = placed(request, peer, upgrade);
    if held.is_none() {
        // In a box: the state of a handshake is large, and every request would carry room for it.
        let opened = Box::pin(http1::open(shared, peer, alpn::H1)).await;
        held = Some(opened.map_err(Miss::Connect)?);
    }
    let Some(connection) = &mut held else {
        return Err(Miss::Unsent);
    };
    match connection.send(request).await {
        Ok(response) => {
            let on = match upgrade {
                true => On::Alone { _connection: held },
                false => On::Http1(held),
            };
            let lease = Lease::new(busy, on);
            Ok(Outcome { response, lease })
        }
        Err(None) => Err(Miss::Unsent),
        Err(Some(error)) => Err(missed(error, connection.is_reused())),
    }
}

/// With the framing of HTTP/1.1 where nothing says how long the body is; and the connection that it may go on, if one waits.
/// By value: what is borrowed in a future stays in it.
fn placed(
    mut request: Request,
    peer: &Peer,
    upgrade: bool,
) -> (Request, Option<http1::Connection>) {
    if request.body().is_of_unknown_length() {
        headers::in_chunks(request.headers_mut());
    }
    let idempotent = idempotent(request.method());
    let once = !idempotent || !request.body().is_repeatable();
    let waiting = (!upgrade).then(|| peer.http1.take(once)).flatten();
    if waiting.is_none() && !idempotent {
        // Once it has begun on a new connection it may have been processed.
        request.body().send_once();
    }
    (request, waiting)
}

fn missed(mut error: TrySendError<Request>, reused: bool) -> Miss {
    if error.take_message().is_some() {
        return Miss::Unsent;
    }
    match error.into_error() {
        error if is_stale(&error) => Miss::Unsent,
        error => Miss::Lost { error, reused },
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
fn copy(head: &http::request::Parts, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    request.headers_mut().clone_from(&head.headers);
    request
}

/// The proxy at the other end says that its application did not get the request.
fn refused(peer: &Peer, outcome: &Outcome) -> bool {
    peer.is_proxy() && outcome.response.headers().contains_key(REFUSED)
}

/// The HTTP/2 peer says so: REFUSED_STREAM, or a stream beyond the last one of its GOAWAY (RFC 9113, 8.7).
fn never_processed(error: &hyper::Error) -> bool {
    let told_to_go = |error: &h2::Error| {
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
    };
    is_refused(error) || of_http2(error).is_some_and(told_to_go)
}

fn is_refused(error: &hyper::Error) -> bool {
    of_http2(error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// The peer has not acknowledged, or not answered a ping, for too long.
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

fn broken(peer: &Peer, cause: &str) -> Failure {
    Failure::Broken {
        endpoint: peer.address,
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
