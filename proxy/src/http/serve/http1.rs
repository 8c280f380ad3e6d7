//! HTTP/1.1: one request after the other, and the client learns from a response alone that it is
//! the last.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Handler, ServerConfig, cancelled, cut, finish, finishing};
use crate::drain::DrainWatch;
use crate::http::delivery;
use crate::http::interim_writer::InterimWriter;
use crate::http::response_body::Response;
use crate::http::unreadable::{ErrorRewriter, NOT_HTTP};
use crate::http::watched::HalfCloseWatch;
use crate::wire::{MAX_HEAD, MAX_REQUEST_FIELDS};

pub(super) async fn serve<S, H>(
    stream: S,
    config: ServerConfig,
    handler: &Arc<H>,
    closing: &DrainWatch,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let requests = Arc::new(AtomicU64::new(0));
    let counts = config.idle.is_some() || config.error_details;
    let counted = counts.then(|| requests.clone());
    let leaving = Arc::new(AtomicBool::new(false));
    let last = config.linger.map(|_| leaving.clone());
    let serving = handler.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        if let Some(counted) = &counted {
            counted.fetch_add(1, Relaxed);
        }
        // Boxed: hyper moves started requests about, and a pointer is moved faster.
        let response = Box::pin(serving.clone().handle(request.map(Into::into)));
        let (last, counted) = (last.clone(), counted.clone());
        async move {
            let mut response = response.await;
            poll_fn(|_| delivery::informational_sent()).await;
            if let Some(counted) = counted
                && response.status() == StatusCode::SWITCHING_PROTOCOLS
            {
                // What follows is no HTTP.
                counted.store(NOT_HTTP, Relaxed);
            }
            if last.is_some_and(|last| last.load(Relaxed)) {
                set_connection_close(&mut response);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let (busy, responding) = (handler.clone(), handler.clone());
    let busy = move || busy.is_busy();
    let stream = HalfCloseWatch::new(stream, config.half_close, config.answer_idle, busy);
    let details = config.error_details;
    let keep_errors = move || !details || responding.is_busy();
    let stream = ErrorRewriter::new(stream, requests.clone(), keep_errors);
    let stream = InterimWriter::new(stream);
    let connection = server(config.header_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        // First: a request that is there already is begun before the connection is told to finish.
        biased;
        ended = connection.as_mut() => return ended,
        () = cancelled(handler.evicted()) => leaving.store(true, Relaxed),
        () = finishing(&**handler, &requests, &config, closing) => leaving.store(true, Relaxed),
    }
    let mut cut = pin!(cut(&**handler, closing));
    if let Some(linger) = config.linger {
        tokio::select! {
            biased;
            ended = finish(connection.as_mut(), cut.as_mut()) => return ended,
            () = tokio::time::sleep(linger) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    finish(connection, cut).await
}

/// Announces that the connection ends with this response, unless the response upgrades it.
fn set_connection_close(answer: &mut Response) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn server(header_timeout: Option<Duration>) -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .half_close(true)
        .max_headers(MAX_REQUEST_FIELDS)
        .max_buf_size(MAX_HEAD)
        .auto_date_header(false);
    server
}
