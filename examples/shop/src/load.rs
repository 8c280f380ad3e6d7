//! A load generator: sends a number of requests, for a duration, or until it is stopped, and prints
//! a summary as one line of JSON. Requests that were started are always completed.
//!
//! With a rate, requests are started when due, regardless of earlier ones, up to the concurrency
//! limit; a request that exceeds the limit is delayed, not dropped.

use std::collections::BTreeMap;
use std::io::Read;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::client::{Connections, HttpClient};
use crate::proto::ReviewRequest;
use crate::proto::reviews_client::ReviewsClient;
use crate::retry;
use crate::server;

#[derive(Args)]
pub(crate) struct Options {
    /// URL to send to; gRPC uses only its scheme, host and port.
    #[arg(long)]
    url: Uri,
    /// Header `name: value`; can be given several times.
    #[arg(long = "header", short = 'H', value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Size of a header `x-long` in bytes.
    #[arg(long)]
    long: Option<usize>,
    /// HTTP method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Size of the request body in bytes.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Use gRPC and call this method of shop.Reviews.
    #[arg(long)]
    grpc: Option<Rpc>,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// A new connection for each HTTP request.
    #[arg(long)]
    fresh: bool,
    /// Maximum number of requests; exact if there is no duration.
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// Stop after this many seconds, even if the count is not reached.
    #[arg(long)]
    seconds: Option<f64>,
    /// Stop when a byte arrives on standard input.
    #[arg(long)]
    until_stdin: bool,
    /// Maximum number of concurrent requests.
    #[arg(long, short = 'c', default_value_t = 1)]
    concurrency: u32,
    /// Requests started per second in total; without it, as fast as possible.
    #[arg(long)]
    rate: Option<f64>,
    /// Timeout of a request in seconds.
    #[arg(long, default_value_t = 15.0)]
    timeout: f64,
    /// List responses that took longer than this many seconds under `problems`, like failed
    /// requests.
    #[arg(long, default_value_t = 1.0)]
    slow: f64,
    /// Print this many responses in full.
    #[arg(long, default_value_t = 1)]
    keep: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rpc {
    Get,
    Watch,
}

fn parse_header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is `name: value`")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

/// The result of a request.
#[derive(Serialize)]
struct LoadResponse {
    /// The HTTP status, or `OK`, `Unavailable` and so on for gRPC; `error` without a response.
    code: String,
    failed: bool,
    version: Option<String>,
    headers: BTreeMap<String, String>,
    body: Value,
    error: Option<String>,
    millis: u128,
}

/// A request that failed or was slow.
#[derive(Serialize)]
struct Problem {
    /// The start of the request, in milliseconds since 1970.
    at: u128,
    millis: u128,
    code: String,
    error: Option<String>,
}

/// Maximum number of listed failures; the others are only counted.
const MAX_PROBLEMS: usize = 1_000;

#[derive(Default, Serialize)]
struct Summary {
    /// Requests that were due, by rate and duration, or by count.
    due: u64,
    sent: u64,
    /// No response, a status of 400 or above, or a gRPC status other than OK.
    failed: u64,
    codes: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    /// Number of failures by cause.
    errors: BTreeMap<String, u64>,
    problems: Vec<Problem>,
    /// The first responses.
    responses: Vec<LoadResponse>,
}

/// Exits with 1 if a request failed.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let client = Sender::new(&options)?;
    let summary = Mutex::new(Summary::default());
    let started = AtomicU64::new(0);
    let (stop, stopping) = watch::channel(false);
    let start = Instant::now();
    let worker = || {
        work(
            &options,
            &client,
            &summary,
            &started,
            start,
            stopping.clone(),
        )
    };
    let workers = (0..options.concurrency.clamp(1, 256)).map(|_| worker());
    let mut workers = pin!(futures::future::join_all(workers));
    tokio::select! {
        _ = workers.as_mut() => {}
        () = stopped(options.until_stdin) => {}
    }
    let elapsed = start.elapsed();
    stop.send_replace(true);
    workers.await;
    let mut summary = std::mem::take(&mut *summary.lock().await);
    summary.due = options.due(elapsed);
    println!("{}", serde_json::to_string(&summary)?);
    if summary.failed > 0 {
        // Not an error of this program: the summary contains the details.
        std::process::exit(1);
    }
    Ok(())
}

impl Options {
    /// The limit of the run.
    fn length(&self) -> Option<Duration> {
        let seconds = self.seconds?.clamp(0.0, 3600.0);
        Some(Duration::from_secs_f64(seconds))
    }

    /// Returns the headers of each request.
    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut headers: HeaderMap = self.headers.iter().cloned().collect();
        if let Some(length) = self.long {
            headers.insert("x-long", "x".repeat(length.min(1 << 20)).parse()?);
        }
        Ok(headers)
    }

    /// Returns the number of requests that were due after this time.
    fn due(&self, elapsed: Duration) -> u64 {
        let elapsed = self.length().map_or(elapsed, |length| elapsed.min(length));
        let by_rate = self.rate.filter(|rate| *rate > 0.0);
        let by_rate = by_rate.map(|rate| (elapsed.as_secs_f64() * rate) as u64);
        by_rate.map_or(self.count, |due| due.min(self.count))
    }
}

/// Resolves on SIGTERM, or, if enabled, when a byte arrives on standard input.
async fn stopped(until_stdin: bool) {
    let (sender, received) = oneshot::channel();
    if until_stdin {
        // In a detached thread, so that a pending read does not delay the exit.
        std::thread::spawn(move || {
            if std::io::stdin().read(&mut [0]).is_ok() {
                let _ = sender.send(());
            }
        });
    }
    let received = async {
        if received.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = server::stopped() => {}
        () = received => {}
    }
}

async fn work(
    options: &Options,
    client: &Sender,
    summary: &Mutex<Summary>,
    started: &AtomicU64,
    start: Instant,
    mut stopping: watch::Receiver<bool>,
) {
    let end = options.length().map(|length| start + length);
    loop {
        let place = started.fetch_add(1, Ordering::Relaxed);
        if place >= options.count {
            return;
        }
        if let Some(rate) = options.rate.filter(|rate| *rate > 0.0) {
            let due = start + Duration::from_secs_f64(place as f64 / rate);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
        if *stopping.borrow() || end.is_some_and(|end| Instant::now() >= end) {
            return;
        }
        let at = SystemTime::now();
        let answer = client.send(options).await;
        summary.lock().await.add(answer, at, options);
    }
}

impl Summary {
    fn add(&mut self, answer: LoadResponse, at: SystemTime, options: &Options) {
        self.sent += 1;
        self.failed += u64::from(answer.failed);
        *self.codes.entry(answer.code.clone()).or_default() += 1;
        if let Some(version) = &answer.version {
            *self.versions.entry(version.clone()).or_default() += 1;
        }
        if let Some(error) = &answer.error {
            *self.errors.entry(error.clone()).or_default() += 1;
        }
        let slow = answer.millis as f64 > options.slow * 1_000.0;
        if (answer.failed || slow) && self.problems.len() < MAX_PROBLEMS {
            let at = at.duration_since(SystemTime::UNIX_EPOCH);
            self.problems.push(Problem {
                at: at.map_or(0, |at| at.as_millis()),
                millis: answer.millis,
                code: answer.code.clone(),
                error: answer.error.clone(),
            });
        }
        if self.responses.len() < options.keep {
            self.responses.push(answer);
        }
    }
}

enum Sender {
    Http(HttpClient),
    Grpc(ReviewsClient<Channel>, Rpc),
}

impl Sender {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let Some(rpc) = options.grpc else {
            let connections = Connections {
                http2: options.http2,
                fresh: options.fresh,
            };
            return Ok(Self::Http(HttpClient::new(connections)));
        };
        let channel = Endpoint::from(options.url.clone())
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        Ok(Self::Grpc(ReviewsClient::new(channel), rpc))
    }

    async fn send(&self, options: &Options) -> LoadResponse {
        let start = Instant::now();
        let mut answer = match self {
            Self::Http(client) => send_http(client, options).await,
            Self::Grpc(client, rpc) => send_grpc(client.clone(), *rpc, options).await,
        }
        .unwrap_or_else(|error| LoadResponse {
            code: "error".to_owned(),
            failed: true,
            version: None,
            headers: BTreeMap::new(),
            body: Value::Null,
            error: Some(format!("{error:#}")),
            millis: 0,
        });
        answer.millis = start.elapsed().as_millis();
        answer
    }
}

fn limit(options: &Options) -> Duration {
    Duration::from_secs_f64(options.timeout.clamp(0.001, 600.0))
}

async fn send_http(client: &HttpClient, options: &Options) -> anyhow::Result<LoadResponse> {
    let mut request = Request::new(Full::from(Bytes::from(vec![
        b'x';
        options.body.min(64 << 20)
    ])));
    *request.method_mut() = options.method.clone();
    *request.uri_mut() = options.url.clone();
    *request.headers_mut() = options.headers()?;
    Ok(http_answer(client.send(request, limit(options)).await?))
}

fn http_answer(response: Response<Bytes>) -> LoadResponse {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: BTreeMap<_, _> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
        .collect();
    let body =
        serde_json::from_slice(response.body()).unwrap_or_else(|_| text(response.body()).into());
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let cause = || match headers.get("weft-error") {
        Some(cause) => format!("{status}: {cause}"),
        None => status.to_string(),
    };
    LoadResponse {
        code: status.as_u16().to_string(),
        failed,
        version: version_in(&body),
        error: failed.then(cause),
        headers,
        body,
        millis: 0,
    }
}

/// Returns the first field `version` at any depth: the frontend's response contains that of the
/// reviews.
fn version_in(body: &Value) -> Option<String> {
    let fields = body.as_object()?;
    if let Some(Value::String(version)) = fields.get("version") {
        return Some(version.clone());
    }
    fields.values().find_map(version_in)
}

async fn send_grpc(
    client: ReviewsClient<Channel>,
    rpc: Rpc,
    options: &Options,
) -> anyhow::Result<LoadResponse> {
    let metadata = MetadataMap::from_headers(options.headers()?);
    let call = || {
        let mut client = client.clone();
        let mut request = tonic::Request::new(ReviewRequest {
            id: "1".to_owned(),
            count: 3,
            interval_ms: 1,
        });
        *request.metadata_mut() = metadata.clone();
        request.set_timeout(limit(options));
        async move {
            match rpc {
                Rpc::Get => {
                    let answer = client.get(request).await?;
                    Ok((1, Some(answer.into_inner())))
                }
                Rpc::Watch => watch(&mut client, request).await,
            }
        }
    };
    Ok(match retry::processed(call).await {
        Ok((messages, review)) => LoadResponse {
            code: "OK".to_owned(),
            failed: false,
            version: review.as_ref().map(|review| review.version.clone()),
            headers: BTreeMap::new(),
            body: serde_json::json!({
                "messages": messages,
                "pod": review.as_ref().map(|review| &review.pod),
                "metadata": review.as_ref().map(|review| &review.metadata),
            }),
            error: None,
            millis: 0,
        },
        Err(status) => LoadResponse {
            code: format!("{:?}", status.code()),
            failed: true,
            version: None,
            headers: metadata_text(&status),
            body: Value::Null,
            error: Some(format!("{:?}: {}", status.code(), status.message())),
            millis: 0,
        },
    })
}

async fn watch(
    client: &mut ReviewsClient<Channel>,
    request: tonic::Request<ReviewRequest>,
) -> Result<(u32, Option<crate::proto::Review>), tonic::Status> {
    let mut stream = client.watch(request).await?.into_inner();
    let mut messages = 0;
    let mut last = None;
    while let Some(review) = stream.message().await? {
        messages += 1;
        last = Some(review);
    }
    Ok((messages, last))
}

fn metadata_text(status: &tonic::Status) -> BTreeMap<String, String> {
    status
        .metadata()
        .clone()
        .into_headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}
