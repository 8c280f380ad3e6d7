//! Connections of a gateway's clients: accepted at the ports that the controller names, for as long as it does.
//!
//! Which rule takes a request is decided in [`crate::http::routes`], of a connection of bytes in [`super::opaque`].

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

use super::clients::Client;
use super::opaque::{self, Account, Chosen};
use super::{Closed, Context, Listener, Origin, proxy_protocol, udp};
use crate::config::ports::{LivePort, OpenPort, PortSocket, ResolvedServing, ResolvedStream};
use crate::detect::{Guess, Prefixed};
use crate::http::exchange::Downstream;
use crate::http::forward::Outbound;
use crate::http::routes::{GatewayConnection, RouteSource};
use crate::http::serve::{ServerConfig, serve};
use crate::shutdown::{Closing, Shutdown};
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::Direction;

mod tls;

const NAME: &str = "gateway";
/// The longest wait for a request's head, from the end of the one before: longer than common load balancers keep an
/// idle connection.
const PATIENCE: Duration = Duration::from_secs(75);
/// The same for connections that are taken when few more may be.
const CROWDED_PATIENCE: Duration = Duration::from_secs(10);
/// An HTTP/2 connection without requests is told to go after this, or up to twice as long.
const IDLE: Duration = Duration::from_secs(300);
/// When the process ends, or the listener goes, an HTTP/1.1 connection is told so with its next answer, and closed after
/// this without a request, its first one included: clients keep connections ready that have said nothing yet.
const LINGER: Duration = Duration::from_secs(15);

/// Serves the ports that are opened until the drain begins; connections that are open then go on. Errors when the
/// proxy's own name is no identity.
pub async fn run(
    proxy: &crate::Context,
    shutdown: Shutdown,
    opened: mpsc::UnboundedReceiver<OpenPort>,
) -> Result<(), IdentityError> {
    let context = Context::new(proxy, shutdown)?;
    tokio::select! {
        () = listen(&context, opened) => {}
        () = context.housekeeping() => {}
    }
    Ok(())
}

async fn listen(context: &Arc<Context>, mut opened: mpsc::UnboundedReceiver<OpenPort>) {
    let mut ports = JoinSet::new();
    loop {
        let open = tokio::select! {
            open = opened.recv() => open,
            () = context.shutdown.draining() => None,
        };
        let Some(OpenPort { live, socket }) = open else {
            break;
        };
        match socket {
            PortSocket::Tcp(socket) => {
                ports.spawn(accept(context.clone(), live, socket));
            }
            PortSocket::Udp(socket) => {
                ports.spawn(datagrams(context.clone(), live, socket));
            }
        }
        while ports.try_join_next().is_some() {}
    }
    // Each ends with the drain.
    while ports.join_next().await.is_some() {}
}

/// Accepts until the port is gone or the drain begins.
async fn accept(context: Arc<Context>, live: Arc<LivePort>, socket: std::net::TcpListener) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(port = live.number, "listening: {error}");
            return;
        }
    };
    let listener = Listener {
        socket,
        origin: Origin::Here,
    };
    let serve = |stream, client, local| {
        let (task, live) = (context.clone(), live.clone());
        context.shutdown.spawn(async move {
            if let Err(closed) = connection(&task, stream, client, local, live).await {
                closed.report(&task, NAME, client);
            }
        });
    };
    tokio::select! {
        () = super::accept(&context, &listener, NAME, serve) => {}
        () = live.closed() => {}
    }
    // Who has connected by now is served.
    let Ok(socket) = listener.socket.into_std() else {
        return;
    };
    while let Ok((stream, client)) = socket.accept() {
        match waiting(stream) {
            Ok((stream, local)) => serve(stream, super::canonical(client), local),
            Err(error) => tracing::debug!(listener = NAME, %client, %error, "closed"),
        }
    }
}

fn waiting(stream: std::net::TcpStream) -> std::io::Result<(TcpStream, SocketAddr)> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let local = super::canonical(stream.local_addr()?);
    Ok((TcpStream::from_std(stream)?, local))
}

/// Serves datagrams until the port is gone, which ends their sessions, or the drain is through.
async fn datagrams(context: Arc<Context>, live: Arc<LivePort>, socket: std::net::UdpSocket) {
    let rule = match &live.load().serving {
        ResolvedServing::Stream(of) => of.rule.clone(),
        // A port of datagrams serves nothing else.
        ResolvedServing::Http(_) | ResolvedServing::Tls(_) => return,
    };
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(port = live.number, "listening: {error}");
            return;
        }
    };
    tokio::select! {
        () = udp::serve(context, socket, rule, udp::Limits::default()) => {}
        () = live.closed() => {}
    }
}

async fn connection(
    context: &Arc<Context>,
    stream: TcpStream,
    mut client: SocketAddr,
    local: SocketAddr,
    live: Arc<LivePort>,
) -> Result<(), Closed> {
    let config = arc_swap::Guard::into_inner(live.load());
    let closing = context.closing_with(&config.closing);
    let mut stream = Prefixed::new(stream);
    let mut arrival = Arrival::new(context, client.ip());
    if context.store.gateway().is_some_and(|of| of.proxy_protocol) {
        let read = within(&arrival, &closing, proxy_protocol::read(&mut stream)).await?;
        let Some(source) = read.transpose()? else {
            return Ok(());
        };
        client = source.unwrap_or(client);
        arrival = Arrival::new(context, client.ip());
    }
    match &config.serving {
        ResolvedServing::Http(_) => {
            let connection = GatewayConnection {
                port: live,
                local,
                listener: None,
            };
            plain(context, stream, client, arrival, connection, closing).await
        }
        ResolvedServing::Tls(_) => {
            tls::serve(context, stream, client, arrival, local, live, closing).await
        }
        ResolvedServing::Stream(of) => {
            let _open = arrival.passed_on();
            let mut account = Account::gateway(context, client, false, closing);
            let chosen = choose(of, &mut account);
            // What is passed on may last: it holds no configuration.
            drop(config);
            opaque::go(context, stream, chosen, account).await
        }
    }
}

/// A connection that has not said yet what it is.
struct Arrival {
    /// Among its like.
    place: Place,
    /// Among all connections of clients.
    client: Client,
}

impl Arrival {
    fn new(context: &Context, source: IpAddr) -> Self {
        Self {
            place: context.gateway.enter(source),
            client: context.clients.enter(source),
        }
    }

    /// Resolves when the connection is to be closed for another.
    async fn lost(&self) {
        tokio::select! {
            () = self.place.lost() => {}
            () = self.client.evicted().cancelled() => {}
        }
    }

    /// It is one of requests.
    fn established(self) -> Client {
        self.client
    }

    /// It is passed on as bytes, and so never idle.
    fn passed_on(self) -> Client {
        self.client.begin();
        self.client
    }
}

/// The longest wait for a request's head, of a connection that is taken now.
fn patience(context: &Context) -> Duration {
    match context.overload.is_crowded(context.shutdown.open()) {
        true => CROWDED_PATIENCE,
        false => PATIENCE,
    }
}

/// HTTP without TLS, of the version that the client begins with.
async fn plain(
    context: &Arc<Context>,
    mut stream: Prefixed<TcpStream>,
    client: SocketAddr,
    arrival: Arrival,
    connection: GatewayConnection,
    closing: Closing,
) -> Result<(), Closed> {
    let patience = patience(context);
    let begun = timeout(patience, stream.detect());
    let Some(begun) = within(&arrival, &closing, begun).await? else {
        return Ok(());
    };
    let place = arrival.established();
    let silent = || Closed::refused("silent", format!("no request within {patience:?}"));
    let told = begun.map_err(|_| silent())??;
    if stream.seen().is_empty() {
        // Opened and closed again.
        return Ok(());
    }
    let _open = context
        .metrics
        .connection(Direction::Gateway, ConnectionTls::None);
    // What is no HTTP is told so by the server of HTTP/1.
    let http2 = told == Guess::Http2;
    http(context, stream, client, place, connection, http2, closing).await
}

/// What comes of `beginning` for as long as the connection has its place; `None`: it is to finish, or to make room.
async fn within<T>(
    arrival: &Arrival,
    closing: &Closing,
    beginning: impl Future<Output = T>,
) -> Result<Option<T>, Closed> {
    let late = async {
        closing.begun().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        begun = beginning => Ok(Some(begun)),
        () = late => Ok(None),
        () = arrival.lost() => Ok(None),
    }
}

async fn http<S>(
    context: &Arc<Context>,
    stream: S,
    client: SocketAddr,
    place: Client,
    connection: GatewayConnection,
    http2: bool,
    closing: Closing,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let downstream = Arc::new(Downstream {
        context: context.clone(),
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
        header_timeout: Some(patience(context)),
        idle: Some(IDLE),
        linger: Some(LINGER),
        // They name what is nobody's business outside.
        error_details: false,
        half_close: context.half_close,
        answer_idle: context.answer_idle,
        external: true,
        certificate_lifetime: None,
    };
    Ok(serve(stream, config, handler, &closing).await?)
}

/// Where a connection goes that nothing tells apart from others of its port.
fn choose(of: &ResolvedStream, account: &mut Account<'_>) -> Result<Chosen, Closed> {
    account.metrics = Some(of.unmatched.clone());
    match &*of.rule.load() {
        Some(rule) => opaque::backend(rule, account),
        None => {
            let words = format!("no TCPRoute is attached to listener {}", of.name);
            Err(Closed::refused("no_route", words))
        }
    }
}
