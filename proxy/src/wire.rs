//! What both sides of the proxy and the proxies among each other agree on: header names, limits,
//! the fields that HTTP/2 does not have.

use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};

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
/// Fields of a request's head. A browser may keep 180 cookies for a site, each of which is a field
/// of its own in HTTP/2. A field that is one byte in HPACK takes a hundred bytes of memory, on each
/// stream of a connection.
pub const MAX_REQUEST_FIELDS: usize = 512;
/// Fields of a response's head in HTTP/1.1: so many that the bytes are the bound.
pub const MAX_RESPONSE_FIELDS: usize = MAX_HEAD / OVERHEAD;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes the fields of a connection, which a filter may have set: HTTP/2 has none, except `TE:
/// trailers` of a request (RFC 9113, 8.2.2).
pub fn strip_connection_fields(headers: &mut HeaderMap, of_request: bool) {
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if !of_request || headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}
