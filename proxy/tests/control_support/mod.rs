//! A fake controller that speaks the real protocol, a pod's identity volume, and a proxy's control
//! plane client that uses both.

// Each test file uses a part of it. `unwrap` is allowed in test functions only, which these helpers
// serve.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use weft_api::{encode, proto};
use weft_ir::{
    Backend, Destination, Endpoint, EndpointSet, Identity, Mode, Protocol, Routing, Service,
    ServicePort, Target, TrustDomain, WeightedBackend, Workload,
};
use weft_proxy::control::store::Lookup;
use weft_proxy::options::Options;
use weft_proxy::routing::destination::{Resolved, ResolvedRouting, WatchedDestination};
use weft_proxy::run::Control;
use weft_proxy::telemetry::access::AccessLog;
use weft_proxy::telemetry::metrics::Metrics;
use weft_testkit::controller::FakeController;
use weft_testkit::pki::Pki;

pub const SERVICE: &str = "10.0.0.1:80";

pub fn identity() -> Identity {
    let domain = TrustDomain::new("cluster.local").unwrap();
    Identity::new(domain, "shop", "front").unwrap()
}

/// The files of a pod's identity volume, removed when dropped.
pub struct Volume(PathBuf);

impl Volume {
    pub fn new(name: &str, pki: &Pki) -> Self {
        let folder = format!("weft-control-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let volume = Self(folder);
        volume.write("token", "right");
        volume.write("ca.crt", &pki.root_pem());
        volume
    }

    pub fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Setup {
    pub controller: FakeController,
    pub pki: Arc<Pki>,
    pub volume: Volume,
}

impl Setup {
    pub async fn new(name: &str) -> Self {
        let pki = Arc::new(Pki::new().unwrap());
        let controller = FakeController::start(pki.clone(), identity(), "right");
        let controller = controller.await.unwrap();
        controller.set_workload(&Workload::new(identity(), Mode::Permissive));
        controller.set([service("v1"), endpoints("v1", &["10.1.0.1:80"])]);
        let volume = Volume::new(name, &pki);
        Self {
            controller,
            pki,
            volume,
        }
    }

    pub fn proxy(&self) -> Control {
        self.proxy_of(&self.controller.url())
    }

    /// A proxy whose controller is at `url`.
    pub fn proxy_of(&self, url: &str) -> Control {
        let options = Options::try_parse_from([
            "weft-proxy",
            "--controller",
            url,
            "--controller-addresses",
            &self.volume.path("controller"),
            "--token",
            &self.volume.path("token"),
            "--roots",
            &self.volume.path("ca.crt"),
            "--pod",
            "front-0",
            "--namespace",
            "shop",
            "--service-account",
            "front",
            "--lookup",
            "500",
        ]);
        let metrics = Arc::new(Metrics::new());
        Control::start(options.unwrap(), AccessLog::off(), metrics).unwrap()
    }
}

pub fn service(backend: &str) -> proto::Resource {
    encode::destination(&Destination {
        address: SERVICE.parse().unwrap(),
        target: Target::Service(Arc::new(Service {
            id: ServicePort::new("shop", "reviews", 80),
            protocol: Protocol::Http1,
            routing: Routing::Direct(vec![WeightedBackend {
                weight: 1,
                backend: Backend::Service(ServicePort::new("shop", backend, 80)),
                filters: Vec::new(),
            }]),
        })),
    })
}

pub fn endpoints(name: &str, addresses: &[&str]) -> proto::Resource {
    let endpoints = addresses.iter().map(|address| Endpoint {
        address: address.parse().unwrap(),
        identity: None,
    });
    let id = ServicePort::new("shop", name, 80);
    encode::endpoints(&EndpointSet::new(id, Protocol::Http1, endpoints.collect()))
}

pub async fn live(proxy: &Control, address: &str) -> Arc<WatchedDestination> {
    match proxy.context.store.lookup(address.parse().unwrap()).await {
        Lookup::Found(live) => live,
        Lookup::Unreachable => panic!("{address} is unknown"),
    }
}

/// Returns the endpoints of the only backend.
pub fn behind(live: &WatchedDestination) -> Vec<SocketAddr> {
    let resolved = live.load();
    let Resolved::Service(service) = &**resolved else {
        panic!("no service");
    };
    let ResolvedRouting::Direct(rule) = &service.routing else {
        panic!("routes");
    };
    let cluster = rule.backends[0].target.as_ref().unwrap();
    cluster
        .members()
        .endpoints
        .iter()
        .map(|p| p.address)
        .collect()
}

/// Waits for a condition, for at most 15 seconds.
pub async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(15, what, condition).await;
}

pub async fn until_within(seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(seconds), poll).await;
    assert!(waited.is_ok(), "timed out: {what}");
}

pub async fn configured(proxy: &Control) {
    let configured = proxy.context.store.configured();
    let waited = tokio::time::timeout(Duration::from_secs(10), configured).await;
    waited.expect("configuration");
}
