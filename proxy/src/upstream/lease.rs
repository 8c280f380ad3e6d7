//! What a request holds while it is under way: its place on a connection, and its part in the endpoint's load.

use std::sync::Arc;

use super::Peer;
use super::http1::Connection;
use super::http2::Stream;

/// Given back when dropped; only [`Lease::complete`] lets the connection be used again.
pub struct Lease {
    busy: Busy,
    on: On,
}

/// A request's part in the load of an endpoint, from the choice of it on: those that wait for a connection count too.
pub(super) struct Busy(Arc<Peer>);

impl Busy {
    pub(super) fn new(peer: Arc<Peer>) -> Self {
        peer.load.begin();
        Self(peer)
    }

    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.load.end();
    }
}

/// The connection that a request is on.
pub(super) enum On {
    /// `None`: it has ended.
    Http1(Option<Connection>),
    Http2 {
        _stream: Stream,
    },
    /// Of this request alone.
    Alone {
        _connection: Option<Connection>,
    },
}

impl Lease {
    pub(super) fn new(busy: Busy, on: On) -> Self {
        Self { busy, on }
    }

    pub fn peer(&self) -> &Arc<Peer> {
        self.busy.peer()
    }

    /// The response has been read to its end.
    pub fn complete(self) {
        if let On::Http1(Some(connection)) = self.on {
            self.busy.peer().http1.put(connection);
        }
    }
}
