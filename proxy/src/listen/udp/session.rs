//! One client's session with an endpoint: its socket, and the way back. Which endpoint, and when a
//! session gives way, is the port's to say.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::authorization::{Permit, Verdict};
use crate::clock::{AtomicTimestamp, Clock};
use crate::http::runtime::Runtime;
use crate::listen::accept::canonical;
use crate::net::tcp::BytesTransferred;
use crate::telemetry::connections::ConnectionRecord;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::{Cluster, Endpoint};

/// The longest datagram there is: 16 bits of length.
const MAX_DATAGRAM: usize = 65_535;
/// Datagrams taken from one socket before other tasks have their turn.
pub(super) const BATCH: usize = 64;
/// While the process ends, a session that was silent for this long is taken to be idle.
const DRAIN_IDLE: Duration = Duration::from_secs(2);
/// Longer than the way to there takes (errno(3) on Linux).
const EMSGSIZE: i32 = 90;
thread_local! {
    /// One for all sessions of a thread: none keeps bytes between two polls.
    pub(super) static DATAGRAM: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM]);
}

/// What both ways need. Tells of the session when the last of them has ended.
pub(super) struct SessionState {
    pub(super) runtime: Arc<Runtime>,
    pub(super) client: SocketAddr,
    pub(super) socket: UdpSocket,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) metrics: Arc<RequestMetrics>,
    pub(super) permit: Permit,
    pub(super) begun: Instant,
    /// Milliseconds from the port's beginning to the last datagram, of either way.
    pub(super) used: AtomicTimestamp,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
}

impl Drop for SessionState {
    fn drop(&mut self) {
        self.endpoint.load.end();
        self.runtime.metrics.udp.open.dec();
        let passed = BytesTransferred {
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
        };
        self.metrics.connections.ended(passed, None);
        if self.runtime.access.wants_connection(false) {
            let verdict = self.permit.verdict();
            self.runtime.access.write(&ConnectionRecord {
                direction: self.metrics.direction(),
                client: canonical(self.client),
                client_id: None,
                server_id: None,
                protocol: "udp",
                server_name: None,
                route: self.metrics.route(),
                rule: self.metrics.rule(),
                backend: self.metrics.backend(),
                endpoint: Some(self.endpoint.address),
                authorization: verdict.map(|verdict| verdict.decision),
                authorization_policy: verdict.and_then(Verdict::policy),
                error_type: None,
                error: None,
                duration: self.begun.elapsed(),
                bytes_in: passed.up,
                bytes_out: passed.down,
            });
        }
    }
}

/// A socket that speaks with the endpoint alone.
pub(super) fn connected_socket(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any = match endpoint {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(endpoint)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Passes answers to the client until the session has been silent, or the endpoint is not there.
pub(super) async fn pass_responses(
    session: Arc<SessionState>,
    port: Arc<UdpSocket>,
    clock: Clock,
    idle: Duration,
) {
    let shutdown = &session.runtime.shutdown;
    loop {
        let draining = shutdown.is_draining();
        let idle = if draining { idle.min(DRAIN_IDLE) } else { idle };
        let end = clock.instant(session.used.load()) + idle;
        if end <= Instant::now() {
            return;
        }
        tokio::select! {
            ready = session.socket.ready(Interest::READABLE | Interest::ERROR) => {
                let lost = ready.is_err() || session.is_unreachable();
                if lost || !session.pass_back(&port, clock) {
                    return;
                }
                tokio::task::yield_now().await;
            }
            () = sleep_until(end) => {}
            () = shutdown.draining(), if !draining => {}
        }
    }
}

impl SessionState {
    /// Nobody was there for a datagram that was sent.
    pub(super) fn mark_unreachable(&self) {
        self.runtime.upstream.eject(&self.endpoint);
        self.runtime
            .metrics
            .udp
            .dropped(ErrorType::EndpointUnreachable);
    }

    /// Whether ICMP said that the endpoint is not there; nothing to read tells of it.
    fn is_unreachable(&self) -> bool {
        let result = self.socket.try_io(Interest::ERROR, || {
            let none = || io::ErrorKind::WouldBlock.into();
            Err::<(), _>(self.socket.take_error()?.unwrap_or_else(none))
        });
        let failed = result.is_err_and(|error| is_unreachable(&error));
        if failed {
            self.mark_unreachable();
        }
        failed
    }

    /// Passes on what is there; false: the endpoint is not there.
    fn pass_back(&self, port: &UdpSocket, clock: Clock) -> bool {
        let udp = &self.runtime.metrics.udp;
        for _ in 0..BATCH {
            let passed: io::Result<()> = DATAGRAM.with_borrow_mut(|buffer| {
                let length = self.socket.try_recv(buffer)?;
                self.endpoint.mark_reachable();
                self.used.store(clock.now());
                match port.try_send_to(&buffer[..length], self.client) {
                    Ok(_) => {
                        self.down.fetch_add(length as u64, Relaxed);
                        udp.to_client.inc();
                    }
                    Err(error) => udp.dropped(send_error(&error)),
                }
                Ok(())
            });
            match passed {
                Ok(()) => {}
                Err(error) => {
                    if is_unreachable(&error) {
                        self.mark_unreachable();
                    }
                    return error.kind() == io::ErrorKind::WouldBlock;
                }
            }
        }
        true
    }
}

/// ICMP said that nobody is there.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
    )
}

/// Why a datagram could not be sent.
pub(super) fn send_error(error: &io::Error) -> ErrorType {
    match error.raw_os_error() {
        Some(EMSGSIZE) => ErrorType::DatagramTooLarge,
        _ if error.kind() == io::ErrorKind::WouldBlock => ErrorType::SendBufferFull,
        _ => ErrorType::SendFailed,
    }
}
