//! What a request holds while it is under way: its place on a connection, and its part in the endpoint's load.

use std::sync::Arc;

use hyper::client::conn::http1;

use super::Peer;
use super::http2::Stream;
use crate::http::bodies::Body;

/// Given back when dropped; only [`Lease::complete`] lets the connection be used again.
pub struct Lease {
    peer: Arc<Peer>,
    on: On,
}

/// The connection that a request is on.
pub(super) enum On {
    Http1(Option<http1::SendRequest<Body>>),
    Http2 {
        _stream: Stream,
    },
    /// Of this request alone.
    Alone {
        _sender: http1::SendRequest<Body>,
    },
}

impl Lease {
    /// Counts a request on `peer`.
    pub(super) fn new(peer: Arc<Peer>, on: On) -> Self {
        peer.load.begin();
        Self { peer, on }
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The response has been read to its end.
    pub fn complete(mut self) {
        if let On::Http1(sender) = &mut self.on
            && let Some(sender) = sender.take()
        {
            self.peer.http1.put(sender);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.peer.load.end();
    }
}
