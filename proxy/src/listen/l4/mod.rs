//! Connections that are forwarded as bytes: which rule takes them, where they go, and what is
//! recorded of them.
//!
//! Their protocol has been detected before, except for the server's name, which is read here if
//! routes match it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use weft_api::alpn;

use super::ConnectionError;
use crate::http::runtime::Runtime;
use crate::limits::Admission;
use crate::net::detect::Prefixed;
use crate::routing::destination::WatchedDestination;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::ConnectionTls;
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::{ConnectError, Endpoint, Transport};

mod choose;
mod client_hello;
mod recorder;

pub(super) use choose::{ChosenCluster, pick_cluster, rule_by_server_name};
use choose::{choose_cluster, needs_server_name};
pub(super) use client_hello::{ClientHello, peek_client_hello, read_client_hello};
pub(super) use recorder::ConnectionRecorder;

/// Endpoints that are tried for one connection.
const MAX_ATTEMPTS: usize = 3;
/// A connection to an endpoint, opened as bytes.
pub(super) struct UpstreamConnection {
    pub(super) stream: Prefixed<Transport>,
    endpoint: Arc<Endpoint>,
    metrics: Arc<RequestMetrics>,
    /// Its place, where connections are limited.
    admission: Option<Admission>,
}

/// Serves a connection of the pod. `opened`: the upstream connection, if there is one already.
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

/// Serves a connection to the chosen cluster, or reports why there is none.
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
        admission: _admission,
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

/// Connects before the client has sent anything, in case the server speaks first.
pub(super) async fn connect_early(
    runtime: &Runtime,
    watched: &WatchedDestination,
    client: SocketAddr,
) -> Result<UpstreamConnection, ConnectionError> {
    let mut recorder = ConnectionRecorder::outbound(runtime, client, false);
    let chosen = choose_cluster(watched, &[], &mut recorder)?;
    connect(runtime, chosen, &mut recorder).await
}

/// Connects to one of the endpoints.
async fn connect(
    runtime: &Runtime,
    chosen: ChosenCluster,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<UpstreamConnection, ConnectionError> {
    let ChosenCluster { cluster, metrics } = chosen;
    let admission = cluster.admit_connection();
    let admission =
        admission.map_err(|at| ConnectionError::refused(at.error_type(), at.to_string()))?;
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
                    admission,
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
            ErrorType::NoEndpoints,
            format!("{} has no ready endpoints", cluster.name),
        ),
    })
}
