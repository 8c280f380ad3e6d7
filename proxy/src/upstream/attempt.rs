//! One attempt of a request: to one endpoint, in the version of HTTP that its application gets.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use weft_api::alpn;
use weft_ir::ConnectTimeout;

use super::broken::Broken;
use super::connect::ConnectError;
use super::http2::SendFailure;
use super::lease::{ActiveRequest, Lease, LeasedConnection};
use super::observer::{Informational, SendObserver};
use super::{Endpoint, EndpointRegistry, SendError, UpstreamResponse, http1, target};
use crate::body::Request;

/// Why one attempt got no response.
pub(super) enum AttemptError {
    /// No connection could be opened.
    Connect(ConnectError),
    /// The application did not see the request: it may be sent again to the same endpoint.
    NotSent,
    /// The application may have seen the request. `reused`: the connection had served others
    /// before.
    Broken { error: Broken, reused: bool },
    /// The request cannot be written in the endpoint's protocol.
    Unsendable(SendError),
}

/// How a request is sent.
#[derive(Clone, Copy)]
pub(super) struct Framing {
    /// HTTP/2, for an application without TLS of its own or one that is declared so.
    pub(super) http2: bool,
    /// The client asks for an upgrade of its connection.
    pub(super) upgrade: bool,
    /// The host, if the client named none.
    pub(super) address: SocketAddr,
    /// How long to wait for a connection; `None`: as long as connecting may take.
    pub(super) connect: Option<ConnectTimeout>,
}

/// The observer of an attempt, and whether anything of it was passed on.
pub(super) struct Observed<'a> {
    pub(super) observer: &'a mut dyn SendObserver,
    /// The client has got something of this attempt: there cannot be another.
    pub(super) committed: bool,
}

impl Observed<'_> {
    pub(super) fn informational(&mut self, response: Informational) {
        self.committed |= self.observer.informational(response);
    }

    pub(super) fn wants_informational(&self) -> bool {
        self.observer.wants_informational()
    }
}

/// Sends a request to an endpoint, in the version of HTTP that its application gets.
pub(super) async fn send_to(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    request: Request,
    framing: Framing,
    observed: &mut Observed<'_>,
) -> Result<UpstreamResponse, AttemptError> {
    let Framing {
        http2,
        upgrade,
        address,
        connect,
    } = framing;
    let meshed = endpoint.identity.is_some();
    let active = ActiveRequest::new(endpoint.clone());
    if endpoint.tls.is_some() {
        // Boxed, so that it does not grow the futures of the mesh's requests.
        return Box::pin(send_over_tls(registry, active, request, framing, observed)).await;
    }
    let (mut head, body) = request.into_parts();
    if upgrade || !(meshed || http2) {
        target::for_http1(&mut head, address).map_err(AttemptError::Unsendable)?;
        let request = Request::from_parts(head, body);
        return send_http1(registry, active, request, (upgrade, connect), observed).await;
    }
    target::for_http2(&mut head, address).map_err(AttemptError::Unsendable)?;
    let alpn = if http2 { alpn::H2 } else { alpn::H2_FOR_H1 };
    let request = Request::from_parts(head, body);
    send_http2(registry, active, request, (alpn, connect), observed).await
}

async fn send_http2(
    registry: &Arc<EndpointRegistry>,
    active: ActiveRequest,
    request: Request,
    (alpn, limit): (&'static [u8], Option<ConnectTimeout>),
    observed: &mut Observed<'_>,
) -> Result<UpstreamResponse, AttemptError> {
    let endpoint = active.endpoint();
    let (stream, reused) = endpoint
        .reserve_stream(registry, alpn, limit)
        .await
        .map_err(AttemptError::Connect)?;
    let response = match stream.send(request) {
        Ok(sent) => sent.response(observed).await,
        Err(failure) => Err(failure),
    };
    match response {
        Ok(response) => {
            let lease = Lease::new(active, LeasedConnection::Http2 { _stream: stream });
            Ok(UpstreamResponse { response, lease })
        }
        Err(SendFailure::NotSent) => Err(AttemptError::NotSent),
        Err(SendFailure::Broken(error)) => {
            if error.is_refused() {
                stream.limit_streams();
            }
            Err(AttemptError::Broken { error, reused })
        }
    }
}

/// Sends a request to an application that speaks TLS itself: in HTTP/2 if its port is declared so,
/// else as it negotiates.
async fn send_over_tls(
    registry: &Arc<EndpointRegistry>,
    active: ActiveRequest,
    request: Request,
    framing: Framing,
    observed: &mut Observed<'_>,
) -> Result<UpstreamResponse, AttemptError> {
    let Framing {
        http2: declared,
        upgrade,
        address,
        connect,
    } = framing;
    let endpoint = active.endpoint();
    let http2 = !upgrade
        && (declared
            || endpoint
                .within(connect, endpoint.negotiates_http2(registry))
                .await
                .map_err(AttemptError::Connect)?);
    let (mut head, body) = request.into_parts();
    if !http2 {
        target::for_http1(&mut head, address).map_err(AttemptError::Unsendable)?;
        let request = Request::from_parts(head, body);
        return send_http1(registry, active, request, (upgrade, connect), observed).await;
    }
    target::for_http2(&mut head, address).map_err(AttemptError::Unsendable)?;
    target::over_tls(&mut head);
    let request = Request::from_parts(head, body);
    send_http2(registry, active, request, (alpn::H2, connect), observed).await
}

async fn send_http1(
    registry: &EndpointRegistry,
    active: ActiveRequest,
    request: Request,
    (upgrade, limit): (bool, Option<ConnectTimeout>),
    observed: &mut Observed<'_>,
) -> Result<UpstreamResponse, AttemptError> {
    let endpoint = active.endpoint();
    let (request, mut held) = placed(request, endpoint, upgrade);
    if held.is_none() {
        // Boxed, so that the handshake's state does not grow every request's future.
        let opening = http1::connect(registry, endpoint, alpn::H1);
        let opened = Box::pin(endpoint.within(limit, opening)).await;
        held = Some(opened.map_err(AttemptError::Connect)?);
    }
    let Some(connection) = &mut held else {
        return Err(AttemptError::NotSent);
    };
    match connection.send(request, observed).await {
        Ok(response) => {
            let connection = match upgrade {
                true => LeasedConnection::Exclusive { _connection: held },
                false => LeasedConnection::Http1(held),
            };
            let lease = Lease::new(active, connection);
            let response = response.map(Into::into);
            Ok(UpstreamResponse { response, lease })
        }
        Err(None) => Err(AttemptError::NotSent),
        Err(Some(mut error)) => {
            if error.take_message().is_some() {
                return Err(AttemptError::NotSent);
            }
            match Broken::Http1(error.into_error()) {
                error if error.is_stale() => Err(AttemptError::NotSent),
                error => {
                    let reused = connection.is_reused();
                    Err(AttemptError::Broken { error, reused })
                }
            }
        }
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
    let idempotent = is_idempotent(request.method());
    let once = !idempotent || !request.body().fits_replay_buffer();
    let waiting = (!upgrade).then(|| endpoint.http1.take(once)).flatten();
    if waiting.is_none() && !idempotent {
        // Once begun on a new connection the request may have been processed.
        request.body().send_once();
    }
    (request, waiting)
}

/// RFC 9110, 9.2.2.
pub(super) fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}
