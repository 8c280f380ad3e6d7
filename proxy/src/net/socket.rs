//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Listens at `address`; at all IPv4 addresses instead where it is `[::]` and the host has no IPv6.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    or_ipv4(address, |address| {
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        super::tcp::set_keepalive(SockRef::from(&socket))?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

/// A socket for datagrams to `address`; likewise.
pub fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    or_ipv4(address, |address| {
        let socket = open(address, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    })
}

fn or_ipv4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    match bind(address) {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => bind(any4),
        other => other,
    }
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
