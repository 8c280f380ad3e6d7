//! The application protocols of TLS between proxies (RFC 7301): how bytes are framed, and what the far application gets.

/// HTTP/2 between; the application gets HTTP/2.
pub const H2: &[u8] = b"weft/h2";
/// HTTP/2 between, many requests on one connection; the application gets HTTP/1.1.
pub const H2_FOR_H1: &[u8] = b"weft/h2-h1";
/// HTTP/1.1 between, one connection for each of the client's: upgrades.
pub const H1: &[u8] = b"weft/h1";
/// Opaque bytes.
pub const TCP: &[u8] = b"weft/tcp";

/// All of them: a ClientHello that offers one comes from a proxy of the mesh.
pub const ALL: [&[u8]; 4] = [H2, H2_FOR_H1, H1, TCP];
