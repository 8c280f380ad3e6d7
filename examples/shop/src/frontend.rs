//! The page of the shop: every path responds with the catalogue's product 1.

use clap::Args;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::client::{Connections, HttpClient};
use crate::server::{self, Body};

#[derive(Args)]
pub(crate) struct Options {
    /// Port to serve HTTP on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The catalogue's URL.
    #[arg(long, env = "CATALOGUE", default_value = "http://catalogue")]
    catalogue: String,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let listener = server::listen(options.port).await?;
    let client = HttpClient::new(Connections::default());
    let product = format!("{}/products/1", options.catalogue);
    server::serve(listener, move |request| {
        page(client.clone(), product.clone(), request)
    })
    .await
}

async fn page(client: HttpClient, product: String, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/healthz" {
        return server::json(StatusCode::OK, &json!({"app": "frontend", "healthy": true}));
    }
    match client.get(&product, request.headers()).await {
        Ok(answer) if answer.status().is_success() => {
            let catalogue: Value = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
            server::json(
                StatusCode::OK,
                &json!({"app": "frontend", "pod": server::pod_name(), "catalogue": catalogue}),
            )
        }
        Ok(answer) => failed(&format!(
            "the catalogue answered {}: {}",
            answer.status(),
            String::from_utf8_lossy(answer.body())
        )),
        Err(error) => failed(&format!("{error:#}")),
    }
}

fn failed(cause: &str) -> Response<Body> {
    server::json(
        StatusCode::BAD_GATEWAY,
        &json!({"app": "frontend", "error": cause}),
    )
}
