//! Connections to the pod: from proxies of the mesh by mutual TLS, from others in plain text where
//! that is allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forward::Inbound;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::alpn;
use weft_ir::{Identity, ProbeRequest, Protocol};

use super::l4::ConnectionRecorder;
use super::outbound::who_speaks_first;
use super::plaintext_policy::{PlaintextPolicy, probes};
use super::{ConnectionError, INBOUND_SERVER_FIRST_DELAY, Listener};
use crate::authorization::ClientPolicies;
use crate::http::errors::Failure;
use crate::http::exchange::Downstream;
use crate::http::runtime::Runtime;
use crate::http::serve::{ServerConfig, serve};
use crate::lease::Owner;
use crate::net::detect::{Detected, Prefixed, is_for_forward_proxy};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{ConnectionTls, Direction};
use crate::upstream::{Cluster, Transport};

mod forward;
mod mesh;

const NAME: &str = "inbound";
/// Time for a ClientHello, and for the handshake after it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for a request's head of a client outside the mesh.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves the listener until the drain begins.
pub async fn listen(runtime: Arc<Runtime>, listener: Listener) {
    super::accept::accept(&runtime, &listener, NAME, |stream, client, app| {
        let task = runtime.clone();
        runtime.shutdown.spawn(async move {
            if let Err(error) = connection(&task, stream, client, app).await {
                error.report(&task, NAME, client);
            }
        });
    })
    .await;
}

async fn connection(
    runtime: &Arc<Runtime>,
    stream: TcpStream,
    client: SocketAddr,
    app: SocketAddr,
) -> Result<(), ConnectionError> {
    if !runtime.upstream.is_for_pod(app.ip()) {
        // A neighbour on the same link can send a packet for anybody to this pod.
        let words = format!("{app} is no address of this pod");
        return Err(ConnectionError::refused(ErrorType::NotRedirected, words));
    }
    let place = runtime.inbound.enter(client.ip());
    let mut stream = Prefixed::new(stream);
    let plaintext_policy = PlaintextPolicy::of(runtime.store.workload().as_deref(), app);
    let permissive = plaintext_policy == PlaintextPolicy::All;
    let detected = tokio::select! {
        detected = detect(runtime, &mut stream, app, permissive) => detected,
        () = runtime.shutdown.draining() => return Ok(()),
        () = place.lost() => return Ok(()),
    };
    let (mut protocol, opened) = detected?;
    if protocol == Detected::Http1 && permissive && is_for_forward_proxy(stream.peeked()) {
        // The port's declared protocol is not known here.
        protocol = Detected::Opaque;
    }
    if protocol == Detected::Tls {
        let Some(is_mesh) = place
            .token()
            .run_until_cancelled(mesh::is_mesh(&mut stream))
            .await
        else {
            return Ok(());
        };
        if is_mesh? {
            return mesh::serve(runtime, stream, client, app, place).await;
        }
    }
    drop(place);
    if stream.peeked().is_empty() && !permissive {
        // Opened and closed again: nothing was said in plain text.
        return Ok(());
    }
    let may_be_probe = plaintext_policy != PlaintextPolicy::Nothing
        && matches!(protocol, Detected::Http1 | Detected::Http2);
    if !permissive && !may_be_probe {
        return Err(ConnectionError::refused(
            ErrorType::PlaintextRefused,
            Failure::PlainText(app).to_string(),
        ));
    }
    let tls = match protocol {
        Detected::Tls => ConnectionTls::Application,
        _ => ConnectionTls::None,
    };
    let _open = runtime.metrics.connection(Direction::Inbound, tls);
    match protocol {
        Detected::Http1 | Detected::Http2 => {
            let accepted = Accepted {
                client,
                app,
                proven: None,
                framing: Framing::plain(protocol == Detected::Http2),
                plaintext_policy,
                probes: probes(runtime.store.workload().as_deref(), app),
            };
            http(runtime, stream, accepted).await
        }
        Detected::Tls | Detected::Opaque | Detected::Incomplete => {
            let recorder = ConnectionRecorder::inbound(runtime, client, protocol == Detected::Tls);
            forward_bytes(runtime, stream, app, opened, recorder).await
        }
    }
}

/// Detects what the connection speaks.
async fn detect(
    runtime: &Runtime,
    stream: &mut Prefixed<TcpStream>,
    app: SocketAddr,
    permissive: bool,
) -> Result<(Detected, Option<Prefixed<Transport>>), ConnectionError> {
    if permissive {
        return who_speaks_first(
            stream,
            INBOUND_SERVER_FIRST_DELAY,
            connect_app(runtime, app),
            |opened| opened,
        )
        .await;
    }
    let protocol = timeout(HANDSHAKE_TIMEOUT, stream.detect()).await;
    let protocol = protocol.map_err(|_| {
        ConnectionError::refused(ErrorType::DetectTimeout, "nothing came within 10 s")
    })?;
    Ok((protocol?, None))
}

/// Forwards bytes to and from the application, if policies permit the client. `opened`: the
/// connection to the application, if there is one already.
async fn forward_bytes<S>(
    runtime: &Runtime,
    stream: S,
    app: SocketAddr,
    opened: Option<Prefixed<Transport>>,
    mut recorder: ConnectionRecorder<'_>,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let policies = runtime.store.policies();
    let (client, identity) = (recorder.client.ip(), recorder.client_id.clone());
    let permit = ClientPolicies::new(policies, identity, client, app.port()).bytes();
    if let Err(denied) = recorder.set_permit(permit) {
        return recorder.finish(Err(denied));
    }
    recorder.endpoint = Some(app);
    let upstream = match opened {
        Some(opened) => Ok(opened),
        None => connect_app(runtime, app).await,
    };
    let result = match upstream {
        Ok(upstream) => recorder.pass(stream, upstream).await,
        Err(error) => Err(error),
    };
    recorder.finish(result)
}

async fn connect_app(
    runtime: &Runtime,
    app: SocketAddr,
) -> Result<Prefixed<Transport>, ConnectionError> {
    let endpoint = runtime.upstream.plaintext(app);
    let transport = runtime.upstream.connect(&endpoint, alpn::TCP).await?;
    Ok(Prefixed::new(transport))
}

/// How HTTP comes, and how the application gets it.
#[derive(Clone, Copy)]
struct Framing {
    http2: bool,
    app_http2: bool,
}

impl Framing {
    fn plain(http2: bool) -> Self {
        Self {
            http2,
            app_http2: http2,
        }
    }
}

/// What is known of a connection that carries HTTP.
struct Accepted {
    client: SocketAddr,
    app: SocketAddr,
    /// The client's identity, and how long its certificate is valid.
    proven: Option<(Identity, Duration)>,
    framing: Framing,
    plaintext_policy: PlaintextPolicy,
    /// On which no policy decides.
    probes: Vec<ProbeRequest>,
}

async fn http<S>(
    runtime: &Arc<Runtime>,
    stream: S,
    accepted: Accepted,
) -> Result<(), ConnectionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Accepted {
        client,
        app,
        proven,
        framing,
        plaintext_policy,
        probes,
    } = accepted;
    let (identity, valid) = proven.unzip();
    let cluster = Cluster::new(app.to_string().into(), runtime.upstream.clone());
    let endpoint = weft_ir::Endpoint {
        address: app,
        identity: None,
    };
    cluster.set_endpoints(Protocol::Detect, &[endpoint]);
    let config = ServerConfig {
        http2: framing.http2,
        header_timeout: identity.is_none().then_some(HEADER_TIMEOUT),
        idle: None,
        linger: None,
        error_details: true,
        half_close: runtime.half_close,
        answer_idle: None,
        external: identity.is_none(),
        certificate_lifetime: valid,
    };
    let (closing, _sends) = match identity.is_some() && framing.http2 {
        true => runtime.shutdown.watch_for_peer(),
        false => (runtime.shutdown.watch(), None),
    };
    let downstream = Owner::new(Downstream {
        runtime: runtime.clone(),
        direction: Direction::Inbound,
        address: client,
        identity: identity.map(Arc::new),
        closing: closing.clone(),
        client: None,
    });
    let policies = runtime.store.policies();
    let identity = downstream.identity.clone();
    let handler = Arc::new(Inbound {
        downstream,
        cluster,
        app,
        app_http2: framing.app_http2,
        plaintext_policy,
        probes,
        policies: ClientPolicies::new(policies, identity, client.ip(), app.port()),
    });
    Ok(serve(stream, config, handler, &closing).await?)
}
