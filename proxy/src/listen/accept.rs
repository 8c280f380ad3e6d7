//! Accepted connections, and where they were going before they were redirected here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use weft_accept::Port;

use crate::http::runtime::Runtime;
use crate::net::socket;
use crate::telemetry::error_type::ErrorType;

/// How a listener knows where an accepted connection was going.
#[derive(Clone, Copy, Debug)]
pub enum OriginalDst {
    /// The pod's redirect rules keep it: `SO_ORIGINAL_DST`.
    Redirected,
    /// All connections go here: without redirect rules, as in tests and benches.
    Fixed(SocketAddr),
    /// To the listener itself.
    Local,
}

/// A listening socket.
pub struct Listener {
    pub socket: TcpListener,
    pub origin: OriginalDst,
}

impl Listener {
    /// Listens at `address`, or at all IPv4 addresses if that is `[::]` and the host has no IPv6.
    pub fn bind(address: SocketAddr, origin: OriginalDst) -> io::Result<Self> {
        let socket = TcpListener::from_std(socket::tcp(address)?)?;
        Ok(Self { socket, origin })
    }

    /// Returns where the connection was going. Errors if it was not redirected.
    fn original_dst(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let own = canonical(stream.local_addr()?);
        match self.origin {
            OriginalDst::Fixed(address) => return Ok(address),
            OriginalDst::Local => return Ok(own),
            OriginalDst::Redirected => {}
        }
        let socket = SockRef::from(stream);
        let original = match own.ip() {
            IpAddr::V4(_) => socket.original_dst_v4()?,
            IpAddr::V6(_) => socket.original_dst_v6()?,
        };
        let original = original.as_socket().map(canonical);
        match original {
            Some(original) if original.port() != self.socket.local_addr()?.port() => Ok(original),
            _ => Err(io::Error::other("opened to the proxy's own port")),
        }
    }
}

/// Unmaps IPv4 addresses of IPv6 sockets.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Accepts until the drain begins, and has `serve` run each connection in a task of its own.
pub(super) async fn accept<F>(
    runtime: &Arc<Runtime>,
    listener: &Listener,
    name: &'static str,
    serve: F,
) where
    F: Fn(TcpStream, SocketAddr, SocketAddr),
{
    let port = Port::new(name, &runtime.metrics.rejected);
    let take = |stream: TcpStream, client| match listener.original_dst(&stream) {
        Ok(original) => {
            let make_room = || {
                let evicted = runtime.clients.evict();
                evicted
                    .inspect(|source| port.reject("idle", *source))
                    .is_some()
            };
            let open = runtime.shutdown.open();
            if runtime.overload.admits_connection(open, make_room) {
                serve(stream, client, original);
            }
        }
        Err(error) => {
            let error_type = ErrorType::NotRedirected;
            runtime.metrics.protocol_error(name, error_type);
            tracing::debug!(listener = name, %client, %error, "closed");
        }
    };
    let pools = [&runtime.inbound, &runtime.gateway];
    tokio::select! {
        _ = weft_accept::accept(&listener.socket, &port, &pools, take) => {}
        () = runtime.shutdown.draining() => {}
    }
}
