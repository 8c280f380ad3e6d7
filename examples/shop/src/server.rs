//! Serves HTTP/1.1 and HTTP/2 on one port, and drains on SIGTERM. The caller handles requests.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::Value;
use tokio::net::TcpListener;

/// The time limit for open requests after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// The body of every response.
pub(crate) type Body = Full<Bytes>;

/// Listens on all IPv6 and IPv4 addresses, or on IPv4 only if IPv6 is disabled.
pub(crate) async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    if let Ok(listener) = TcpListener::bind(any6).await {
        return Ok(listener);
    }
    TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        .await
        .with_context(|| format!("cannot listen on port {port}: is another program using it?"))
}

/// Serves requests until SIGTERM, then finishes those that are open.
pub(crate) async fn serve<F, R>(listener: TcpListener, answer: F) -> anyhow::Result<()>
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let stop = stopped();
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors, or the client has gone; the next accept may succeed.
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let head = request.method() == Method::HEAD;
            let response = answer(request);
            async move { Ok::<_, Infallible>(whole_or_head(response.await, head)) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection.into_owned());
        tokio::task::spawn(async move {
            // Connection errors are ignored.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

/// Resolves on SIGTERM.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            eprintln!("cannot wait for SIGTERM ({error}); waiting for ctrl-c only");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// Responses to HEAD have no body, only its length: over HTTP/2 hyper would send the body.
fn whole_or_head(mut response: Response<Body>, head: bool) -> Response<Body> {
    if head {
        let body = std::mem::take(response.body_mut());
        let length = body.size_hint().exact().map(http::HeaderValue::from);
        if let Some(length) = length {
            let headers = response.headers_mut();
            headers.insert(http::header::CONTENT_LENGTH, length);
        }
    }
    response
}

/// Returns a JSON response.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// Returns the name of this pod, for responses.
pub(crate) fn pod_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned())
}
