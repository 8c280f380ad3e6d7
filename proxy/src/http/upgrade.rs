//! Connections that change their protocol after a request (RFC 9110, 7.8), as WebSocket does.

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::errors::Failure;
use super::exchange::Downstream;
use super::response_body::Response;
use crate::authorization::Permit;
use crate::net::tcp;
use crate::upstream::{Lease, UpstreamResponse};

/// The client's side of the change, of a request that asks for one.
pub fn take(head: &mut http::request::Parts) -> Option<OnUpgrade> {
    head.extensions.remove::<OnUpgrade>()
}

/// Errors when the application changes the protocol of a connection though the request did not ask
/// for it, or cannot.
pub fn check(upstream: &UpstreamResponse, asked: bool) -> Result<(), Failure> {
    let response = &upstream.response;
    let changes = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if changes && !(asked && response.extensions().get::<OnUpgrade>().is_some()) {
        let endpoint = upstream.lease.endpoint().address;
        return Err(Failure::UnexpectedUpgrade { endpoint });
    }
    Ok(())
}

/// Where the application agrees, passes bytes between the two sides from then on, for as long as
/// the request is permitted. They keep the request's place among those that are limited.
pub fn finish(
    response: &mut Response,
    client: Option<Option<OnUpgrade>>,
    downstream: &Downstream,
    permit: &Option<Permit>,
    lease: &mut Option<Lease>,
) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let server = response.extensions_mut().remove::<OnUpgrade>();
    let (Some(Some(client)), Some(server)) = (client, server) else {
        return;
    };
    // As bytes it goes on to be one of its client's connections, and is never idle.
    let client_connection = downstream.client.clone();
    if let Some(client) = &client_connection {
        client.request_started();
    }
    let closing = downstream.closing.clone();
    let idle = downstream.runtime.bytes_idle(downstream.direction);
    let mut permit = permit.clone();
    let admission = lease.as_mut().and_then(Lease::take_admission);
    downstream.runtime.shutdown.spawn(async move {
        // Either side may be gone before the change is through: there is nobody left to tell.
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            let (client, server) = (TokioIo::new(client), TokioIo::new(server));
            let revoked = Permit::revocation(permit.as_mut());
            let _ = tcp::forward(client, server, &closing, idle, revoked).await;
        }
        drop(client_connection);
        drop(admission);
    });
}
