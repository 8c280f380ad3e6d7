//! The HTTP client of the shop, and the headers that it propagates from incoming requests.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::retry;

/// Headers that select a version or correlate requests; every program of the shop propagates them.
pub(crate) const HANDED_ON: [&str; 5] = [
    "x-version",
    "end-user",
    "x-request-id",
    "traceparent",
    "tracestate",
];

/// The limit of response bodies.
const BODY_LIMIT: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct HttpClient(Client<HttpConnector, Full<Bytes>>);

/// How connections are opened.
#[derive(Clone, Copy, Default)]
pub(crate) struct Connections {
    /// HTTP/2 without TLS, with prior knowledge.
    pub(crate) http2: bool,
    /// A new connection for each request.
    pub(crate) fresh: bool,
}

impl HttpClient {
    pub(crate) fn new(connections: Connections) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(connections.http2);
        if connections.fresh {
            builder.pool_max_idle_per_host(0);
        }
        Self(builder.build(connector))
    }

    /// Sends a request and reads the complete response within `limit`.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> anyhow::Result<Response<Bytes>> {
        let exchange = async {
            let send = || self.0.request(request.clone());
            let (parts, body) = retry::processed(send).await?.into_parts();
            let body = Limited::new(body, BODY_LIMIT)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("the body broke off: {error}"))?;
            Ok::<_, anyhow::Error>(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(limit, exchange)
            .await
            .with_context(|| format!("no answer within {limit:?}"))?
    }

    /// Sends a GET with the headers propagated from `incoming`.
    pub(crate) async fn get(
        &self,
        url: &str,
        incoming: &HeaderMap,
    ) -> anyhow::Result<Response<Bytes>> {
        let mut request = Request::get(url)
            .body(Full::default())
            .with_context(|| format!("{url} is not a URL"))?;
        hand_on(incoming, request.headers_mut());
        self.send(request, Duration::from_secs(10))
            .await
            .with_context(|| format!("GET {url}"))
    }
}

pub(crate) fn hand_on(from: &HeaderMap, to: &mut HeaderMap) {
    for name in HANDED_ON {
        if let Some(value) = from.get(name) {
            to.insert(name, value.clone());
        }
    }
}
