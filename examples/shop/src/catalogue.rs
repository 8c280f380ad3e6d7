//! The catalogue: `/products/{id}` gets the text from the reviews over HTTP, and the stars over
//! gRPC.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint};

use crate::client::{Connections, HANDED_ON, HttpClient};
use crate::proto::reviews_client::ReviewsClient;
use crate::proto::{Review, ReviewRequest};
use crate::retry;
use crate::server::{self, Body};

#[derive(Args)]
pub(crate) struct Options {
    /// Port to serve HTTP on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The reviews' URL for HTTP.
    #[arg(long, env = "REVIEWS", default_value = "http://reviews")]
    reviews: String,
    /// The reviews' URL for gRPC.
    #[arg(long, env = "REVIEWS_GRPC", default_value = "http://reviews:9000")]
    reviews_grpc: String,
}

#[derive(Clone)]
struct Catalogue {
    http: HttpClient,
    reviews: String,
    grpc: ReviewsClient<Channel>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let listener = server::listen(options.port).await?;
    let channel = Endpoint::from_shared(options.reviews_grpc.clone())
        .with_context(|| format!("{} is not a URL", options.reviews_grpc))?
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(10))
        .connect_lazy();
    let catalogue = Catalogue {
        http: HttpClient::new(Connections::default()),
        reviews: options.reviews,
        grpc: ReviewsClient::new(channel),
    };
    server::serve(listener, move |request| catalogue.clone().answer(request)).await
}

impl Catalogue {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/healthz" {
            return server::json(
                StatusCode::OK,
                &json!({"app": "catalogue", "healthy": true}),
            );
        }
        let Some(id) = path.strip_prefix("/products/").filter(|id| !id.is_empty()) else {
            return server::json(
                StatusCode::NOT_FOUND,
                &json!({"app": "catalogue", "error": "there is /products/{id}"}),
            );
        };
        let id = id.to_owned();
        let headers = request.headers();
        match tokio::try_join!(self.texts(&id, headers), self.stars(&id, headers)) {
            Ok((reviews, stars)) => server::json(
                StatusCode::OK,
                &json!({
                    "app": "catalogue", "pod": server::pod_name(), "product": id, "reviews": reviews,
                    "stars": {"stars": stars.stars, "grpc_version": stars.version, "pod": stars.pod},
                }),
            ),
            Err(error) => server::json(
                StatusCode::BAD_GATEWAY,
                &json!({"app": "catalogue", "error": format!("{error:#}")}),
            ),
        }
    }

    async fn texts(&self, id: &str, headers: &HeaderMap) -> anyhow::Result<Value> {
        let url = format!("{}/reviews/{id}", self.reviews);
        let answer = self.http.get(&url, headers).await?;
        anyhow::ensure!(
            answer.status().is_success(),
            "{url} answered {}: {}",
            answer.status(),
            String::from_utf8_lossy(answer.body())
        );
        serde_json::from_slice(answer.body()).with_context(|| format!("{url} did not answer JSON"))
    }

    async fn stars(&self, id: &str, headers: &HeaderMap) -> anyhow::Result<Review> {
        let call = || {
            let mut request = tonic::Request::new(ReviewRequest {
                id: id.to_owned(),
                ..Default::default()
            });
            hand_on(headers, request.metadata_mut());
            let mut client = self.grpc.clone();
            async move { client.get(request).await }
        };
        let answer = retry::processed(call).await.context("shop.Reviews/Get")?;
        Ok(answer.into_inner())
    }
}

fn hand_on(headers: &HeaderMap, metadata: &mut MetadataMap) {
    for name in HANDED_ON {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            metadata.insert(MetadataKey::from_static(name), value);
        }
    }
}
