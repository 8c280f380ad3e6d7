//! Connections that are passed on as bytes: which rule takes them, where they go, and what is told of them.
//!
//! What a connection speaks was found out before, but for the server's name, which is read here where routes go by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::alpn;
use weft_ir::{Identity, Protocol};

use super::ConnectionError;
use crate::drain::DrainWatch;
use crate::http::runtime::Runtime;
use crate::net::detect::{Detected, Prefixed, detect, server_name};
use crate::net::tcp::{self, BytesTransferred};
use crate::routing::destination::{
    Resolved, ResolvedRouting, ResolvedRule, ResolvedService, TlsRoutes, WatchedDestination,
};
use crate::telemetry::connections::ConnectionRecord;
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::{Direction, RequestMetrics};
use crate::upstream::{Cluster, ConnectError, Endpoint, Transport};

/// Endpoints tried for one connection.
const MAX_ATTEMPTS: usize = 3;
/// Time for a ClientHello, from its first byte.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to an endpoint, opened as bytes.
pub(super) struct UpstreamConnection {
    pub(super) stream: Prefixed<Transport>,
    endpoint: Arc<Endpoint>,
    metrics: Arc<RequestMetrics>,
}

/// What is known of a connection so far, to be told at its end.
pub(super) struct ConnectionRecorder<'a> {
    runtime: &'a Runtime,
    started: Instant,
    direction: Direction,
    closing: DrainWatch,
    client: SocketAddr,
    pub(super) client_id: Option<Arc<Identity>>,
    pub(super) server_id: Option<Arc<Identity>>,
    /// TLS of the application's own.
    tls: bool,
    /// Which goes on to the application as it is: no policy adds another TLS.
    pub(super) passthrough: bool,
    server_name: Option<String>,
    pub(super) endpoint: Option<SocketAddr>,
    /// `None`: nothing was done yet, and nothing is told.
    pub(super) metrics: Option<Arc<RequestMetrics>>,
    pub(super) transferred: BytesTransferred,
}

impl<'a> ConnectionRecorder<'a> {
    pub(super) fn outbound(runtime: &'a Runtime, client: SocketAddr, tls: bool) -> Self {
        Self {
            runtime,
            started: Instant::now(),
            direction: Direction::Outbound,
            closing: runtime.shutdown.watch(),
            client,
            client_id: Some(runtime.identity.clone()),
            server_id: None,
            tls,
            passthrough: false,
            server_name: None,
            endpoint: None,
            metrics: None,
            transferred: BytesTransferred::default(),
        }
    }

    pub(super) fn inbound(runtime: &'a Runtime, client: SocketAddr, tls: bool) -> Self {
        Self {
            direction: Direction::Inbound,
            client_id: None,
            server_id: Some(runtime.identity.clone()),
            metrics: Some(runtime.metrics.inbound.clone()),
            ..Self::outbound(runtime, client, tls)
        }
    }

    /// Of a gateway's client. `closing`: when the connection is to finish.
    pub(super) fn gateway(
        runtime: &'a Runtime,
        client: SocketAddr,
        tls: bool,
        closing: DrainWatch,
    ) -> Self {
        Self {
            direction: Direction::Gateway,
            closing,
            client_id: None,
            ..Self::outbound(runtime, client, tls)
        }
    }

    pub(super) async fn pass<A, B>(&mut self, client: A, upstream: B) -> Result<(), ConnectionError>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let idle = self.runtime.bytes_idle(self.direction);
        let (transferred, ended) = tcp::forward(client, upstream, &self.closing, idle).await;
        self.transferred = transferred;
        Ok(ended?)
    }

    /// Counts and logs, and hands the result on.
    pub(super) fn finish(self, result: Result<(), ConnectionError>) -> Result<(), ConnectionError> {
        let failed = result.is_err();
        let metrics = match self.metrics {
            Some(metrics) => metrics,
            None if failed => self.runtime.metrics.outbound_unknown.clone(),
            None => return result,
        };
        metrics.connections.ended(self.transferred, failed);
        if self.runtime.access.wants_connection(failed) {
            let error = result.as_ref().err().map(ToString::to_string);
            self.runtime.access.write(&ConnectionRecord {
                direction: self.direction,
                client: self.client,
                client_id: self.client_id.as_deref(),
                server_id: self.server_id.as_deref(),
                protocol: if self.tls { "tls" } else { "tcp" },
                server_name: self.server_name.as_deref(),
                route: metrics.route(),
                rule: metrics.rule(),
                backend: metrics.backend(),
                endpoint: self.endpoint,
                error: error.as_deref(),
                duration: self.started.elapsed(),
                bytes_in: self.transferred.up,
                bytes_out: self.transferred.down,
            });
        }
        result
    }
}

/// Serves a connection of the pod. `opened`: to where, when that is known already.
pub(super) async fn serve(
    runtime: &Runtime,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    watched: &WatchedDestination,
    tls: bool,
    opened: Option<UpstreamConnection>,
) -> Result<(), ConnectionError> {
    let mut recorder = ConnectionRecorder::outbound(runtime, client, tls);
    let result = connection(runtime, stream, watched, opened, &mut recorder).await;
    recorder.finish(result)
}

async fn connection(
    runtime: &Runtime,
    mut stream: Prefixed<TcpStream>,
    watched: &WatchedDestination,
    opened: Option<UpstreamConnection>,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<(), ConnectionError> {
    let opened = match opened {
        Some(opened) => opened,
        None => {
            if needs_server_name(&watched.load()) {
                let whole = tokio::select! {
                    whole = read_client_hello(&mut stream) => whole,
                    () = runtime.shutdown.draining() => return Ok(()),
                };
                if !whole? {
                    return Ok(());
                }
            }
            let chosen = choose_cluster(watched, stream.peeked(), recorder)?;
            connect(runtime, chosen, recorder).await?
        }
    };
    pass(runtime, stream, opened, recorder).await
}

/// Serves a connection that goes to what was chosen; `Err`: nowhere, for this reason.
pub(super) async fn forward_to<S>(
    runtime: &Runtime,
    stream: S,
    chosen: Result<ChosenCluster, ConnectionError>,
    mut recorder: ConnectionRecorder<'_>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let result = match chosen {
        Ok(chosen) => routed(runtime, stream, chosen, &mut recorder).await,
        Err(error) => Err(error),
    };
    recorder.finish(result)
}

async fn routed<S>(
    runtime: &Runtime,
    stream: S,
    chosen: ChosenCluster,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opened = connect(runtime, chosen, recorder).await?;
    pass(runtime, stream, opened, recorder).await
}

async fn pass<S>(
    runtime: &Runtime,
    stream: S,
    opened: UpstreamConnection,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let UpstreamConnection {
        stream: upstream,
        endpoint,
        metrics,
    } = opened;
    recorder.metrics = Some(metrics);
    recorder.endpoint = Some(endpoint.address);
    recorder.server_id = endpoint.identity.clone();
    let tls = match endpoint.identity {
        Some(_) => ConnectionTls::Mesh,
        None if recorder.tls => ConnectionTls::Application,
        None => ConnectionTls::None,
    };
    let _open = runtime.metrics.connection(recorder.direction, tls);
    endpoint.load.begin();
    let ended = recorder.pass(stream, upstream).await;
    endpoint.load.end();
    ended
}

/// Opens a connection before the client has said anything, in case it is the server who speaks first.
pub(super) async fn connect_early(
    runtime: &Runtime,
    watched: &WatchedDestination,
    client: SocketAddr,
) -> Result<UpstreamConnection, ConnectionError> {
    let mut recorder = ConnectionRecorder::outbound(runtime, client, false);
    let chosen = choose_cluster(watched, &[], &mut recorder)?;
    connect(runtime, chosen, &mut recorder).await
}

/// Opens a connection to one of the endpoints.
async fn connect(
    runtime: &Runtime,
    chosen: ChosenCluster,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<UpstreamConnection, ConnectionError> {
    let ChosenCluster { cluster, metrics } = chosen;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<ConnectError> = None;
    while tried.len() < MAX_ATTEMPTS
        && let Some(endpoint) = cluster.pick(&tried, Some(recorder.client.ip()))
    {
        recorder.endpoint = Some(endpoint.address);
        let opened = match recorder.passthrough {
            true => runtime.upstream.connect_through(&endpoint).await,
            false => runtime.upstream.connect(&endpoint, alpn::TCP).await,
        };
        match opened {
            Ok(stream) => {
                let stream = Prefixed::new(stream);
                return Ok(UpstreamConnection {
                    stream,
                    endpoint,
                    metrics,
                });
            }
            Err(error) => {
                runtime.upstream.eject(&endpoint);
                tried.push(endpoint.address);
                last = Some(error);
            }
        }
    }
    Err(match last {
        Some(error) => ConnectionError::Connect(error),
        None => ConnectionError::refused(
            "no_endpoints",
            format!("{} has no ready endpoints", cluster.name),
        ),
    })
}

fn needs_server_name(config: &Resolved) -> bool {
    matches!(config, Resolved::Service(service) if matches!(service.routing, ResolvedRouting::Tls(_)))
}

/// Where a connection goes, and where it is counted.
pub(super) struct ChosenCluster {
    cluster: Arc<Cluster>,
    metrics: Arc<RequestMetrics>,
}

/// The endpoints for a connection that begins with `seen`.
fn choose_cluster(
    watched: &WatchedDestination,
    seen: &[u8],
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    let config = watched.load();
    let service = match &**config {
        Resolved::Pod(cluster) => {
            let (cluster, metrics) = (
                cluster.clone(),
                recorder.runtime.metrics.outbound_pod.clone(),
            );
            recorder.metrics = Some(metrics.clone());
            return Ok(ChosenCluster { cluster, metrics });
        }
        Resolved::Service(service) => service,
        Resolved::Unknown => {
            let words = format!("nothing is at {} any more", watched.address);
            return Err(ConnectionError::refused("gone", words));
        }
    };
    let rule = match_rule(service, seen, recorder)?;
    pick_cluster(rule, recorder)
}

/// The endpoints of a backend of the rule, by weight.
pub(super) fn pick_cluster(
    rule: &ResolvedRule,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    recorder.metrics = Some(rule.metrics.clone());
    let Some(backend) = rule.pick_backend() else {
        return Err(ConnectionError::refused(
            "misconfigured",
            "no backend has a weight",
        ));
    };
    recorder.metrics = Some(backend.metrics.clone());
    match &backend.target {
        Ok(cluster) => Ok(ChosenCluster {
            cluster: cluster.clone(),
            metrics: backend.metrics.clone(),
        }),
        Err(reason) => Err(ConnectionError::refused("misconfigured", &**reason)),
    }
}

/// The rule that takes a connection which begins with `seen`.
fn match_rule<'a>(
    service: &'a ResolvedService,
    seen: &[u8],
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<&'a ResolvedRule, ConnectionError> {
    let id = &service.id;
    match &service.routing {
        ResolvedRouting::Direct(rule) | ResolvedRouting::Tcp(rule) => Ok(rule),
        // What is not HTTP meets no rule of HTTP. Where the Service does not say that it speaks HTTP alone, it goes as
        // if there were no routes.
        ResolvedRouting::Http(_, own) | ResolvedRouting::Grpc(_, own)
            if service.protocol == Protocol::Detect =>
        {
            Ok(own)
        }
        ResolvedRouting::Http(routes, _) | ResolvedRouting::Grpc(routes, _) => {
            recorder.metrics = Some(routes.unmatched.clone());
            let words = format!("{id} speaks HTTP and has HTTP routes, and this is not HTTP");
            Err(ConnectionError::refused("not_http", words))
        }
        ResolvedRouting::Tls(routes) => {
            recorder.metrics = Some(routes.unmatched.clone());
            let Some(ClientHello::Names(name)) = peek_client_hello(seen) else {
                let words = format!("{id} has TLSRoutes, and this is not TLS");
                return Err(ConnectionError::refused("not_tls", words));
            };
            recorder.tls = true;
            rule_by_server_name(routes, name, &format_args!("{id}"), recorder)
        }
    }
}

/// The rule for a connection whose client names this server. `of`: what the routes are attached to.
pub(super) fn rule_by_server_name<'a>(
    routes: &'a TlsRoutes,
    name: Option<String>,
    of: &dyn std::fmt::Display,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<&'a ResolvedRule, ConnectionError> {
    recorder.metrics = Some(routes.unmatched.clone());
    let found = weft_ir::find_tls(&routes.table, name.as_deref());
    let rule = found.and_then(|place| routes.rules.get(place));
    let rule = rule.ok_or_else(|| {
        let named = name.as_deref().unwrap_or("no server");
        let words = format!("no TLSRoute of {of} has the name: the client names {named}");
        ConnectionError::refused("no_route", words)
    });
    recorder.server_name = name;
    rule
}

/// How a connection begins.
pub(super) enum ClientHello {
    /// With a ClientHello that names this server.
    Names(Option<String>),
    NotTls,
}

/// `None` while the bytes do not tell.
pub(super) fn peek_client_hello(seen: &[u8]) -> Option<ClientHello> {
    match detect(seen) {
        Detected::Incomplete => None,
        Detected::Tls => match server_name(seen) {
            Ok(name) => name.map(ClientHello::Names),
            Err(_) => Some(ClientHello::NotTls),
        },
        Detected::Http1 | Detected::Http2 | Detected::Opaque => Some(ClientHello::NotTls),
    }
}

/// Looks until a ClientHello is whole or is none; false: the client ended without a word.
pub(super) async fn read_client_hello(
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
            "silent",
            "the ClientHello did not end within 10 s",
        )))
}
