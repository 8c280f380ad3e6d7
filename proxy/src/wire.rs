//! What both sides of the proxy and the proxies among each other agree on: header names, limits,
//! causes of HTTP/2.

use std::error::Error;

use http::HeaderName;

/// Names the cause on every response that a proxy made.
pub const ERROR: HeaderName = HeaderName::from_static("weft-error");
/// The type of that cause, as metrics and logs name it.
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("weft-error-type");
/// Between proxies: the request never reached the application, and may go elsewhere.
pub const REFUSED: HeaderName = HeaderName::from_static("weft-refused");
/// Bytes of a request's head, counted as HTTP/2 does (RFC 9113, 6.5.2).
pub const MAX_HEAD: usize = 64 << 10;
/// What each header counts besides its name and its value.
pub const OVERHEAD: usize = 32;
/// Fields of a head of HTTP/1.1: as many as its bytes may be, so that it is these that count.
pub const MAX_FIELDS: usize = MAX_HEAD / OVERHEAD;

/// What HTTP/2 says of the cause.
pub fn http2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            return Some(cause);
        }
        source = cause.source();
    }
    None
}
