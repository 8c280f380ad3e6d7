//! ALPN protocols of TLS between proxies (RFC 7301): the framing between proxies, and the protocol
//! of the application.

/// HTTP/2 between proxies and to the application.
pub const H2: &[u8] = b"weft/h2";
/// HTTP/2 between proxies, with many requests on one connection; HTTP/1.1 to the application.
pub const H2_FOR_H1: &[u8] = b"weft/h2-h1";
/// HTTP/1.1 between proxies, with one connection for each connection of the client, for upgrades.
pub const H1: &[u8] = b"weft/h1";
/// Opaque bytes.
pub const TCP: &[u8] = b"weft/tcp";

/// All of them: a ClientHello that offers one comes from a proxy of the mesh.
pub const ALL: [&[u8]; 4] = [H2, H2_FOR_H1, H1, TCP];
