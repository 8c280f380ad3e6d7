//! Authorization by external servers: at a sidecar, on rules of a gateway and on its listeners.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use weft_api::proto;
use weft_ir::{
    Endpoint, ExternalAuth, ExternalAuthProtocol, Filter, HeaderSelection, HttpAuth, Mode,
    Protocol, Routing, Rule, Serving,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

use crate::support::gateway::{GatewayPod, at, free_port, host, listener, port as gateway_port};
use crate::support::*;

mod bodies;
mod failures;
mod grpc;
mod http_servers;
mod listeners;
mod policies;

type Answer = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What a server was asked.
struct Asked {
    head: http::request::Parts,
    body: Bytes,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        let value = self.head.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }
}

/// An external server.
struct Server {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
}

impl Server {
    /// A server that answers as `decide` says.
    async fn start(
        version: Version,
        decide: impl Fn(&Asked) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let address = application(move |stream| {
            let (tell, decide) = (tell.clone(), decide.clone());
            async move {
                let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (tell, decide) = (tell.clone(), decide.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let asked = Asked { head, body };
                        let answer = decide(&asked);
                        let _ = tell.send(asked);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let io = TokioIo::new(stream);
                // The proxy may close the connection at any time.
                let _ = match version {
                    Version::Http1 => {
                        let server = hyper::server::conn::http1::Builder::new();
                        server.serve_connection(io, answer).await
                    }
                    Version::Http2 => {
                        let executor = TokioExecutor::new();
                        let server = hyper::server::conn::http2::Builder::new(executor);
                        server.serve_connection(io, answer).await
                    }
                };
            }
        })
        .await;
        Self { address, asked }
    }

    fn last(&mut self) -> Asked {
        self.asked.try_recv().expect("the server was asked")
    }

    fn is_unasked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = http::Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::new(body.into()).boxed_unsync()).unwrap()
}

fn names(of: &[&'static str]) -> Vec<http::HeaderName> {
    let names = of.iter().map(|name| http::HeaderName::from_static(name));
    names.collect()
}

/// Of the server `auth`.
fn http_auth(requests: &[&'static str], responses: &[&'static str]) -> ExternalAuth {
    ExternalAuth {
        server: Ok(port("auth")),
        protocol: ExternalAuthProtocol::Http(HttpAuth {
            path_prefix: "/check".into(),
            request_headers: names(requests),
            response_headers: HeaderSelection::of(names(responses)),
        }),
        body_limit: 0,
    }
}

/// Where the filter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Sidecar,
    Rule,
    Listener,
}

const ALL: [At; 3] = [At::Sidecar, At::Rule, At::Listener];

enum Running {
    Pod(Pod),
    Gateway(GatewayPod, u16),
}

/// A proxy with a filter, in front of the application `v1`.
struct Scene {
    app: Upstream,
    proxy: Running,
    version: Version,
}

impl Scene {
    async fn new(
        at: At,
        version: Version,
        filter: ExternalAuth,
        server: Option<SocketAddr>,
    ) -> Self {
        Self::with((at, version), filter, server, |_| {}, Vec::new()).await
    }

    /// `change` is applied to the rule, and `more` sent along.
    async fn with(
        (at, version): (At, Version),
        filter: ExternalAuth,
        server: Option<SocketAddr>,
        change: impl FnOnce(&mut Rule),
        more: Vec<proto::Resource>,
    ) -> Self {
        // A gateway's application has HTTP/1.1, a sidecar's what the client speaks.
        let speaks = match (at, version) {
            (At::Sidecar, Version::Http2) => Speaks::Http2,
            _ => Speaks::Http1,
        };
        let app = Upstream::start("app", speaks).await.unwrap();
        let servers: Vec<Endpoint> = server.into_iter().map(unmeshed).collect();
        let mut resources = vec![
            endpoints("v1", Protocol::Detect, &[unmeshed(app.address())]),
            endpoints("auth", Protocol::Detect, &servers),
        ];
        resources.extend(more);
        let filter = Arc::new(filter);
        let mut rule = rule(0, vec![to("v1", 1)]);
        if at != At::Listener {
            rule.filters = vec![Filter::ExternalAuth(filter.clone())];
        }
        change(&mut rule);
        let proxy = match at {
            At::Sidecar => {
                let pod = Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive);
                let rules = vec![Arc::new(rule)];
                resources.push(service(Protocol::Http1, Routing::Http(rules)));
                pod.tell(resources);
                Running::Pod(pod)
            }
            At::Rule | At::Listener => {
                let gateway = GatewayPod::start();
                let number = free_port();
                let mut web = listener("web", "", vec![host("", vec![rule])]);
                if at == At::Listener {
                    web.external_auth = vec![filter];
                }
                resources.push(gateway_port(number, Serving::Http(vec![web])));
                gateway.tell(resources);
                Running::Gateway(gateway, number)
            }
        };
        Self {
            app,
            proxy,
            version,
        }
    }

    fn address(&self) -> SocketAddr {
        match &self.proxy {
            Running::Pod(pod) => pod.outbound(SERVICE.parse().unwrap()),
            Running::Gateway(_, number) => at(*number),
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address(), self.version).await
    }

    /// Returns how many checks had the result.
    fn checks(&self, result: &str) -> u64 {
        let direction = match &self.proxy {
            Running::Pod(_) => "outbound",
            Running::Gateway(..) => "gateway",
        };
        let labels = format!(r#"direction="{direction}",result="{result}""#);
        self.count(&format!("weft_external_auth_checks_total{{{labels}}} "))
    }

    fn count(&self, series: &str) -> u64 {
        let metrics = match &self.proxy {
            Running::Pod(pod) => pod.metrics(),
            Running::Gateway(gateway, _) => gateway.metrics(),
        };
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future).await.expect("in time")
}

/// Returns the host that the application saw.
fn host_of(seen: &TestResponse) -> &str {
    match seen.header("x-authority") {
        "" => seen.header("x-saw-host"),
        authority => authority,
    }
}
