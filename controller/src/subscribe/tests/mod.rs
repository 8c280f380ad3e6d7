//! The service over loopback, without TLS: the identity that TLS would have proved is put into each
//! request.
#![allow(clippy::unwrap_used)]

mod gateways;
mod peers;
mod roots;
mod streams;
mod withdrawal;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry as MetricsRegistry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Code, Request, Status, Streaming};
use weft_api::proto::mesh_client::MeshClient;
use weft_api::proto::mesh_server::MeshServer;
use weft_api::proto::proxy_message::Kind;
use weft_api::proto::{self, ProxyMessage, Update};
use weft_ir::{Identity, ResourceKey};
use weft_translate::{Objects, translate};

use super::*;
use crate::encoder::Source;
use crate::identity::{PeerIdentity, Proven};
use crate::metrics::Metrics;
use crate::snapshot::{Snapshot, test_settings};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const REVIEWS: &str = "10.96.0.10:80";

fn read<T: serde::de::DeserializeOwned>(objects: Vec<Value>) -> Vec<Arc<T>> {
    let objects = objects.into_iter();
    objects
        .map(|object| Arc::new(serde_json::from_value(object).unwrap()))
        .collect()
}

fn pod(name: &str, account: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "serviceAccountName": account,
            "containers": [{"name": "app"}],
            "initContainers": [{"name": "weft-proxy"}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

/// Pods web-0 and reviews-0, and the Service reviews with an endpoint of this address.
fn snapshot(endpoint: &str) -> Arc<Snapshot> {
    cluster(&[endpoint], vec![pod("reviews-0", "reviews", endpoint)])
}

/// The pods web-0 and web-1, which are both endpoints of the Service; web-1 is being deleted or
/// not.
fn leaving(leaves: bool) -> Arc<Snapshot> {
    let mut second = pod("web-1", "web", "10.1.0.2");
    if leaves {
        second["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    }
    cluster(&["10.1.0.1", "10.1.0.2"], vec![second])
}

/// The pod web-0 and `pods`, and the Service reviews with these endpoints.
fn cluster(endpoints: &[&str], pods: Vec<Value>) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(translate(
        &objects(endpoints, pods),
        &test_settings(),
    )))
}

fn objects(endpoints: &[&str], pods: Vec<Value>) -> Objects {
    let service = json!({
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    });
    let slice = json!({
        "metadata": {
            "name": "reviews-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "reviews"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
            .collect::<Vec<_>>(),
    });
    let pods = [vec![pod("web-0", "web", "10.1.0.1")], pods].concat();
    Objects {
        services: read(vec![service]),
        endpoint_slices: read(vec![slice]),
        pods: read(pods),
        namespaces: read(vec![json!({"metadata": {"name": "shop"}})]),
        ..Objects::default()
    }
}

struct Controller {
    url: String,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    roots: watch::Sender<Option<Arc<proto::Resource>>>,
    registry: Registry,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A controller whose clients all prove `peer`.
async fn controller(
    peer: Option<&str>,
    first: Option<Arc<Snapshot>>,
    limits: Limits,
) -> Controller {
    let limits = Limits {
        verify_address: false,
        ..limits
    };
    serve_as(peer, "10.1.0.1", time::Duration::DAY, first, limits).await
}

/// A controller whose clients all prove `peer`, by a certificate that ends after `left`, and call
/// from `address`.
async fn serve_as(
    peer: Option<&str>,
    address: &str,
    left: time::Duration,
    first: Option<Arc<Snapshot>>,
    limits: Limits,
) -> Controller {
    let proven = peer.map(|peer| Proven {
        identity: peer.parse::<Identity>().unwrap(),
        until: time::OffsetDateTime::now_utc() + left,
    });
    let address = std::net::SocketAddr::new(address.parse().unwrap(), 4000);
    let peer = PeerIdentity { proven, address };
    let (publish, snapshots) = watch::channel(first);
    let (publish_roots, roots) = watch::channel(None);
    let service = Subscriptions {
        snapshots,
        roots,
        registry: Registry::default(),
        metrics: Arc::new(Metrics::register(&mut MetricsRegistry::default())),
        limits,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    let controller = Controller {
        url: String::new(),
        publish,
        roots: publish_roots,
        registry: service.registry.clone(),
        metrics: Arc::clone(&service.metrics),
        tasks: service.tasks.clone(),
        stop: service.stop.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let layer = InterceptorLayer::new(move |mut request: Request<()>| {
        request.extensions_mut().insert(peer.clone());
        Ok::<_, Status>(request)
    });
    let server = Server::builder()
        .layer(layer)
        .add_service(MeshServer::new(service));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Controller { url, ..controller }
}

struct Proxy {
    messages: mpsc::Sender<ProxyMessage>,
    updates: Streaming<Update>,
}

impl Proxy {
    async fn connect(to: &Controller) -> Result<Self, Status> {
        let mut client = MeshClient::connect(to.url.clone()).await.unwrap();
        let (messages, outgoing) = mpsc::channel(64);
        let updates = client
            .subscribe(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Self { messages, updates })
    }

    /// Connects and sends `Hello` for this pod.
    async fn of(to: &Controller, pod: &str, held: &[(&str, u64)]) -> Self {
        let proxy = Self::connect(to).await.unwrap();
        let held = held.iter().map(|(key, version)| proto::Held {
            key: (*key).to_owned(),
            version: *version,
        });
        let hello = proto::Hello {
            namespace: "shop".into(),
            pod: pod.into(),
            version: "test".into(),
            held: held.collect(),
        };
        proxy.say(Kind::Hello(hello)).await;
        proxy
    }

    async fn say(&self, kind: Kind) {
        let kind = Some(kind);
        self.messages.send(ProxyMessage { kind }).await.unwrap();
    }

    async fn watch(&self, address: &str) {
        let address = address.to_owned();
        self.say(Kind::Watch(proto::Watch { address })).await;
    }

    async fn ack(&self, nonce: u64, refused: &[&str]) {
        let refused = refused.iter().map(|key| proto::Refused {
            key: (*key).to_owned(),
            reason: "broken".into(),
        });
        let refused = refused.collect();
        self.say(Kind::Ack(proto::Ack { nonce, refused })).await;
    }

    async fn next(&mut self) -> Result<Update, Status> {
        let next = timeout(Duration::from_secs(10), self.updates.message()).await;
        Ok(next
            .expect("an answer in time")?
            .expect("no end without a status"))
    }

    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

fn keys(update: &Update) -> Vec<&str> {
    let mut keys: Vec<_> = update
        .resources
        .iter()
        .map(|resource| &*resource.key)
        .collect();
    keys.sort_unstable();
    keys
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let holding = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        timeout(Duration::from_secs(10), holding).await.is_ok(),
        "never: {what}"
    );
}
