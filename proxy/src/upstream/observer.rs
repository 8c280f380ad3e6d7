//! Who follows a request on its way to an endpoint.

use std::sync::Arc;

use super::Endpoint;

/// An informational response: its status and its headers.
pub type Informational = http::Response<()>;

/// Observes the progress of a request, in the request's own task.
pub trait SendObserver: Send {
    /// The request is sent to this endpoint. Earlier calls were for attempts that failed.
    fn endpoint(&mut self, endpoint: &Arc<Endpoint>);

    /// Returns true if anybody wants informational responses.
    fn wants_informational(&self) -> bool;

    /// The endpoint sent an informational response. Returns true if it was passed on: the request
    /// is not sent again then, since its client knows of this attempt.
    fn informational(&mut self, response: Informational) -> bool;
}

/// For requests whose progress concerns nobody.
pub struct Unobserved;

impl SendObserver for Unobserved {
    fn endpoint(&mut self, _: &Arc<Endpoint>) {}

    fn wants_informational(&self) -> bool {
        false
    }

    fn informational(&mut self, _: Informational) -> bool {
        false
    }
}
