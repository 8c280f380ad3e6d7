//! What a request holds while it is in flight: its connection, and its part in the endpoint's load.

use std::sync::Arc;

use super::Endpoint;
use super::http1::Connection;
use super::http2::StreamSlot;

/// Released on drop; only [`Lease::complete`] returns the connection to its pool.
pub struct Lease {
    active: ActiveRequest,
    connection: LeasedConnection,
}

/// Counts a request in the load of an endpoint from its choice on: requests that wait for a
/// connection count too.
pub(super) struct ActiveRequest(Arc<Endpoint>);

impl ActiveRequest {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.load.begin();
        Self(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.load.end();
    }
}

/// The connection that a request uses.
pub(super) enum LeasedConnection {
    /// `None` if it has ended.
    Http1(Option<Connection>),
    Http2 {
        _stream: StreamSlot,
    },
    /// Not shared and not reused.
    Exclusive {
        _connection: Option<Connection>,
    },
}

impl Lease {
    pub(super) fn new(active: ActiveRequest, connection: LeasedConnection) -> Self {
        Self { active, connection }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.active.endpoint()
    }

    /// Returns the connection to its pool, once the response has been read to its end.
    pub fn complete(self) {
        if let LeasedConnection::Http1(Some(connection)) = self.connection {
            self.active.endpoint().http1.put(connection);
        }
    }
}
