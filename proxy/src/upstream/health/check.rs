//! One check of an endpoint: a request on the connections that requests have, or a connection.
//!
//! Source: `grpc/health/v1/health.proto`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::Code;
use weft_api::alpn;
use weft_ir::{HealthCheck, HealthChecks, HttpHealthCheck};

use crate::body::{Incoming, ReplayMemory, Request, RequestBody};
use crate::grpc::{frame_message, grpc_status, is_grpc, only_message};
use crate::telemetry::health::CheckResult;
use crate::upstream::attempt::{AttemptError, Framing, Observed, send_to};
use crate::upstream::connect::ConnectError;
use crate::upstream::{Endpoint, EndpointRegistry, Unobserved, UpstreamResponse};
use crate::wire::{ERROR, REFUSED};

/// Most of a response's body that is read.
const MAX_BODY: usize = 4 << 10;
/// Attempts at connections that the endpoint has closed meanwhile.
const MAX_ATTEMPTS: u32 = 3;
/// How long a proxy may take to close the connection whose application it cannot reach.
const SETTLING: Duration = Duration::from_millis(300);
/// Most characters of another proxy's error that are logged.
const MAX_WORDS: usize = 200;
const AGENT: HeaderValue = HeaderValue::from_static("weft-health-check");
const GRPC_CHECK: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// `ServingStatus`.
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Why a check has failed.
#[derive(Debug)]
pub(super) enum Failure {
    Timeout(Duration),
    Connect(ConnectError),
    Broken(String),
    /// The endpoint's proxy could not connect to the application.
    Refused(String),
    /// The endpoint's proxy answered in place of the application.
    Proxy(StatusCode, String),
    Status(StatusCode),
    Answer(&'static str),
    Grpc(Code),
    NotServing(i32),
}

impl Failure {
    pub(super) fn result(of: Option<&Self>) -> CheckResult {
        match of {
            None => CheckResult::Passed,
            Some(Self::Timeout(_)) => CheckResult::Timeout,
            Some(Self::Connect(_) | Self::Broken(_) | Self::Refused(_)) => CheckResult::Unreachable,
            Some(
                Self::Proxy(..)
                | Self::Status(_)
                | Self::Answer(_)
                | Self::Grpc(_)
                | Self::NotServing(_),
            ) => CheckResult::WrongAnswer,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Connect(error) => error.fmt(f),
            Self::Broken(cause) => write!(f, "it broke off: {cause}"),
            Self::Refused(words) => write!(f, "its proxy did not reach it: {words:?}"),
            Self::Proxy(status, words) => write!(f, "its proxy answered {status}: {words:?}"),
            Self::Status(status) => write!(f, "it answered {status}"),
            Self::Answer(what) => f.write_str(what),
            Self::Grpc(code) => write!(f, "it answered with the gRPC status {}", *code as i32),
            Self::NotServing(status) => write!(f, "its serving status is {status}, not SERVING"),
        }
    }
}

/// Checks an endpoint. `http2`: whether the application is declared to speak HTTP/2.
pub(super) async fn check(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    settings: &HealthChecks,
    http2: bool,
) -> Result<(), Failure> {
    let limit = settings.timing.timeout();
    let checked = async {
        match &settings.check {
            HealthCheck::Http(check) => http(registry, endpoint, check, http2).await,
            HealthCheck::Grpc(service) => grpc(registry, endpoint, service).await,
            HealthCheck::Tcp => tcp(registry, endpoint, SETTLING.min(limit / 2)).await,
        }
    };
    let checked = timeout(limit, checked).await;
    checked.unwrap_or(Err(Failure::Timeout(limit)))
}

/// Returns a request without a body. Its host is that of the endpoint, unless `host` names another.
fn request(
    method: Method,
    path: PathAndQuery,
    host: Option<&str>,
    endpoint: &Endpoint,
) -> http::Request<()> {
    let mut request = http::Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, AGENT);
    // Without a host, the request gets the address.
    let host = host.or(endpoint.tls.as_ref().map(|tls| &*tls.hostname));
    if let Some(Ok(host)) = host.map(HeaderValue::from_str) {
        headers.insert(HOST, host);
    }
    request
}

async fn http(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    check: &HttpHealthCheck,
    http2: bool,
) -> Result<(), Failure> {
    let host = check.host.as_ref().map(|host| host.as_str());
    let head = request(Method::GET, check.path.clone(), host, endpoint);
    let request = || head.clone().map(|()| RequestBody::empty());
    let UpstreamResponse { response, lease } = send(registry, endpoint, http2, request).await?;
    let status = response.status();
    refuse_proxy(endpoint, &response)?;
    // What is not read to its end costs the connection, or the stream.
    if read(response.into_body()).await?.is_some() {
        lease.complete();
    }
    match check.expects(status) {
        true => Ok(()),
        false => Err(Failure::Status(status)),
    }
}

async fn grpc(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    service: &str,
) -> Result<(), Failure> {
    let mut head = request(Method::POST, GRPC_CHECK, None, endpoint);
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    let message = frame_message(&message).ok_or(Failure::Answer("the request is too large"))?;
    // Nothing is buffered: each attempt has the message anew.
    let memory = Arc::new(ReplayMemory::new(0));
    let mut held = Vec::new();
    let request = || {
        let (body, buffer) = RequestBody::of_bytes(message.clone(), &memory);
        held.push(buffer);
        head.clone().map(|()| body)
    };
    let UpstreamResponse { response, lease } = send(registry, endpoint, true, request).await?;
    refuse_proxy(endpoint, &response)?;
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Status(head.status));
    }
    if !is_grpc(&head.headers) {
        return Err(Failure::Answer("it does not answer in gRPC"));
    }
    let read = read(body).await?;
    let (whole, trailers) = read.ok_or(Failure::Answer("its answer is too long"))?;
    lease.complete();
    let status = trailers.as_ref().and_then(grpc_status);
    match status.or_else(|| grpc_status(&head.headers)) {
        Some(Code::Ok) => {}
        Some(code) => return Err(Failure::Grpc(code)),
        None => return Err(Failure::Answer("its answer has no gRPC status")),
    }
    let answer: Option<HealthCheckResponse> = only_message(whole);
    match answer.map(|answer| answer.status) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(Failure::NotServing(status)),
        None => Err(Failure::Answer("its answer is no HealthCheckResponse")),
    }
}

/// Connects. A proxy accepts before it connects to the application: if it cannot, it closes the
/// connection without the end that TLS has for streams of bytes.
async fn tcp(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    settling: Duration,
) -> Result<(), Failure> {
    let connected = registry.connect(endpoint, alpn::TCP).await;
    let mut stream = connected.map_err(Failure::Connect)?;
    let broken = |error: std::io::Error| Failure::Broken(error.to_string());
    if endpoint.is_proxy() {
        let read = timeout(settling, stream.read(&mut [0])).await;
        read.unwrap_or(Ok(0)).map_err(broken)?;
    }
    // Whether the peer takes note of the end says nothing about it.
    let _ = stream.shutdown().await;
    Ok(())
}

/// Sends a request, again if the connection that it was for had ended.
async fn send(
    registry: &Arc<EndpointRegistry>,
    endpoint: &Arc<Endpoint>,
    http2: bool,
    mut request: impl FnMut() -> Request,
) -> Result<UpstreamResponse, Failure> {
    let framing = Framing {
        http2,
        upgrade: false,
        address: endpoint.address,
        connect: None,
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut observer = Unobserved;
        let mut observed = Observed {
            observer: &mut observer,
            committed: false,
        };
        let sent = send_to(registry, endpoint, request(), framing, &mut observed).await;
        match sent {
            Ok(response) => return Ok(response),
            Err(AttemptError::Connect(error)) => return Err(Failure::Connect(error)),
            Err(AttemptError::Unsendable(error)) => return Err(Failure::Broken(error.to_string())),
            Err(AttemptError::Broken { error, reused }) if !(reused && error.is_cut_off()) => {
                return Err(Failure::Broken(error.to_string()));
            }
            Err(AttemptError::NotSent | AttemptError::Broken { .. }) => {}
        }
        if attempts >= MAX_ATTEMPTS {
            return Err(Failure::Broken("the connection closed".to_owned()));
        }
    }
}

fn refuse_proxy<B>(endpoint: &Endpoint, response: &http::Response<B>) -> Result<(), Failure> {
    match response
        .headers()
        .get(ERROR)
        .filter(|_| endpoint.is_proxy())
    {
        None => Ok(()),
        Some(words) => {
            let words = String::from_utf8_lossy(words.as_bytes());
            let words = words.chars().take(MAX_WORDS).collect();
            match response.headers().contains_key(REFUSED) {
                true => Err(Failure::Refused(words)),
                false => Err(Failure::Proxy(response.status(), words)),
            }
        }
    }
}

/// Reads a body and its trailers. Returns `None` if it is too long.
async fn read(body: Incoming) -> Result<Option<(Bytes, Option<HeaderMap>)>, Failure> {
    let whole = body.whole(MAX_BODY).await;
    whole.map_err(|error| Failure::Broken(error.to_string()))
}
