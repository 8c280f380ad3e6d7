//! HTTP/2: many requests at a time, each in a task of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use connection::{Connection, Requests};
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Handler, RESET_GRACE, ServeError, ServerConfig};
use super::{cancelled, cut, finish, finishing, idle};
use crate::drain::DrainWatch;
use crate::http::resets::ResetTracker;
use crate::net::cork::Corked;
use crate::net::io::ObservedReads;
use crate::net::ping::LastRead;
use crate::telemetry::error_type::ErrorType;
use crate::upstream::http2 as limits;
use crate::wire::MAX_HEAD;

mod connection;
mod stream;

/// Bytes of a request's head in HTTP/2. h2 answers what is beyond, without regard for gRPC: so
/// heads of up to twice the limit are taken, and answered as every failure is.
const MAX_HEADER_LIST: u32 = 2 * MAX_HEAD as u32;
const MAX_STREAMS: u32 = 200;
/// Bytes of a response that wait for a client outside the mesh to read its connection, whatever its
/// windows are.
const EXTERNAL_SEND_BUFFER: usize = 64 << 10;
/// Resets that a client may cause before the connection is closed for it.
const MAX_RESETS: usize = 64;
/// The time for a client to receive GOAWAY when its connection is evicted for another, which waits.
const EVICTION_GRACE: Duration = Duration::from_millis(10);
/// A silent client is noticed after interval and timeout together.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn serve<S, H>(
    stream: S,
    config: ServerConfig,
    handler: &Arc<H>,
    closing: &DrainWatch,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let requests = Arc::new(AtomicU64::new(0));
    let resets = Arc::new(ResetTracker::new());
    let too_many = Some(resets.too_many());
    let read = LastRead::new();
    let recorded = read.clone();
    let stream = ObservedReads::new(stream, move |_| recorded.record());
    let served = Requests {
        handler: handler.clone(),
        begun: config.idle.map(|_| requests.clone()),
        resets: resets.clone(),
        answer_idle: config.answer_idle,
    };
    let mut connection = Connection::new(&server(&config), Corked::new(stream), read, served);
    tokio::select! {
        // First: a request that is there already is begun before the connection is told to finish.
        biased;
        ended = &mut connection => return ended,
        () = cancelled(too_many) => {
            handler.count_protocol_error(ErrorType::ExcessiveResets);
            connection.graceful_shutdown();
            if !config.external {
                // The connection carries other clients' requests as well: those in flight go on.
                return finish(connection, cut(&**handler, closing)).await;
            }
            // The GOAWAY is all that the client is told.
            let _ = tokio::time::timeout(RESET_GRACE, connection).await;
            return Ok(());
        }
        () = cancelled(handler.evicted()) => {
            connection.graceful_shutdown();
            // Time for the client to receive the GOAWAY; a request that crosses with it is
            // answered.
            let heard = tokio::time::timeout(EVICTION_GRACE, &mut connection);
            if let Ok(ended) = heard.await {
                return ended;
            }
        }
        () = finishing(&**handler, &requests, &config, closing) => {
            connection.graceful_shutdown();
        }
    }
    tokio::select! {
        biased;
        ended = finish(connection, cut(&**handler, closing)) => ended,
        // Streams whose last bytes the client does not take would hold the connection open.
        () = idle(&**handler, &requests, config.idle) => Ok(()),
        () = cancelled(too_many), if config.external => {
            handler.count_protocol_error(ErrorType::ExcessiveResets);
            Ok(())
        }
    }
}

fn server(config: &ServerConfig) -> Builder {
    let send_buffer = match config.external {
        true => EXTERNAL_SEND_BUFFER,
        false => limits::SEND_BUFFER,
    };
    let mut server = Builder::new();
    server
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(send_buffer)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS);
    server
}
