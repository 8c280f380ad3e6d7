//! Connections that change their protocol after a request (RFC 9110, 7.8), as WebSocket does.

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::bodies::Response;
use super::exchange::Caller;
use crate::tcp;

/// The client's side of the change, of a request that asks for one.
pub fn of(head: &mut http::request::Parts) -> Option<OnUpgrade> {
    head.extensions.remove::<OnUpgrade>()
}

/// Where the application agrees, passes bytes between the two sides from then on.
pub fn finish(response: &mut Response, client: Option<Option<OnUpgrade>>, caller: &Caller) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let server = response.extensions_mut().remove::<OnUpgrade>();
    let (Some(Some(client)), Some(server)) = (client, server) else {
        return;
    };
    let closing = caller.closing.clone();
    caller.context.shutdown.spawn(async move {
        // Either side may be gone before the change is through: there is nobody left to tell.
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            let _ = tcp::pass(TokioIo::new(client), TokioIo::new(server), &closing, None).await;
        }
    });
}
