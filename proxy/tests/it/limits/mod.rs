//! Limits of TrafficPolicies: what a Service gets at a time, who waits, and what the others are
//! told.

mod client;
mod server;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use weft_api::{encode, proto};
use weft_ir::{
    ClientLimits, EndpointSet, Limits, Mode, Protocol, Queue, RequestLimit, Routing, TrafficPolicy,
    Workload,
};

/// The longest wait for what a test expects.
const PATIENCE: Duration = Duration::from_secs(20);
/// A wait that no test outlasts.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    now: usize,
    most: usize,
    all: usize,
}

/// An application that responds to a request once the test lets it.
struct App {
    address: SocketAddr,
    counts: watch::Sender<Counts>,
    /// A permit for each response.
    responses: Arc<Semaphore>,
}

/// A request that the application has.
struct Counted(watch::Sender<Counts>);

impl Counted {
    fn new(counts: &watch::Sender<Counts>) -> Self {
        counts.send_modify(|of| {
            of.now += 1;
            of.all += 1;
            of.most = of.most.max(of.now);
        });
        Self(counts.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|of| of.now -= 1);
    }
}

impl App {
    async fn start() -> Self {
        let counts = watch::Sender::new(Counts::default());
        let responses = Arc::new(Semaphore::new(0));
        let state = (counts.clone(), responses.clone());
        let address = application(move |stream| {
            let (counts, responses) = state.clone();
            async move {
                let service = service_fn(move |request| {
                    respond(request, Counted::new(&counts), responses.clone())
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let stream = TokioIo::new(stream);
                let _ = server.serve_connection_with_upgrades(stream, service).await;
            }
        });
        Self {
            address: address.await,
            counts,
            responses,
        }
    }

    /// Lets that many responses begin or, for `/body`, end.
    fn release(&self, count: usize) {
        self.responses.add_permits(count);
    }

    fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until it has that many requests.
    async fn has(&self, count: usize) {
        self.has_after(count, 0).await;
    }

    /// Waits until it has that many requests, and has got at least `all`.
    async fn has_after(&self, count: usize, all: usize) {
        let mut counts = self.counts.subscribe();
        let has = counts.wait_for(|of| of.now == count && of.all >= all);
        let has = tokio::time::timeout(PATIENCE, has).await.map(drop);
        has.unwrap_or_else(|_| panic!("{count} of {all} expected: {:?}", self.counts()));
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// `/fail` responds at once with 503, the first time that it is asked; `/body` with the head, and
/// with the body when it may; `/upgrade` echoes on the connection.
async fn respond(
    mut request: Request<Incoming>,
    counted: Counted,
    responses: Arc<Semaphore>,
) -> Result<Response<Body>, Infallible> {
    let head = Response::builder();
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/upgrade" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let _counted = counted;
                let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
            let head = head.status(StatusCode::SWITCHING_PROTOCOLS);
            let head = head
                .header("upgrade", "echo")
                .header("connection", "upgrade");
            Ok(head.body(Full::default().boxed()).unwrap())
        }
        "/fail" if counted.0.borrow().all == 1 => {
            let head = head.status(StatusCode::SERVICE_UNAVAILABLE);
            Ok(head.body(Full::default().boxed()).unwrap())
        }
        "/now" | "/fail" => Ok(head.body(Full::default().boxed()).unwrap()),
        "/body" => {
            let body = async move {
                responses.acquire().await.unwrap().forget();
                drop(counted);
                Ok(Frame::data(Bytes::from_static(b"body")))
            };
            let body = StreamBody::new(futures::stream::once(body));
            Ok(head.body(body.boxed()).unwrap())
        }
        _ => {
            let _ = (&mut request).collect().await;
            responses.acquire().await.unwrap().forget();
            drop(counted);
            let trailers = HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static("0"),
            )]);
            let body = Full::default().with_trailers(async { Some(Ok(trailers)) });
            Ok(head.body(body.boxed()).unwrap())
        }
    }
}

fn request_limit(most: u32, queue: Option<(u32, Duration)>) -> RequestLimit {
    let count = |number| NonZeroU32::new(number).unwrap();
    RequestLimit {
        max_requests: count(most),
        queue: queue.map(|(length, timeout)| Queue::new(count(length), timeout).unwrap()),
    }
}

fn of_requests(most: u32, queue: Option<(u32, Duration)>) -> ClientLimits {
    ClientLimits {
        max_connections: None,
        requests: Some(request_limit(most, queue)),
    }
}

fn set(
    endpoints: Vec<weft_ir::Endpoint>,
    protocol: Protocol,
    limits: Option<ClientLimits>,
) -> proto::Resource {
    let limits = limits.map(|client| Limits {
        client,
        server: None,
    });
    encode::endpoints(&EndpointSet {
        traffic: limits.map(|limits| {
            Arc::new(TrafficPolicy {
                limits: Some(limits),
                ..TrafficPolicy::default()
            })
        }),
        ..EndpointSet::new(port("reviews"), protocol, endpoints)
    })
}

fn direct(protocol: Protocol) -> proto::Resource {
    service(protocol, Routing::Direct(vec![to("reviews", 1)]))
}

/// The workload of a pod whose application at `app` has a limit.
fn limited(pod: &Pod, mode: Mode, app: SocketAddr, limit: Option<RequestLimit>) -> proto::Resource {
    let limits = limit.map(|limit| (app.port(), limit));
    encode::workload(&Workload {
        limits: limits.into_iter().collect::<BTreeMap<_, _>>(),
        ..Workload::new(pod.identity.clone(), mode)
    })
}

/// Sends a request on a connection of its own.
fn get(to: SocketAddr, version: Version, path: &'static str) -> JoinHandle<TestResponse> {
    tokio::spawn(async move { Client::connect(to, version).await.get(path).await })
}

fn grpc() -> http::request::Builder {
    Request::post("/shop.Reviews/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Waits until that many requests wait at the limit `of` a client or a server.
async fn waiting(pod: &Pod, of: &str, count: usize) {
    let line = format!(r#"weft_requests_waiting{{limit="{of}"}} {count}"#);
    let begun = Instant::now();
    while !pod.metrics().lines().any(|seen| seen == line) {
        assert!(begun.elapsed() < PATIENCE, "{line}\n{}", pod.metrics());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn assert_shed(pod: &Pod, error_type: &str, count: usize) {
    let line = format!(r#"weft_overload_shed_total{{error_type="{error_type}"}} {count}"#);
    let metrics = pod.metrics();
    assert!(
        metrics.lines().any(|seen| seen == line),
        "{line}\n{metrics}"
    );
}
