//! The reviews over HTTP and gRPC. Responses contain the version, the pod and the received request,
//! so that changes made on its way are visible.
//!
//! HTTP: `/reviews/{id}`, and for tests `/status/{code}` and `/delay/{milliseconds}`; other paths
//! are 404. gRPC: for tests the metadata `x-delay`, milliseconds before the response.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use futures::Stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::proto::reviews_server::{Reviews, ReviewsServer};
use crate::proto::{Review, ReviewRequest};
use crate::server::{self, Body};
use crate::tcp;

/// Limits of the delay and of the number of messages that clients may request.
const MAX_DELAY: Duration = Duration::from_secs(60);
const MAX_MESSAGES: u32 = 10_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Version to report in responses.
    #[arg(long = "version", env = "VERSION", default_value = "v1")]
    version: String,
    /// Port to serve HTTP on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Port to serve gRPC on.
    #[arg(long, default_value_t = 9000)]
    grpc_port: u16,
    /// Port of the TCP echo.
    #[arg(long)]
    echo_port: Option<u16>,
    /// Respond to every request for reviews with status 503, and over gRPC with UNAVAILABLE, for
    /// tests.
    #[arg(long)]
    failing: bool,
    /// Port on which the server speaks first, like an SMTP server.
    #[arg(long)]
    greet_port: Option<u16>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    if let Some(port) = options.echo_port {
        tokio::spawn(tcp::echo(server::listen(port).await?));
    }
    if let Some(port) = options.greet_port {
        let greeting = format!("220 reviews {}\r\n", options.version);
        tokio::spawn(tcp::greet(server::listen(port).await?, greeting));
    }
    let http = server::listen(options.port).await?;
    let grpc = server::listen(options.grpc_port).await?;
    let version = options.version.clone();
    tokio::try_join!(
        server::serve(http, move |request| {
            answer(version.clone(), options.failing, request)
        }),
        serve_grpc(
            grpc,
            Shelf {
                version: options.version.clone(),
                failing: options.failing,
            }
        ),
    )?;
    Ok(())
}

async fn serve_grpc(listener: tokio::net::TcpListener, shelf: Shelf) -> anyhow::Result<()> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .add_service(ReviewsServer::new(shelf))
        .serve_with_incoming_shutdown(incoming, server::stopped())
        .await?;
    Ok(())
}

async fn answer(version: String, failing: bool, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    // The body is read completely, so that clients can send all of it.
    let mut body = body;
    let mut received = 0;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, bytes::Buf::remaining);
    }
    let status = match path.trim_start_matches('/').split_once('/') {
        Some(("reviews", id)) if !id.is_empty() => match failing {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        },
        Some(("status", code)) => code.parse().unwrap_or(StatusCode::BAD_REQUEST),
        Some(("delay", millis)) => match millis.parse().map(Duration::from_millis) {
            Ok(delay) => {
                tokio::time::sleep(delay.min(MAX_DELAY)).await;
                StatusCode::OK
            }
            Err(_) => StatusCode::BAD_REQUEST,
        },
        _ if path == "/healthz" || path == "/reviews" => StatusCode::OK,
        _ => StatusCode::NOT_FOUND,
    };
    let authority = parts.uri.authority().map(ToString::to_string);
    let mut answer = json!({
        "app": "reviews", "version": version, "pod": server::pod_name(),
        "method": parts.method.as_str(), "path": path, "query": parts.uri.query(),
        "authority": authority, "protocol": format!("{:?}", parts.version),
        "headers": text_headers(&parts.headers), "bytes_received": received,
    });
    if status == StatusCode::OK
        && let Some(fields) = answer.as_object_mut()
    {
        fields.insert("stars".to_owned(), stars(&version).into());
    }
    server::json(status, &answer)
}

/// Returns the headers as text; multiple values of a name are joined by commas.
fn text_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        texts
            .entry(name.to_string())
            .and_modify(|text| {
                text.push(',');
                text.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    texts
}

/// Version 1 has no stars; later ones do.
fn stars(version: &str) -> u32 {
    if version == "v1" { 0 } else { 5 }
}

struct Shelf {
    version: String,
    failing: bool,
}

impl Shelf {
    fn review(&self, id: String, metadata: &MetadataMap) -> Review {
        Review {
            id,
            version: self.version.clone(),
            pod: server::pod_name(),
            stars: stars(&self.version),
            metadata: text_metadata(metadata),
        }
    }
}

/// Waits for the delay that the client requested.
async fn delay(metadata: &MetadataMap) {
    let asked = metadata
        .get("x-delay")
        .and_then(|value| value.to_str().ok());
    if let Some(Ok(millis)) = asked.map(str::parse) {
        tokio::time::sleep(Duration::from_millis(millis).min(MAX_DELAY)).await;
    }
}

fn text_metadata(metadata: &MetadataMap) -> HashMap<String, String> {
    let text = |entry| match entry {
        KeyAndValueRef::Ascii(key, value) => {
            Some((key.to_string(), value.to_str().ok()?.to_owned()))
        }
        KeyAndValueRef::Binary(..) => None,
    };
    metadata.iter().filter_map(text).collect()
}

#[tonic::async_trait]
impl Reviews for Shelf {
    async fn get(
        &self,
        request: tonic::Request<ReviewRequest>,
    ) -> Result<tonic::Response<Review>, Status> {
        let (metadata, _, message) = request.into_parts();
        delay(&metadata).await;
        if self.failing {
            return Err(Status::unavailable("failing"));
        }
        Ok(tonic::Response::new(self.review(message.id, &metadata)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<Review, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<ReviewRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let (metadata, _, message) = request.into_parts();
        delay(&metadata).await;
        if message.count > MAX_MESSAGES {
            return Err(Status::invalid_argument(format!(
                "count is at most {MAX_MESSAGES}"
            )));
        }
        let count = message.count.max(1) as usize;
        let pause = Duration::from_millis(message.interval_ms.into()).min(MAX_DELAY);
        let review = self.review(message.id, &metadata);
        let reviews = tokio_stream::iter(0..count).then(move |place| {
            let review = review.clone();
            async move {
                if place > 0 {
                    tokio::time::sleep(pause).await;
                }
                Ok(review)
            }
        });
        Ok(tonic::Response::new(Box::pin(reviews)))
    }
}
