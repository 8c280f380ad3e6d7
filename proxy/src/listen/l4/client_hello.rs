//! The ClientHello of a connection, which is peeked at and never consumed, for routes that match
//! the server's name.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::listen::ConnectionError;
use crate::net::detect::{Detected, Prefixed, detect, server_name};
use crate::telemetry::error_type::ErrorType;

/// Time for a ClientHello, from its first byte.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection begins.
pub(in crate::listen) enum ClientHello {
    /// A ClientHello, with the server name that it has.
    Names(Option<String>),
    NotTls,
}

/// Parses the first bytes. Returns `None` while there are too few.
pub(in crate::listen) fn peek_client_hello(seen: &[u8]) -> Option<ClientHello> {
    match detect(seen) {
        Detected::Incomplete => None,
        Detected::Tls => match server_name(seen) {
            Ok(name) => name.map(ClientHello::Names),
            Err(_) => Some(ClientHello::NotTls),
        },
        Detected::Http1 | Detected::Http2 | Detected::Opaque => Some(ClientHello::NotTls),
    }
}

/// Peeks until the ClientHello is complete, or is none. Returns false if the client sent nothing.
pub(in crate::listen) async fn read_client_hello(
    stream: &mut Prefixed<TcpStream>,
) -> Result<bool, ConnectionError> {
    if stream.peeked().is_empty() && stream.peek().await? == 0 {
        return Ok(false);
    }
    let whole = async {
        while peek_client_hello(stream.peeked()).is_none() && stream.peek().await? > 0 {}
        Ok(true)
    };
    timeout(CLIENT_HELLO_TIMEOUT, whole)
        .await
        .unwrap_or(Err(ConnectionError::refused(
            ErrorType::DetectTimeout,
            "the ClientHello did not end within 10 s",
        )))
}
