//! The accept loop.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::pool::{Pool, Port};

/// Pause while the process has no file, or no memory, for another connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens; where IPv6 is off and the address is `[::]`, on 0.0.0.0.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        _ => Err(error),
    }
}

/// Takes every connection and hands it to `serve`, which must not wait. Never ends, and never stops accepting: out of files,
/// the oldest connection of the first of `pools` that has one gives way.
pub async fn accept<F>(
    listener: &TcpListener,
    port: &Port,
    pools: &[&Pool],
    mut serve: F,
) -> Infallible
where
    F: FnMut(TcpStream, SocketAddr),
{
    loop {
        let error = match listener.accept().await {
            Ok((stream, client)) => {
                // Fails only where the client has gone already.
                let _ = stream.set_nodelay(true);
                let ip = client.ip().to_canonical();
                serve(stream, SocketAddr::new(ip, client.port()));
                continue;
            }
            Err(error) => error,
        };
        if is_of_one_connection(&error) {
            continue;
        }
        pools.iter().any(|pool| pool.relieve());
        port.failed(&error);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the error says something of the connection alone, which is gone; accept(2) lists them.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::Interrupted
            | ErrorKind::NetworkDown
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
    )
}
