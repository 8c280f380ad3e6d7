//! Connections of a gateway's clients: accepted at the ports that the controller names, for as long
//! as it does.
//!
//! Which rule takes a request is decided in [`crate::http::routes`], of a connection of bytes in
//! [`super::l4`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_accept::Place;
use weft_ir::IdentityError;

use super::l4::{self, ChosenCluster, ConnectionRecorder};
use super::{ConnectionError, Listener, OriginalDst, udp};
use crate::authorization::ClientPolicies;
use crate::drain::{DrainWatch, Shutdown};
use crate::http::client_connections::ClientConnection;
use crate::http::exchange::Downstream;
use crate::http::forward::Outbound;
use crate::http::routes::{GatewayConnection, RouteSource};
use crate::http::runtime::{Proxy, Runtime};
use crate::http::serve::{ServerConfig, serve};
use crate::lease::Owner;
use crate::net::detect::{Detected, Prefixed};
use crate::net::proxy_protocol;
use crate::routing::gateway_port::{
    BoundPort, PortSocket, ResolvedServing, ResolvedStream, WatchedPort,
};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{ConnectionTls, Direction};

mod tls;

const NAME: &str = "gateway";
/// The longest wait for a request's head, from the end of the one before: longer than common load
/// balancers keep an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// The same for connections that are accepted close to the bound on connections.
const CROWDED_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// An HTTP/2 connection without requests is told to finish after this, or up to twice as long.
const IDLE: Duration = Duration::from_secs(300);
/// When the process drains, or its listener is removed, an HTTP/1.1 connection is told so with its
/// next response, and closed after this without a request, its first one included: clients keep
/// connections ready that have sent nothing yet.
const LINGER: Duration = Duration::from_secs(15);

/// Serves the ports that are opened until the drain begins; connections that are open then go on.
/// Errors when the proxy's own name is no identity.
pub async fn run(
    proxy: &Proxy,
    shutdown: Shutdown,
    opened: mpsc::UnboundedReceiver<BoundPort>,
) -> Result<(), IdentityError> {
    let runtime = Runtime::new(proxy, shutdown)?;
    tokio::select! {
        () = listen(&runtime, opened) => {}
        () = runtime.housekeeping() => {}
    }
    Ok(())
}

async fn listen(runtime: &Arc<Runtime>, mut opened: mpsc::UnboundedReceiver<BoundPort>) {
    let mut ports = JoinSet::new();
    loop {
        let open = tokio::select! {
            open = opened.recv() => open,
            () = runtime.shutdown.draining() => None,
        };
        let Some(BoundPort { watched, socket }) = open else {
            break;
        };
        match socket {
            PortSocket::Tcp(socket) => {
                ports.spawn(accept(runtime.clone(), watched, socket));
            }
            PortSocket::Udp(socket) => {
                ports.spawn(datagrams(runtime.clone(), watched, socket));
            }
        }
        while ports.try_join_next().is_some() {}
    }
    // Each ends with the drain.
    while ports.join_next().await.is_some() {}
}

/// Accepts until the port is gone or the drain begins.
async fn accept(runtime: Arc<Runtime>, watched: Arc<WatchedPort>, socket: std::net::TcpListener) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(port = watched.number, "listening: {error}");
            return;
        }
    };
    let listener = Listener {
        socket,
        origin: OriginalDst::Local,
    };
    let serve = |stream, client, local| {
        let (task, watched) = (runtime.clone(), watched.clone());
        runtime.shutdown.spawn(async move {
            if let Err(error) = connection(&task, stream, client, local, watched).await {
                error.report(&task, NAME, client);
            }
        });
    };
    tokio::select! {
        () = super::accept::accept(&runtime, &listener, NAME, serve) => {}
        () = watched.closed() => {}
    }
    // Clients that have connected by now are served.
    let Ok(socket) = listener.socket.into_std() else {
        return;
    };
    while let Ok((stream, client)) = socket.accept() {
        match waiting(stream) {
            Ok((stream, local)) => serve(stream, super::accept::canonical(client), local),
            Err(error) => tracing::debug!(listener = NAME, %client, %error, "closed"),
        }
    }
}

fn waiting(stream: std::net::TcpStream) -> std::io::Result<(TcpStream, SocketAddr)> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let local = super::accept::canonical(stream.local_addr()?);
    Ok((TcpStream::from_std(stream)?, local))
}

/// Serves datagrams until the port is gone, which ends their sessions, or the drain is through.
async fn datagrams(runtime: Arc<Runtime>, watched: Arc<WatchedPort>, socket: std::net::UdpSocket) {
    let (rule, listener) = match &watched.load().serving {
        ResolvedServing::Stream(of) => (of.rule.clone(), of.name.clone()),
        // A port of datagrams serves nothing else.
        ResolvedServing::Http(_) | ResolvedServing::Tls(_) => return,
    };
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(port = watched.number, "listening: {error}");
            return;
        }
    };
    let scope = udp::Scope {
        port: watched.number,
        listener,
    };
    tokio::select! {
        () = udp::serve(runtime, socket, rule, scope, udp::Limits::default()) => {}
        () = watched.closed() => {}
    }
}

async fn connection(
    runtime: &Arc<Runtime>,
    stream: TcpStream,
    mut client: SocketAddr,
    local: SocketAddr,
    watched: Arc<WatchedPort>,
) -> Result<(), ConnectionError> {
    let config = arc_swap::Guard::into_inner(watched.load());
    let closing = runtime.watch_with(&config.closing);
    let mut stream = Prefixed::new(stream);
    let mut pending = PendingConnection::new(runtime, client.ip());
    if runtime.store.gateway().is_some_and(|of| of.proxy_protocol) {
        let read = while_pending(&pending, &closing, proxy_protocol::read(&mut stream)).await?;
        let Some(source) = read.transpose()? else {
            return Ok(());
        };
        client = source.unwrap_or(client);
        pending = PendingConnection::new(runtime, client.ip());
    }
    match &config.serving {
        ResolvedServing::Http(_) => {
            let connection = GatewayConnection {
                policies: policies(runtime, client, watched.number),
                port: watched,
                local,
                listener: None,
            };
            plain(runtime, stream, client, pending, connection, closing).await
        }
        ResolvedServing::Tls(_) => {
            tls::serve(runtime, stream, client, pending, local, watched, closing).await
        }
        ResolvedServing::Stream(of) => {
            let _open = pending.into_active_client();
            let mut recorder = ConnectionRecorder::gateway(runtime, client, false, closing);
            recorder.metrics = Some(of.unmatched.clone());
            let permit = policies(runtime, client, watched.number).listener_bytes(&of.name);
            let chosen = match recorder.set_permit(permit) {
                Ok(()) => choose(of, &mut recorder),
                Err(denied) => Err(denied),
            };
            // Forwarded connections may last: they hold no configuration.
            drop(config);
            l4::forward_to(runtime, stream, chosen, recorder).await
        }
    }
}

/// A connection whose protocol is not known yet.
struct PendingConnection {
    /// Its place among connections like it.
    place: Place,
    /// Its entry among all connections of clients.
    client: ClientConnection,
}

impl PendingConnection {
    fn new(runtime: &Runtime, source: IpAddr) -> Self {
        Self {
            place: runtime.gateway.enter(source),
            client: runtime.clients.insert(source),
        }
    }

    /// Resolves when the connection is to be closed for another.
    async fn lost(&self) {
        tokio::select! {
            () = self.place.lost() => {}
            () = self.client.evicted().cancelled() => {}
        }
    }

    /// The connection carries requests.
    fn into_client(self) -> ClientConnection {
        self.client
    }

    /// The connection is forwarded as bytes, and so never idle.
    fn into_active_client(self) -> ClientConnection {
        self.client.request_started();
        self.client
    }
}

/// Returns the header timeout of a connection that is accepted now.
fn header_timeout(runtime: &Runtime) -> Duration {
    match runtime.overload.is_crowded(runtime.shutdown.open()) {
        true => CROWDED_HEADER_TIMEOUT,
        false => HEADER_TIMEOUT,
    }
}

/// HTTP without TLS, of the version that the client begins with.
async fn plain(
    runtime: &Arc<Runtime>,
    mut stream: Prefixed<TcpStream>,
    client: SocketAddr,
    pending: PendingConnection,
    connection: GatewayConnection,
    closing: DrainWatch,
) -> Result<(), ConnectionError> {
    let header_timeout = header_timeout(runtime);
    let begun = timeout(header_timeout, stream.detect());
    let Some(begun) = while_pending(&pending, &closing, begun).await? else {
        return Ok(());
    };
    let place = pending.into_client();
    let silent = || {
        let words = format!("no request within {header_timeout:?}");
        ConnectionError::refused(ErrorType::DetectTimeout, words)
    };
    let protocol = begun.map_err(|_| silent())??;
    if stream.peeked().is_empty() {
        // Opened and closed again.
        return Ok(());
    }
    let _open = runtime
        .metrics
        .connection(Direction::Gateway, ConnectionTls::None);
    // What is not HTTP is answered by the server of HTTP/1.1.
    let http2 = protocol == Detected::Http2;
    http(runtime, stream, client, place, connection, http2, closing).await
}

/// Runs `beginning` while the connection is pending. Returns `None` if it is to finish, or evicted.
async fn while_pending<T>(
    pending: &PendingConnection,
    closing: &DrainWatch,
    beginning: impl Future<Output = T>,
) -> Result<Option<T>, ConnectionError> {
    let late = async {
        closing.started().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        begun = beginning => Ok(Some(begun)),
        () = late => Ok(None),
        () = pending.lost() => Ok(None),
    }
}

async fn http<S>(
    runtime: &Arc<Runtime>,
    stream: S,
    client: SocketAddr,
    place: ClientConnection,
    connection: GatewayConnection,
    http2: bool,
    closing: DrainWatch,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let downstream = Owner::new(Downstream {
        runtime: runtime.clone(),
        direction: Direction::Gateway,
        address: client,
        identity: None,
        closing: closing.clone(),
        client: Some(Arc::new(place)),
    });
    let source = RouteSource::Gateway(connection);
    let handler = Arc::new(Outbound { downstream, source });
    let config = ServerConfig {
        http2,
        header_timeout: Some(header_timeout(runtime)),
        idle: Some(IDLE),
        linger: Some(LINGER),
        // They name pods and addresses, which clients outside need not know.
        error_details: false,
        half_close: runtime.half_close,
        answer_idle: runtime.answer_idle,
        external: true,
        certificate_lifetime: None,
    };
    Ok(serve(stream, config, handler, &closing).await?)
}

fn policies(runtime: &Runtime, client: SocketAddr, port: u16) -> Arc<ClientPolicies> {
    let policies = runtime.store.policies();
    ClientPolicies::new(policies, None, client.ip(), port)
}

/// Picks the cluster of a connection by the rule of its port.
fn choose(
    of: &ResolvedStream,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    match &*of.rule.load() {
        Some(rule) => l4::pick_cluster(rule, recorder),
        None => {
            let words = format!("no TCPRoute is attached to listener {}", of.name);
            Err(ConnectionError::refused(ErrorType::NoRoute, words))
        }
    }
}
