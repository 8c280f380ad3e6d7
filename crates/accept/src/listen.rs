//! The accept loop.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::pool::{Pool, Port};

/// Delay while the process has no file descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens on the address; on 0.0.0.0 if it is `[::]` and IPv6 is disabled.
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

/// Accepts connections and passes them to `serve`, which must not block. Never returns and never
/// stops accepting: if there are no file descriptors left, the oldest connection of the first
/// non-empty pool in `pools` is closed.
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
                // Fails only if the client is already gone.
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

/// Returns true if the error only concerns the connection, which is gone; see accept(2).
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
