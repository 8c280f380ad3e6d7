//! Serves HTTP on an accepted connection, within limits, until it ends or the process does.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::delivery::{self, StreamExecutor};
use super::resets::ResetTracker;
use super::response_body::Response;
use super::unreadable::{ErrorRewriter, NOT_HTTP};
use super::watched::HalfCloseWatch;
use crate::drain::DrainWatch;
use crate::net::cork::Corked;
use crate::net::linger::Lingering;
use crate::upstream::http2 as limits;
use crate::wire::{MAX_FIELDS, MAX_HEAD};

/// Bytes of a request's head in HTTP/2. Beyond it h2 answers, and knows nothing of gRPC: so what is over the limit for
/// requests is taken up to twice of it, and answered as every failure is.
const MAX_HEADER_LIST: u32 = 2 * MAX_HEAD as u32;
const MAX_STREAMS: u32 = 200;
/// Bytes of an answer that wait for a client outside the mesh to read its connection, whatever its windows are.
const EXTERNAL_SEND_BUFFER: usize = 64 << 10;
/// Resets that a client may cause before the connection is closed for it.
const MAX_RESETS: usize = 64;
/// A client that is closed for its resets is told so within this.
const RESET_GRACE: Duration = Duration::from_millis(100);
/// The same for one that is closed for another: its place is waited for.
const EVICTION_GRACE: Duration = Duration::from_millis(10);
/// A silent client is noticed within interval and timeout together.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers the requests of one connection.
pub trait Handler: Send + Sync + 'static {
    fn handle(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> impl Future<Output = Response> + Send;

    /// Whether the answer to any request has not ended.
    fn is_busy(&self) -> bool;

    /// Is cancelled when the connection, which is idle, is to be closed for another one.
    fn evicted(&self) -> Option<&CancellationToken> {
        None
    }

    /// Tells of what came in the place of a request, and ended the connection.
    fn malformed_request(&self, error: &hyper::Error);

    /// Counts a connection that is closed for what its client does.
    fn count_protocol_error(&self, reason: &'static str);
}

/// How a connection is to be served.
#[derive(Clone, Copy)]
pub struct ServerConfig {
    pub http2: bool,
    /// The longest wait for a request's head, from the end of the one before.
    pub header_timeout: Option<Duration>,
    /// A connection without requests is told to go after this, or up to twice as long.
    pub idle: Option<Duration>,
    /// HTTP/1.1 can tell a client to go in an answer alone. A connection that is to finish waits so long for one more
    /// request: closed at once, it would cross with a request that is on its way.
    pub linger: Option<Duration>,
    /// Whether the client may read the words of a proxy.
    pub error_details: bool,
    /// How long an exchange of HTTP/1.1 may go on once its client has ended its side.
    pub half_close: Duration,
    /// How long the client may take nothing of an answer that is there.
    pub answer_idle: Option<Duration>,
    /// It is of a client outside the mesh.
    pub external: bool,
    /// How long the client's certificate is valid; the connection is told to go then.
    pub certificate_lifetime: Option<Duration>,
}

pub async fn serve<S, H>(
    stream: S,
    config: ServerConfig,
    handler: Arc<H>,
    closing: &DrainWatch,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let ended = delivery::scope(until_it_ends(stream, config, &handler, closing)).await;
    if let Err(error) = &ended
        && error.is_parse()
    {
        handler.malformed_request(error);
    }
    ended
}

async fn until_it_ends<S, H>(
    stream: S,
    config: ServerConfig,
    handler: &Arc<H>,
    closing: &DrainWatch,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let begun = Arc::new(AtomicU64::new(0));
    let counts = config.idle.is_some() || (config.error_details && !config.http2);
    let requests = counts.then(|| begun.clone());
    let finishing = Arc::new(AtomicBool::new(false));
    let last = config
        .linger
        .filter(|_| !config.http2)
        .map(|_| finishing.clone());
    let resets = config.http2.then(|| Arc::new(ResetTracker::new()));
    let counted = resets.clone();
    let too_many = resets.as_deref().map(ResetTracker::too_many);
    let serving = handler.clone();
    let service = service_fn(move |request| {
        if let Some(requests) = &requests {
            requests.fetch_add(1, Relaxed);
        }
        // In a box: started requests are moved about, and a pointer is moved faster.
        let answer = Box::pin(serving.clone().handle(request));
        let last = last.clone();
        let requests = requests.clone();
        let pending = counted.as_ref().map(ResetTracker::begin);
        async move {
            let mut answer = answer.await;
            if let Some(pending) = pending {
                pending.responded();
            }
            if let Some(requests) = requests
                && answer.status() == StatusCode::SWITCHING_PROTOCOLS
            {
                // What follows is no HTTP.
                requests.store(NOT_HTTP, Relaxed);
            }
            if last.is_some_and(|last| last.load(Relaxed)) {
                set_connection_close(&mut answer);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let ending = async {
        tokio::select! {
            () = closing.started() => {}
            () = idle(&**handler, &begun, config.idle) => {}
            () = certificate_expired(config.certificate_lifetime) => {}
        }
    };
    let evicted = handler.evicted();
    let mut over = pin!(async {
        tokio::select! {
            () = closing.deadline() => {}
            () = evicted_and_idle(&**handler, evicted) => {}
        }
    });
    let stream = Lingering::new(stream, closing.clone(), evicted.cloned());
    if config.http2 {
        let stream = TokioIo::new(Corked::new(stream));
        let connection = http2_server(&config).serve_connection(stream, service);
        let mut connection = pin!(connection);
        tokio::select! {
            // First: a request that is there already is begun before the connection is told to finish.
            biased;
            ended = connection.as_mut() => return ended,
            () = cancelled(too_many) => {
                handler.count_protocol_error("resets");
                connection.as_mut().graceful_shutdown();
                if !config.external {
                    // Others' requests are on it as well: they go on, on no more streams than there are.
                    return finish(connection, over).await;
                }
                // What it says with that is all that the client is told.
                let _ = tokio::time::timeout(RESET_GRACE, connection).await;
                return Ok(());
            }
            () = cancelled(evicted) => {
                connection.as_mut().graceful_shutdown();
                // Time for the client to hear of it; a request that crosses with it is answered.
                let heard = tokio::time::timeout(EVICTION_GRACE, connection.as_mut());
                if let Ok(ended) = heard.await {
                    return ended;
                }
            }
            () = ending => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            biased;
            ended = finish(connection, over) => ended,
            // Streams whose last bytes the client does not take would hold it.
            () = idle(&**handler, &begun, config.idle) => Ok(()),
            () = cancelled(too_many), if config.external => {
                handler.count_protocol_error("resets");
                Ok(())
            }
        }
    } else {
        let handler_ref = handler.clone();
        let busy = move || handler_ref.is_busy();
        let stream = HalfCloseWatch::new(stream, config.half_close, config.answer_idle, busy);
        let handler_ref = handler.clone();
        let error_details = config.error_details;
        let stream = ErrorRewriter::new(stream, begun.clone(), move || {
            !error_details || handler_ref.is_busy()
        });
        let connection = http1_server(config.header_timeout)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            // First: a request that is there already is begun before the connection is told to finish.
            biased;
            ended = connection.as_mut() => return ended,
            () = cancelled(evicted) => finishing.store(true, Relaxed),
            () = ending => finishing.store(true, Relaxed),
        }
        if let Some(linger) = config.linger {
            tokio::select! {
                biased;
                ended = finish(connection.as_mut(), over.as_mut()) => return ended,
                () = tokio::time::sleep(linger) => {}
            }
        }
        connection.as_mut().graceful_shutdown();
        finish(connection, over).await
    }
}

/// The rest of a connection that was told to finish; one that does not is cut when its time is over.
async fn finish(
    connection: impl Future<Output = hyper::Result<()>>,
    over: impl Future<Output = ()>,
) -> hyper::Result<()> {
    tokio::select! {
        biased;
        ended = connection => ended,
        () = over => Ok(()),
    }
}

/// The connection ends with this answer, unless it becomes something else with it.
fn set_connection_close(answer: &mut Response) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

async fn certificate_expired(certificate_lifetime: Option<Duration>) {
    match certificate_lifetime {
        Some(lifetime) => tokio::time::sleep(lifetime).await,
        None => std::future::pending().await,
    }
}

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Resolves once the connection was evicted, and no request that came at the same time is under way.
async fn evicted_and_idle<H: Handler>(handler: &H, evicted: Option<&CancellationToken>) {
    cancelled(evicted).await;
    while handler.is_busy() {
        tokio::time::sleep(RESET_GRACE).await;
    }
}

/// Resolves once no request was begun for `limit`, and none is under way.
async fn idle<H: Handler>(handler: &H, begun: &AtomicU64, limit: Option<Duration>) {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let mut before = begun.load(Relaxed);
    loop {
        tokio::time::sleep(limit).await;
        let now = begun.load(Relaxed);
        if now == before && !handler.is_busy() {
            return;
        }
        before = now;
    }
}

fn http1_server(header_timeout: Option<Duration>) -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .half_close(true)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        .auto_date_header(false);
    server
}

fn http2_server(config: &ServerConfig) -> http2::Builder<StreamExecutor> {
    let mut server = http2::Builder::new(StreamExecutor {
        idle: config.answer_idle,
    });
    let send_buffer = match config.external {
        true => EXTERNAL_SEND_BUFFER,
        false => limits::SEND_BUFFER,
    };
    server
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(send_buffer)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .auto_date_header(false);
    server
}
