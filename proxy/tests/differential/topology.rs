//! The topologies between a client and an application: each proxy alone, and a pair.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_api::encode;
use weft_ir::{Gateway, Mode, Protocol, Routing, Serving};
use weft_testkit::pki::Pki;

use super::application;
use super::message::Board;
use super::support::gateway::{self, GatewayPod, all_to, at, free_port, host, listener};
use super::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without a proxy, as the baseline.
    Direct,
    /// An endpoint without a proxy.
    Outbound,
    /// A client without a proxy.
    Inbound,
    Pair,
    /// An endpoint without a proxy.
    Gateway,
}

/// A topology with its pods.
pub struct Topology {
    pub kind: Kind,
    pub client: Version,
    pub app: Version,
    pub front: SocketAddr,
    pub board: Arc<Board>,
    _pods: Vec<Pod>,
    _gateway: Option<GatewayPod>,
}

impl Topology {
    pub async fn start(kind: Kind, client: Version, app: Version) -> Self {
        let board = Arc::<Board>::default();
        let address = application::start(app, board.clone()).await;
        let fronted = Front::start(kind, client, app, address);
        Self {
            kind,
            client,
            app,
            front: fronted.address,
            board,
            _pods: fronted.pods,
            _gateway: fronted.gateway,
        }
    }

    /// Returns true if any hop between the two ends is HTTP/2.
    pub fn crosses_http2(&self) -> bool {
        let both = self.client == Version::Http1 && self.app == Version::Http1;
        !both || self.kind == Kind::Pair
    }

    pub fn name(&self) -> String {
        format!(
            "{:?}, client {:?}, application {:?}",
            self.kind, self.client, self.app
        )
    }
}

/// A proxy or a pair in front of an application.
pub struct Front {
    pub address: SocketAddr,
    pub pods: Vec<Pod>,
    pub gateway: Option<GatewayPod>,
}

impl Front {
    /// Starts the proxies. The port is declared as `app` where the client's version differs.
    pub fn start(kind: Kind, client: Version, app: Version, address: SocketAddr) -> Self {
        let protocol = match (kind, client, app) {
            (Kind::Gateway, _, Version::Http2) => Protocol::Http2,
            (_, Version::Http1, Version::Http2) => Protocol::Http2,
            _ => Protocol::Detect,
        };
        let pki = Pki::new().unwrap();
        let mut front = Self {
            address,
            pods: Vec::new(),
            gateway: None,
        };
        match kind {
            Kind::Direct => {}
            Kind::Outbound => front.outbound(&pki, protocol, unmeshed(address)),
            Kind::Inbound => {
                let pod = Pod::start(&pki, "reviews", Mode::Permissive);
                front.address = pod.inbound(address);
                front.pods.push(pod);
            }
            Kind::Pair => {
                let pod = Pod::start(&pki, "reviews", Mode::Strict);
                let back = pod.inbound(address);
                front.pods.push(pod);
                front.outbound(&pki, protocol, meshed(back, "reviews"));
            }
            Kind::Gateway => {
                let pod = GatewayPod::start();
                // Targets are compared as they were sent; path normalization has its own tests.
                pod.tell(vec![encode::gateway(&Gateway {
                    normalize_paths: false,
                    ..gateway::gateway()
                })]);
                let port = free_port();
                let any = listener("any", "", vec![host("", all_to("reviews"))]);
                pod.tell(vec![
                    endpoints("reviews", protocol, &[unmeshed(address)]),
                    gateway::port(port, Serving::Http(vec![any])),
                ]);
                front.address = at(port);
                front.gateway = Some(pod);
            }
        }
        front
    }

    fn outbound(&mut self, pki: &Pki, protocol: Protocol, endpoint: weft_ir::Endpoint) {
        let pod = Pod::start(pki, "frontend", Mode::Permissive);
        pod.tell(vec![
            endpoints("reviews", protocol, &[endpoint]),
            service(protocol, Routing::Direct(vec![to("reviews", 1)])),
        ]);
        self.address = pod.outbound(SERVICE.parse().unwrap());
        self.pods.push(pod);
    }

    /// Returns the metrics of the proxy that the client connects to.
    pub fn metrics(&self) -> String {
        match (&self.gateway, self.pods.last()) {
            (Some(gateway), _) => gateway.metrics(),
            (None, Some(pod)) => pod.metrics(),
            (None, None) => String::new(),
        }
    }
}

/// Starts all topologies.
pub async fn all() -> Vec<Topology> {
    use Version::{Http1, Http2};
    let mut topologies = Vec::new();
    for (kind, client, app) in [
        (Kind::Direct, Http1, Http1),
        (Kind::Direct, Http2, Http2),
        (Kind::Outbound, Http1, Http1),
        (Kind::Outbound, Http1, Http2),
        (Kind::Outbound, Http2, Http2),
        (Kind::Inbound, Http1, Http1),
        (Kind::Inbound, Http2, Http2),
        (Kind::Pair, Http1, Http1),
        (Kind::Pair, Http1, Http2),
        (Kind::Pair, Http2, Http2),
        (Kind::Gateway, Http1, Http1),
        (Kind::Gateway, Http1, Http2),
        (Kind::Gateway, Http2, Http1),
        (Kind::Gateway, Http2, Http2),
    ] {
        topologies.push(Topology::start(kind, client, app).await);
    }
    topologies
}
