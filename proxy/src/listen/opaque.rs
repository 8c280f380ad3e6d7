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

use super::{Closed, Context};
use crate::config::resolved::{
    Live, Resolved, ResolvedRouting, ResolvedRule, ResolvedService, TlsRoutes,
};
use crate::detect::{Guess, Prefixed, guess, server_name};
use crate::http::forward;
use crate::shutdown::Closing;
use crate::tcp::{self, Passed};
use crate::telemetry::connections::ConnectionRecord;
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::{Direction, RequestMetrics};
use crate::upstream::{Cluster, ConnectError, Endpoint, Transport};

/// Endpoints tried for one connection.
const MAX_TRIES: usize = 3;
/// Time for a ClientHello, from its first byte.
const HELLO: Duration = Duration::from_secs(10);

/// A connection to an endpoint, opened as bytes.
pub(super) struct Opened {
    pub(super) stream: Prefixed<Transport>,
    endpoint: Arc<Endpoint>,
    metrics: Arc<RequestMetrics>,
}

/// What is known of a connection so far, to be told at its end.
pub(super) struct Account<'a> {
    context: &'a Context,
    started: Instant,
    direction: Direction,
    closing: Closing,
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
    pub(super) passed: Passed,
}

impl<'a> Account<'a> {
    pub(super) fn outbound(context: &'a Context, client: SocketAddr, tls: bool) -> Self {
        Self {
            context,
            started: Instant::now(),
            direction: Direction::Outbound,
            closing: context.shutdown.closing(),
            client,
            client_id: Some(context.identity.clone()),
            server_id: None,
            tls,
            passthrough: false,
            server_name: None,
            endpoint: None,
            metrics: None,
            passed: Passed::default(),
        }
    }

    pub(super) fn inbound(context: &'a Context, client: SocketAddr, tls: bool) -> Self {
        Self {
            direction: Direction::Inbound,
            client_id: None,
            server_id: Some(context.identity.clone()),
            metrics: Some(context.metrics.inbound.clone()),
            ..Self::outbound(context, client, tls)
        }
    }

    /// Of a gateway's client. `closing`: when the connection is to finish.
    pub(super) fn gateway(
        context: &'a Context,
        client: SocketAddr,
        tls: bool,
        closing: Closing,
    ) -> Self {
        Self {
            direction: Direction::Gateway,
            closing,
            client_id: None,
            ..Self::outbound(context, client, tls)
        }
    }

    pub(super) async fn pass<A, B>(&mut self, client: A, upstream: B) -> Result<(), Closed>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let idle = self.context.bytes_idle(self.direction);
        let (passed, ended) = tcp::pass(client, upstream, &self.closing, idle).await;
        self.passed = passed;
        Ok(ended?)
    }

    /// Counts and logs, and hands the result on.
    pub(super) fn end(self, result: Result<(), Closed>) -> Result<(), Closed> {
        let failed = result.is_err();
        let metrics = match self.metrics {
            Some(metrics) => metrics,
            None if failed => self.context.metrics.outbound_unknown.clone(),
            None => return result,
        };
        metrics.connections.ended(self.passed, failed);
        if self.context.access.wants_connection(failed) {
            let error = result.as_ref().err().map(ToString::to_string);
            self.context.access.write(&ConnectionRecord {
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
                bytes_in: self.passed.up,
                bytes_out: self.passed.down,
            });
        }
        result
    }
}

/// Serves a connection of the pod. `opened`: to where, when that is known already.
pub(super) async fn serve(
    context: &Context,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    live: &Live,
    tls: bool,
    opened: Option<Opened>,
) -> Result<(), Closed> {
    let mut account = Account::outbound(context, client, tls);
    let result = connection(context, stream, live, opened, &mut account).await;
    account.end(result)
}

async fn connection(
    context: &Context,
    mut stream: Prefixed<TcpStream>,
    live: &Live,
    opened: Option<Opened>,
    account: &mut Account<'_>,
) -> Result<(), Closed> {
    let opened = match opened {
        Some(opened) => opened,
        None => {
            if routed_by_name(&live.load()) {
                let whole = tokio::select! {
                    whole = whole_hello(&mut stream) => whole,
                    () = context.shutdown.draining() => return Ok(()),
                };
                if !whole? {
                    return Ok(());
                }
            }
            let chosen = choose(live, stream.seen(), account)?;
            open(context, chosen, account).await?
        }
    };
    pass(context, stream, opened, account).await
}

/// Serves a connection that goes to what was chosen; `Err`: nowhere, for this reason.
pub(super) async fn go<S>(
    context: &Context,
    stream: S,
    chosen: Result<Chosen, Closed>,
    mut account: Account<'_>,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let result = match chosen {
        Ok(chosen) => routed(context, stream, chosen, &mut account).await,
        Err(closed) => Err(closed),
    };
    account.end(result)
}

async fn routed<S>(
    context: &Context,
    stream: S,
    chosen: Chosen,
    account: &mut Account<'_>,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opened = open(context, chosen, account).await?;
    pass(context, stream, opened, account).await
}

async fn pass<S>(
    context: &Context,
    stream: S,
    opened: Opened,
    account: &mut Account<'_>,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Opened {
        stream: upstream,
        endpoint,
        metrics,
    } = opened;
    account.metrics = Some(metrics);
    account.endpoint = Some(endpoint.address);
    account.server_id = endpoint.identity.clone();
    let tls = match endpoint.identity {
        Some(_) => ConnectionTls::Mesh,
        None if account.tls => ConnectionTls::Application,
        None => ConnectionTls::None,
    };
    let _open = context.metrics.connection(account.direction, tls);
    endpoint.load.begin();
    let ended = account.pass(stream, upstream).await;
    endpoint.load.end();
    ended
}

/// Opens a connection before the client has said anything, in case it is the server who speaks first.
pub(super) async fn open_early(
    context: &Context,
    live: &Live,
    client: SocketAddr,
) -> Result<Opened, Closed> {
    let mut account = Account::outbound(context, client, false);
    let chosen = choose(live, &[], &mut account)?;
    open(context, chosen, &mut account).await
}

/// Opens a connection to one of the endpoints.
async fn open(
    context: &Context,
    chosen: Chosen,
    account: &mut Account<'_>,
) -> Result<Opened, Closed> {
    let Chosen { cluster, metrics } = chosen;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<ConnectError> = None;
    while tried.len() < MAX_TRIES
        && let Some(endpoint) = cluster.pick(&tried, Some(account.client.ip()))
    {
        account.endpoint = Some(endpoint.address);
        let opened = match account.passthrough {
            true => context.upstream.connect_through(&endpoint).await,
            false => context.upstream.connect(&endpoint, alpn::TCP).await,
        };
        match opened {
            Ok(stream) => {
                let stream = Prefixed::new(stream);
                return Ok(Opened {
                    stream,
                    endpoint,
                    metrics,
                });
            }
            Err(error) => {
                context.upstream.eject(&endpoint);
                tried.push(endpoint.address);
                last = Some(error);
            }
        }
    }
    Err(match last {
        Some(error) => Closed::Connect(error),
        None => Closed::refused(
            "no_endpoints",
            format!("{} has no ready endpoints", cluster.name),
        ),
    })
}

fn routed_by_name(config: &Resolved) -> bool {
    matches!(config, Resolved::Service(service) if matches!(service.routing, ResolvedRouting::Tls(_)))
}

/// Where a connection goes, and where it is counted.
pub(super) struct Chosen {
    cluster: Arc<Cluster>,
    metrics: Arc<RequestMetrics>,
}

/// The endpoints for a connection that begins with `seen`.
fn choose(live: &Live, seen: &[u8], account: &mut Account<'_>) -> Result<Chosen, Closed> {
    let config = live.load();
    let service = match &**config {
        Resolved::Pod(cluster) => {
            let (cluster, metrics) = (
                cluster.clone(),
                account.context.metrics.outbound_pod.clone(),
            );
            account.metrics = Some(metrics.clone());
            return Ok(Chosen { cluster, metrics });
        }
        Resolved::Service(service) => service,
        Resolved::Unknown => {
            let words = format!("nothing is at {} any more", live.address);
            return Err(Closed::refused("gone", words));
        }
    };
    let rule = rule(service, seen, account)?;
    backend(rule, account)
}

/// The endpoints of a backend of the rule, by weight.
pub(super) fn backend(rule: &ResolvedRule, account: &mut Account<'_>) -> Result<Chosen, Closed> {
    account.metrics = Some(rule.metrics.clone());
    let Some(backend) = forward::pick_backend(rule) else {
        return Err(Closed::refused("misconfigured", "no backend has a weight"));
    };
    account.metrics = Some(backend.metrics.clone());
    match &backend.target {
        Ok(cluster) => Ok(Chosen {
            cluster: cluster.clone(),
            metrics: backend.metrics.clone(),
        }),
        Err(reason) => Err(Closed::refused("misconfigured", &**reason)),
    }
}

/// The rule that takes a connection which begins with `seen`.
fn rule<'a>(
    service: &'a ResolvedService,
    seen: &[u8],
    account: &mut Account<'_>,
) -> Result<&'a ResolvedRule, Closed> {
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
            account.metrics = Some(routes.unmatched.clone());
            let words = format!("{id} speaks HTTP and has HTTP routes, and this is not HTTP");
            Err(Closed::refused("not_http", words))
        }
        ResolvedRouting::Tls(routes) => {
            account.metrics = Some(routes.unmatched.clone());
            let Some(Hello::Names(name)) = hello(seen) else {
                let words = format!("{id} has TLSRoutes, and this is not TLS");
                return Err(Closed::refused("not_tls", words));
            };
            account.tls = true;
            by_name(routes, name, &format_args!("{id}"), account)
        }
    }
}

/// The rule for a connection whose client names this server. `of`: what the routes are attached to.
pub(super) fn by_name<'a>(
    routes: &'a TlsRoutes,
    name: Option<String>,
    of: &dyn std::fmt::Display,
    account: &mut Account<'_>,
) -> Result<&'a ResolvedRule, Closed> {
    account.metrics = Some(routes.unmatched.clone());
    let found = weft_ir::find_tls(&routes.table, name.as_deref());
    let rule = found.and_then(|place| routes.rules.get(place));
    let rule = rule.ok_or_else(|| {
        let named = name.as_deref().unwrap_or("no server");
        let words = format!("no TLSRoute of {of} has the name: the client names {named}");
        Closed::refused("no_route", words)
    });
    account.server_name = name;
    rule
}

/// How a connection begins.
pub(super) enum Hello {
    /// With a ClientHello that names this server.
    Names(Option<String>),
    NotTls,
}

/// `None` while the bytes do not tell.
pub(super) fn hello(seen: &[u8]) -> Option<Hello> {
    match guess(seen) {
        Guess::More => None,
        Guess::Tls => match server_name(seen) {
            Ok(name) => name.map(Hello::Names),
            Err(_) => Some(Hello::NotTls),
        },
        Guess::Http1 | Guess::Http2 | Guess::Opaque => Some(Hello::NotTls),
    }
}

/// Looks until a ClientHello is whole or is none; false: the client ended without a word.
pub(super) async fn whole_hello(stream: &mut Prefixed<TcpStream>) -> Result<bool, Closed> {
    if stream.seen().is_empty() && stream.look().await? == 0 {
        return Ok(false);
    }
    let whole = async {
        while hello(stream.seen()).is_none() && stream.look().await? > 0 {}
        Ok(true)
    };
    timeout(HELLO, whole).await.unwrap_or(Err(Closed::refused(
        "silent",
        "the ClientHello did not end within 10 s",
    )))
}
