//! What a request holds while it is in flight: its connection, and its part in the endpoint's load.

use std::sync::Arc;

use http::HeaderMap;

use super::Endpoint;
use super::http1::Connection;
use super::http2::StreamSlot;
use super::outliers::{Outcome, TrackedEndpoint};
use crate::limits::Admission;

/// Released on drop; only [`Lease::complete`] returns the connection to its pool.
pub struct Lease {
    active: ActiveRequest,
    connection: LeasedConnection,
    tracked: Option<TrackedResponse>,
    /// The request's place, where requests are limited.
    admission: Option<Admission>,
}

/// A response of a cluster with outlier detection.
struct TrackedResponse {
    endpoint: TrackedEndpoint,
    /// Whether the trailers tell how the call ended.
    has_trailers: bool,
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
        Self {
            active,
            connection,
            tracked: None,
            admission: None,
        }
    }

    /// Keeps the request's place until the end of its response.
    pub fn keep(&mut self, admission: Option<Admission>) {
        self.admission = admission;
    }

    /// Hands on the place of a request whose connection was upgraded.
    pub fn take_admission(&mut self) -> Option<Admission> {
        self.admission.take()
    }

    /// The response is of a cluster with outlier detection.
    pub(super) fn track(&mut self, endpoint: TrackedEndpoint, has_trailers: bool) {
        self.tracked = Some(TrackedResponse {
            endpoint,
            has_trailers,
        });
    }

    /// Records the trailers of the response.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(tracked) = self.tracked.take_if(|tracked| tracked.has_trailers) {
            tracked.endpoint.record_trailers(trailers);
        }
    }

    /// Records that the endpoint did not send the response to its end.
    pub fn broke_off(&mut self) {
        if let Some(tracked) = self.tracked.take() {
            tracked.endpoint.record(Outcome::GatewayError);
        }
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
