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
/// Fields of a request's head. A browser may keep 180 cookies for a site, each of which is a field of
/// its own in HTTP/2. A field that is one byte in HPACK takes a hundred bytes of memory, on each stream
/// of a connection.
pub const MAX_REQUEST_FIELDS: usize = 512;
/// Fields of a response's head in HTTP/1.1: so many that the bytes are the bound.
pub const MAX_RESPONSE_FIELDS: usize = MAX_HEAD / OVERHEAD;

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
