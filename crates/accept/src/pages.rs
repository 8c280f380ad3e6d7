//! Plain HTTP for scrapers and kubelets: one request per connection, and idle connections do not
//! block others.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use weft_process::Exposition;

use crate::{Bounds, Metrics, Place, Pool, Port, Protected, accept};

/// Timeout of a request's head.
const HEAD: Duration = Duration::from_secs(1);
/// Timeout of a whole connection.
const CONNECTION: Duration = Duration::from_secs(60);
const MAX_HEAD: usize = 16 << 10;

/// Limits of connections whose request has not arrived.
const WAITING: Bounds = Bounds {
    total: 256,
    per_source: 8,
    protected: 64,
};
/// Limits of connections whose request is being answered.
const ANSWERED: Bounds = Bounds {
    total: 128,
    per_source: 16,
    protected: 64,
};

/// Answers the requests of a port.
pub trait Pages: Clone + Send + Sync + 'static {
    /// Also answers requests for unknown paths.
    fn answer(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;

    /// Returns an error that names the available paths if the port does not have this one.
    fn has(&self, path: &str) -> Result<(), &'static str>;
}

/// Serves a port until dropped.
pub async fn serve<P: Pages>(
    listener: TcpListener,
    name: &'static str,
    metrics: &Metrics,
    protected: &Protected,
    pages: P,
) -> Infallible {
    let port = Port::new(name, metrics);
    let waiting = Pool::new(&port, WAITING, protected);
    let answered = Pool::new(&port, ANSWERED, protected);
    let take = |stream: TcpStream, client: SocketAddr| {
        let place = Arc::new(waiting.enter(client.ip()));
        let (pages, answered) = (pages.clone(), answered.clone());
        tokio::spawn(async move {
            let served = connection(stream, &place, answered, pages);
            tokio::select! {
                // Malformed requests and slow clients end here; there is nobody to report to.
                _ = tokio::time::timeout(CONNECTION, served) => {}
                () = place.lost() => {}
            }
        });
    };
    accept(&listener, &port, &[&waiting, &answered], take).await
}

async fn connection<P: Pages>(stream: TcpStream, place: &Arc<Place>, answered: Pool, pages: P) {
    let held = place.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        held.move_to(&answered);
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(respond(&pages, &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if served.is_err_and(|error| error.is_timeout()) {
        place.silent();
    }
}

async fn respond<P: Pages>(pages: &P, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if let Err(ours) = pages.has(path) {
        return text(StatusCode::NOT_FOUND, ours);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        let allow = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    pages.answer(path, request.headers()).await
}

/// `/metrics`.
#[derive(Clone, Debug)]
pub struct MetricsPage(pub Arc<Exposition>);

impl Pages for MetricsPage {
    fn has(&self, path: &str) -> Result<(), &'static str> {
        match path {
            "/metrics" => Ok(()),
            _ => Err("only /metrics is served here\n"),
        }
    }

    async fn answer(&self, _: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let accepted = headers.get_all(ACCEPT).iter();
        let accepted: Vec<&str> = accepted.filter_map(|value| value.to_str().ok()).collect();
        match self.0.scrape(&accepted.join(",")) {
            Ok((kind, page)) => {
                let mut response = text(StatusCode::OK, page);
                let kind = HeaderValue::from_static(kind);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to write the metrics: {error}\n"),
            ),
        }
    }
}

/// Returns a plain-text response.
pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
