//! Connections to the pod: from proxies of the mesh by mutual TLS, from others in plain text where that is allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weft_accept::Place;
use weft_api::alpn;
use weft_ir::{Identity, Protocol};

use super::admits::Admits;
use super::opaque::Account;
use super::outbound::who_speaks_first;
use super::{Closed, Context, Listener, OUTSIDE_SILENCE};
use crate::batch::Gathered;
use crate::detect::{Guess, Prefixed, is_for_forward_proxy, offered};
use crate::http::bodies::{RequestState, Response};
use crate::http::errors::{Failure, ShortCircuit};
use crate::http::exchange::{Downstream, Exchange};
use crate::http::forward::receive;
use crate::http::serve::{Handler, ServerConfig, serve};
use crate::http::{headers, upgrade};
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::Direction;
use crate::tls::{handshake_failure, peer_identity, valid_for};
use crate::upstream::{Cluster, Endpoint, Transport, UpstreamRequest};

const NAME: &str = "inbound";
/// Why what is not encrypted is refused, as the metric says it.
const PLAIN_TEXT: &str = "plain_text";
/// Time for a ClientHello, and for the handshake after it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest wait for a request's head of a client outside the mesh.
const PATIENCE: Duration = Duration::from_secs(75);

/// Serves the listener until the drain begins.
pub async fn listen(context: Arc<Context>, listener: Listener) {
    super::accept(&context, &listener, NAME, |stream, client, app| {
        let task = context.clone();
        context.shutdown.spawn(async move {
            if let Err(closed) = connection(&task, stream, client, app).await {
                closed.report(&task, NAME, client);
            }
        });
    })
    .await;
}

async fn connection(
    context: &Arc<Context>,
    stream: TcpStream,
    client: SocketAddr,
    app: SocketAddr,
) -> Result<(), Closed> {
    if !context.upstream.is_for_pod(app.ip()) {
        // A neighbour on the same link can send a packet for anybody to this pod.
        let words = format!("{app} is no address of this pod");
        return Err(Closed::refused("not_redirected", words));
    }
    let place = context.inbound.enter(client.ip());
    let mut stream = Prefixed::new(stream);
    let admits = context.admits(app);
    let permissive = admits == Admits::All;
    let detected = tokio::select! {
        detected = begin(context, &mut stream, app, permissive) => detected,
        () = context.shutdown.draining() => return Ok(()),
        () = place.lost() => return Ok(()),
    };
    let (mut told, opened) = detected?;
    if told == Guess::Http1 && permissive && is_for_forward_proxy(stream.seen()) {
        // What the port is declared as is not known here.
        told = Guess::Opaque;
    }
    if told == Guess::Tls {
        let Some(is_mesh) = place
            .token()
            .run_until_cancelled(is_mesh(&mut stream))
            .await
        else {
            return Ok(());
        };
        if is_mesh? {
            return mesh(context, stream, client, app, place).await;
        }
    }
    drop(place);
    if stream.seen().is_empty() && !permissive {
        // Opened and closed again: nothing was said in plain text.
        return Ok(());
    }
    let may_be_probe = admits != Admits::Nothing && matches!(told, Guess::Http1 | Guess::Http2);
    if !permissive && !may_be_probe {
        return Err(Closed::refused(
            PLAIN_TEXT,
            Failure::PlainText(app).to_string(),
        ));
    }
    let tls = match told {
        Guess::Tls => ConnectionTls::Application,
        _ => ConnectionTls::None,
    };
    let _open = context.metrics.connection(Direction::Inbound, tls);
    match told {
        Guess::Http1 | Guess::Http2 => {
            let http2 = told == Guess::Http2;
            let framing = Framing::plain(http2);
            http(context, stream, client, app, None, framing, admits).await
        }
        Guess::Tls | Guess::Opaque | Guess::More => {
            let account = Account::inbound(context, client, told == Guess::Tls);
            bytes(context, stream, app, opened, account).await
        }
    }
}

/// What the connection speaks.
async fn begin(
    context: &Context,
    stream: &mut Prefixed<TcpStream>,
    app: SocketAddr,
    permissive: bool,
) -> Result<(Guess, Option<Prefixed<Transport>>), Closed> {
    if permissive {
        return who_speaks_first(stream, OUTSIDE_SILENCE, open(context, app), |opened| opened)
            .await;
    }
    let told = timeout(HANDSHAKE, stream.detect()).await;
    let told = told.map_err(|_| Closed::refused("silent", "nothing came within 10 s"))?;
    Ok((told?, None))
}

/// Passes bytes to and from the application. `opened`: the connection to it, when there is one already.
async fn bytes<S>(
    context: &Context,
    stream: S,
    app: SocketAddr,
    opened: Option<Prefixed<Transport>>,
    mut account: Account<'_>,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    account.endpoint = Some(app);
    let upstream = match opened {
        Some(opened) => Ok(opened),
        None => open(context, app).await,
    };
    let result = match upstream {
        Ok(upstream) => account.pass(stream, upstream).await,
        Err(closed) => Err(closed),
    };
    account.end(result)
}

async fn open(context: &Context, app: SocketAddr) -> Result<Prefixed<Transport>, Closed> {
    let endpoint = context.upstream.plaintext(app);
    let transport = context.upstream.connect(&endpoint, alpn::TCP).await?;
    Ok(Prefixed::new(transport))
}

/// Whether the ClientHello is one of a proxy; any other is the application's own.
async fn is_mesh(stream: &mut Prefixed<TcpStream>) -> Result<bool, Closed> {
    let complete = async {
        loop {
            match offered(stream.seen()) {
                Ok(Some(names)) => {
                    return Ok(names
                        .iter()
                        .any(|name| alpn::ALL.contains(&name.as_slice())));
                }
                // What is no ClientHello is left to the application to refuse.
                Err(_) => return Ok(false),
                Ok(None) if stream.look().await? == 0 => return Ok(false),
                Ok(None) => {}
            }
        }
    };
    timeout(HANDSHAKE, complete)
        .await
        .unwrap_or(Err(Closed::refused(
            "silent",
            "the ClientHello did not end within 10 s",
        )))
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

async fn mesh(
    context: &Arc<Context>,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    app: SocketAddr,
    place: Place,
) -> Result<(), Closed> {
    let acceptor = TlsAcceptor::from(context.tls.server_config());
    // In a box, which goes when the handshake is done, as the one of `EndpointRegistry::connect`.
    let accept = Box::pin(acceptor.accept(Gathered::new(stream)));
    let accepted = place
        .token()
        .run_until_cancelled(timeout(HANDSHAKE, accept));
    let Some(accepted) = accepted.await else {
        return Ok(());
    };
    drop(place);
    let Ok(accepted) = accepted else {
        context.metrics.handshake(Direction::Inbound, "timeout");
        return Err(Closed::refused("handshake", "no handshake within 10 s"));
    };
    let result = accepted.as_ref().map_or_else(handshake_failure, |_| "ok");
    context.metrics.handshake(Direction::Inbound, result);
    let refused = |error| Closed::refused("handshake", format!("mutual TLS: {error}"));
    // In a box, too: whoever it is handed to keeps room for it, down to where it is used.
    let stream = Box::new(accepted.map_err(refused)?);
    let session = stream.get_ref().1;
    let identity = peer_identity(session.peer_certificates())
        .map_err(|error| Closed::refused("identity", error.to_string()))?;
    let valid = valid_for(session.peer_certificates());
    let framing = match session.alpn_protocol() {
        Some(alpn::H2) => Some(Framing::plain(true)),
        Some(alpn::H1) => Some(Framing::plain(false)),
        Some(alpn::H2_FOR_H1) => Some(Framing {
            http2: true,
            app_http2: false,
        }),
        Some(alpn::TCP) => None,
        _ => {
            return Err(Closed::refused(
                "alpn",
                "no protocol of the mesh was agreed on",
            ));
        }
    };
    let _open = context
        .metrics
        .connection(Direction::Inbound, ConnectionTls::Mesh);
    match framing {
        Some(framing) => {
            let proven = Some((identity, valid));
            http(context, stream, client, app, proven, framing, Admits::All).await
        }
        None => {
            let mut account = Account::inbound(context, client, false);
            account.client_id = Some(Arc::new(identity));
            bytes(context, stream, app, None, account).await
        }
    }
}

async fn http<S>(
    context: &Arc<Context>,
    stream: S,
    client: SocketAddr,
    app: SocketAddr,
    proven: Option<(Identity, Duration)>,
    framing: Framing,
    admits: Admits,
) -> Result<(), Closed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (identity, valid) = proven.unzip();
    let cluster = Cluster::new(app.to_string().into(), context.upstream.clone());
    let endpoint = weft_ir::Endpoint {
        address: app,
        identity: None,
    };
    cluster.set_endpoints(Protocol::Detect, &[endpoint]);
    let config = ServerConfig {
        http2: framing.http2,
        header_timeout: identity.is_none().then_some(PATIENCE),
        idle: None,
        linger: None,
        error_details: true,
        half_close: context.half_close,
        answer_idle: None,
        external: identity.is_none(),
        certificate_lifetime: valid,
    };
    let (closing, _sends) = match identity.is_some() && framing.http2 {
        true => context.shutdown.closing_of_sender(),
        false => (context.shutdown.closing(), None),
    };
    let downstream = Arc::new(Downstream {
        context: context.clone(),
        direction: Direction::Inbound,
        address: client,
        identity: identity.map(Arc::new),
        closing: closing.clone(),
        client: None,
    });
    let handler = Arc::new(Inbound {
        downstream,
        cluster,
        app,
        app_http2: framing.app_http2,
        admits,
    });
    Ok(serve(stream, config, handler, &closing).await?)
}

/// One connection to the pod's application.
struct Inbound {
    downstream: Arc<Downstream>,
    /// The application alone.
    cluster: Arc<Cluster>,
    app: SocketAddr,
    app_http2: bool,
    admits: Admits,
}

impl Handler for Inbound {
    async fn handle(self: Arc<Self>, request: http::Request<Incoming>) -> Response {
        let exchange = Exchange::begin(
            &self.downstream,
            &request,
            &self.downstream.context.metrics.inbound,
        );
        let mut state = RequestState::new(exchange);
        let response = match self.forward(request, &mut state).await {
            Ok(response) => response,
            Err(ShortCircuit::Response(response)) => *response,
            Err(ShortCircuit::Failure(failure)) => {
                let to_proxy = self.downstream.identity.is_some();
                state.exchange.respond(&failure, to_proxy)
            }
        };
        state.attach(response)
    }

    fn is_busy(&self) -> bool {
        self.downstream.is_busy()
    }

    fn malformed_request(&self, error: &hyper::Error) {
        self.downstream.log_malformed(error);
    }

    fn count_protocol_error(&self, reason: &'static str) {
        self.downstream.context.metrics.protocol_error(NAME, reason);
    }
}

impl Inbound {
    /// Counts and logs a request that only a proxy of the mesh may make.
    fn refuse(&self) -> Failure {
        let failure = Failure::PlainText(self.app);
        let (context, client) = (&self.downstream.context, self.downstream.address);
        context.metrics.protocol_error(NAME, PLAIN_TEXT);
        tracing::info!(listener = NAME, %client, reason = PLAIN_TEXT, "request refused: {failure}");
        failure
    }

    async fn forward(
        &self,
        request: http::Request<Incoming>,
        state: &mut RequestState,
    ) -> Result<Response, ShortCircuit> {
        self.downstream.admit()?;
        let (mut head, body) = request.into_parts();
        let upgrade = headers::clean_request(&mut head)?;
        if !self.admits.request(&head, upgrade) {
            return Err(self.refuse().into());
        }
        let on_upgrade = upgrade.then(|| upgrade::take(&mut head));
        let version = if self.app_http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        headers::set_version(&mut head, version);
        let replay = &self.downstream.context.overload.replay;
        let request = UpstreamRequest::new(head, body, upgrade, self.app, replay);
        state.exchange.replay_buffer = Some(request.replay_buffer.clone());
        let seen = |endpoint: &Arc<Endpoint>| state.exchange.set_endpoint(endpoint);
        let upstream = self.cluster.send(request, seen).await?;
        upgrade::check(&upstream, upgrade)?;
        let mut response = receive(upstream, true, state)?;
        upgrade::finish(&mut response, on_upgrade, &self.downstream);
        Ok(response)
    }
}
