//! Retries by the TrafficPolicy of a Service port: of gRPC calls by their status, and of requests
//! whose rules say nothing of retries.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::gateway::{GatewayPod, all_to, at, free_port, host, listener};
use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use weft_api::{encode, proto};
use weft_ir::{
    Endpoint, EndpointSet, GrpcStatuses, Percent, Protocol, Retries, Retry, RetryBudget, RouteKind,
    Routing, Rule, Serving, TrafficPolicy,
};

/// What the application does with a request.
#[derive(Clone, Copy)]
enum Answer {
    Http(u16),
    /// A gRPC status in the head of the response, which has nothing else.
    Head(u16),
    /// A gRPC status in trailers, after a message.
    Trailers(u16),
    /// Breaks the connection.
    Break,
}

/// An application that follows a script, and then answers well.
#[derive(Clone, Default)]
struct App {
    script: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<AtomicUsize>,
}

impl App {
    async fn listen(&self) -> std::net::SocketAddr {
        let app = self.clone();
        application(move |stream| {
            let app = app.clone();
            async move {
                let service = service_fn(move |request| app.clone().respond(request));
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await
    }

    fn follow(&self, script: &[Answer]) {
        *self.script.lock().unwrap() = script.iter().copied().collect();
        self.requests.store(0, Relaxed);
    }

    /// The number of requests since the script began.
    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    async fn respond(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, std::io::Error> {
        self.requests.fetch_add(1, Relaxed);
        let is_grpc = request.headers().contains_key("content-type");
        let body = request.into_body().collect().await;
        let body = body.map_err(std::io::Error::other)?.to_bytes();
        let next = self.script.lock().unwrap().pop_front();
        let good = if is_grpc {
            Answer::Trailers(0)
        } else {
            Answer::Http(200)
        };
        let grpc = || Response::builder().header("content-type", "application/grpc");
        Ok(match next.unwrap_or(good) {
            Answer::Http(status) => {
                let head = Response::builder().status(status);
                head.body(Full::new(body).boxed()).unwrap()
            }
            Answer::Head(status) => {
                let head = grpc().header("grpc-status", status);
                head.body(Full::default().boxed()).unwrap()
            }
            Answer::Trailers(status) => {
                let status = HeaderValue::from(status);
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)]);
                let body = Full::new(body).with_trailers(async { Some(Ok(trailers)) });
                grpc().body(body.boxed()).unwrap()
            }
            Answer::Break => return Err(std::io::Error::other("broken")),
        })
    }
}

/// Two retries, after status 503 and after the gRPC statuses 8 and 14.
fn policy() -> TrafficPolicy {
    TrafficPolicy {
        retries: Some(Retries {
            retry: Retry {
                codes: vec![StatusCode::SERVICE_UNAVAILABLE],
                attempts: 2,
                backoff: Retry::LEAST_BACKOFF,
            },
            grpc_statuses: GrpcStatuses::default()
                .with(8)
                .and_then(|of| of.with(14))
                .unwrap(),
        }),
        ..TrafficPolicy::default()
    }
}

fn set(protocol: Protocol, endpoint: Endpoint, policy: Option<TrafficPolicy>) -> proto::Resource {
    encode::endpoints(&EndpointSet {
        traffic: policy.map(Arc::new),
        ..EndpointSet::new(port("reviews"), protocol, vec![endpoint])
    })
}

/// A client in the mesh and a server in the mesh.
struct Mesh {
    app: App,
    proxies: Proxies,
    client: Client,
    protocol: Protocol,
}

impl Mesh {
    async fn start(protocol: Protocol, policy: TrafficPolicy) -> Self {
        let app = App::default();
        let proxies = Proxies::before(app.listen().await, protocol);
        let version = match protocol {
            Protocol::Grpc => Version::Http2,
            _ => Version::Http1,
        };
        let mesh = Self {
            app,
            client: Client::connect(proxies.front, version).await,
            proxies,
            protocol,
        };
        mesh.apply(Some(policy));
        mesh
    }

    fn apply(&self, policy: Option<TrafficPolicy>) {
        let endpoint = meshed(self.proxies.back, "reviews");
        let set = set(self.protocol, endpoint, policy);
        self.proxies.client.tell(vec![set]);
    }

    /// Adds a route.
    fn route(&self, rule: Rule) {
        let rules = vec![Arc::new(rule)];
        let routing = match rules[0].route.kind {
            RouteKind::Grpc => Routing::Grpc(rules),
            _ => Routing::Http(rules),
        };
        self.proxies
            .client
            .tell(vec![service(self.protocol, routing)]);
    }

    /// Makes a call, and returns its status and how often the application got it.
    async fn call(&mut self, script: &[Answer]) -> (String, usize) {
        self.app.follow(script);
        (call(&mut self.client).await, self.app.requests())
    }

    async fn post(&mut self, script: &[Answer]) -> (u16, usize) {
        self.app.follow(script);
        let seen = self.client.send(Request::post("/"), "a review").await;
        (seen.status, self.app.requests())
    }
}

async fn call(client: &mut Client) -> String {
    let call = Request::post("/t.S/Get").header("content-type", "application/grpc");
    let seen = client.send(call, "message").await;
    assert_eq!(seen.status, 200);
    let status = seen.trailers.get("grpc-status");
    let status = status.or_else(|| seen.headers.get("grpc-status")).unwrap();
    if status == "0" {
        assert_eq!(seen.body, "message", "the whole message was sent again");
    }
    status.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn grpc_call_is_retried_by_the_status_in_its_head() {
    use Answer::{Break, Head, Trailers};
    let mut mesh = Mesh::start(Protocol::Grpc, policy()).await;
    for (script, status, requests) in [
        (&[Head(14)][..], "0", 2),
        (&[Head(14), Head(8)], "0", 3),
        // The last status is passed on.
        (&[Head(14), Head(14), Head(8)], "8", 3),
        // Not listed.
        (&[Head(13)], "13", 1),
        (&[Head(14), Head(5)], "5", 2),
        // Something of the response has been passed on.
        (&[Trailers(14)], "14", 1),
        // The server's proxy says UNAVAILABLE.
        (&[Break], "0", 2),
    ] {
        let seen = mesh.call(script).await;
        assert_eq!(seen, (status.to_owned(), requests));
    }
    mesh.proxies.encrypted();
    let metrics = mesh.proxies.client.metrics();
    let succeeded = metrics.lines().any(|line| {
        line.starts_with("weft_request_retries_total{") && line.contains(r#"result="succeeded""#)
    });
    assert!(succeeded, "{metrics}");
    mesh.apply(None);
    assert_eq!(mesh.call(&[Head(14)]).await, ("14".to_owned(), 1));
}

#[tokio::test]
async fn request_is_retried_by_its_status_whatever_its_method() {
    use Answer::{Break, Head, Http};
    let mut mesh = Mesh::start(Protocol::Http1, policy()).await;
    for (script, status, requests) in [
        (&[Http(503), Http(503)][..], 200, 3),
        (&[Http(503), Http(503), Http(503)], 503, 3),
        (&[Http(500)], 500, 1),
        // Not idempotent, and 502 is not listed.
        (&[Break], 502, 1),
        // A header of gRPC means nothing in a response to another request.
        (&[Head(14)], 200, 1),
    ] {
        assert_eq!(mesh.post(script).await, (status, requests));
    }
    mesh.app.follow(&[Break]);
    assert_eq!(mesh.client.get("/").await.status, 200, "GET is idempotent");
    assert_eq!(mesh.app.requests(), 2);
}

#[tokio::test]
async fn retry_of_a_rule_replaces_the_policy() {
    let mut mesh = Mesh::start(Protocol::Http1, policy()).await;
    let mut own = rule(0, vec![to("reviews", 1)]);
    let codes = vec![StatusCode::INTERNAL_SERVER_ERROR];
    for (retry, answer, requests) in [
        (None, 503, 3),
        (None, 500, 1),
        (Some(Retry::off()), 503, 1),
        (
            Some(Retry {
                codes,
                attempts: 1,
                backoff: Retry::LEAST_BACKOFF,
            }),
            500,
            2,
        ),
    ] {
        own.retry = retry;
        mesh.route(own.clone());
        let seen = mesh.post(&[Answer::Http(answer); 4]).await;
        assert_eq!(seen, (answer, requests), "{:?}", own.retry);
    }
}

#[tokio::test]
async fn rule_of_a_grpc_route_has_the_retries_of_the_policy() {
    let mut mesh = Mesh::start(Protocol::Grpc, policy()).await;
    let mut own = rule(0, vec![to("reviews", 1)]);
    own.route.kind = RouteKind::Grpc;
    mesh.route(own);
    let seen = mesh.call(&[Answer::Head(14)]).await;
    assert_eq!(seen, ("0".to_owned(), 2));
}

#[tokio::test]
async fn gateway_retries_by_the_policy_of_the_backend() {
    let app = App::default();
    let endpoint = unmeshed(app.listen().await);
    let gateway = GatewayPod::start();
    let number = free_port();
    let hosts = vec![host("", all_to("reviews"))];
    let serving = Serving::Http(vec![listener("web", "", hosts)]);
    gateway.tell(vec![
        set(Protocol::Grpc, endpoint, Some(policy())),
        crate::support::gateway::port(number, serving),
    ]);
    let mut client = Client::connect(at(number), Version::Http2).await;
    app.follow(&[Answer::Head(14), Answer::Head(14)]);
    assert_eq!(call(&mut client).await, "0");
    assert_eq!(app.requests(), 3);
}

#[tokio::test]
async fn retries_of_the_policy_stay_within_the_budget_and_end_with_the_policy() {
    let none = RetryBudget::per_second(Percent::default(), 0);
    let within = TrafficPolicy {
        retry_budget: Some(none),
        ..policy()
    };
    let mut mesh = Mesh::start(Protocol::Grpc, within).await;
    let seen = mesh.call(&[Answer::Head(14)]).await;
    assert_eq!(seen, ("14".to_owned(), 1));

    // Of a policy of the Gateway API, which asks for 503 (GEP-3388).
    let instead = TrafficPolicy {
        retry_budget: Some(RetryBudget {
            answers_503: true,
            ..none
        }),
        ..policy()
    };
    mesh.apply(Some(instead));
    mesh.app.follow(&[Answer::Head(8)]);
    let request = Request::post("/t.S/Get").header("content-type", "application/grpc");
    let seen = mesh.client.send(request, "message").await;
    assert_eq!(seen.header("grpc-status"), "14");
    assert_eq!(seen.header("weft-error-type"), "retry_budget_exhausted");
    assert_eq!(mesh.app.requests(), 1);

    let mut slow = policy();
    if let Some(retries) = &mut slow.retries {
        retries.retry.backoff = Duration::from_millis(300);
    }
    mesh.apply(Some(slow));
    mesh.app.follow(&[Answer::Head(14)]);
    let Mesh { app, proxies, .. } = &mesh;
    let ends = async {
        while app.requests() == 0 {
            tokio::task::yield_now().await;
        }
        mesh.apply(None);
    };
    let mut client = Client::connect(proxies.front, Version::Http2).await;
    let (status, ()) = tokio::join!(call(&mut client), ends);
    assert_eq!(status, "14", "the response at hand");
    assert_eq!(app.requests(), 1);
}

#[tokio::test]
async fn exhausted_budget_is_answered_with_503_if_its_policy_says_so() {
    let none = RetryBudget {
        answers_503: true,
        ..RetryBudget::per_second(Percent::default(), 0)
    };
    let mut of_budget = policy();
    of_budget.retry_budget = Some(none);
    if let Some(retries) = &mut of_budget.retries {
        retries.retry.codes = vec![StatusCode::TOO_MANY_REQUESTS];
    }
    let mut mesh = Mesh::start(Protocol::Http1, of_budget).await;
    assert_eq!(mesh.post(&[Answer::Http(429)]).await, (503, 1));
    assert_eq!(mesh.post(&[Answer::Http(404)]).await, (404, 1));
    // What did not reach an application takes from the budget as well.
    let closed = std::net::TcpListener::bind(ANY).unwrap();
    let gone = unmeshed(closed.local_addr().unwrap());
    drop(closed);
    let good = meshed(mesh.proxies.back, "reviews");
    let both = encode::endpoints(&EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            retry_budget: Some(none),
            ..TrafficPolicy::default()
        })),
        ..EndpointSet::new(port("reviews"), Protocol::Http1, vec![gone, good])
    });
    mesh.proxies.client.tell(vec![both]);
    let words = loop {
        let seen = mesh.client.get("/").await;
        if seen.status != 200 {
            assert_eq!(seen.status, 503);
            break seen.header("weft-error").to_owned();
        }
    };
    assert!(words.contains("retry budget of"), "{words}");
}
