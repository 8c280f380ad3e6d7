//! The service over loopback, without TLS: the identity that TLS would have proved is put into each
//! request.
#![allow(clippy::unwrap_used)]

mod gateways;

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
use crate::metrics::Metrics;
use crate::server::{PeerIdentity, Proven};
use crate::snapshot::{Snapshot, test_settings};

mod peers;
mod roots;

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

#[tokio::test]
async fn proxy_gets_its_workload_its_destinations_and_their_changes() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(keys(&first), ["workload"]);
    proxy.watch(REVIEWS).await;
    let second = proxy.next().await.unwrap();
    let (destination, endpoints) = ("destination/10.96.0.10:80", "endpoints/shop/reviews:80");
    assert_eq!(keys(&second), [destination, endpoints]);
    controller.publish.send_replace(Some(snapshot("10.1.0.3")));
    let third = proxy.next().await.unwrap();
    assert_eq!(keys(&third), [endpoints]);
    let (key, version, decoded) = weft_api::decode::resource(third.resources[0].clone()).unwrap();
    let weft_api::Resource::Endpoints(set) = decoded else {
        panic!("{decoded:?} is no endpoint set");
    };
    assert_eq!(set.endpoints[0].address, "10.1.0.3:8080".parse().unwrap());
    assert_eq!(controller.metrics.watched_addresses.get(), 1);

    // A new stream that holds all of it gets the difference alone.
    let held: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|update| update.resources.iter())
        .map(|resource| (&*resource.key, resource.version))
        .collect();
    drop(proxy);
    let mut proxy = Proxy::of(&controller, "web-0", &held).await;
    let update = proxy.next().await.unwrap();
    assert_eq!(
        (keys(&update), update.resources[0].version),
        (vec![endpoints], version)
    );
    proxy.ack(update.nonce, &[]).await;
    let in_force = || {
        controller
            .registry
            .holders(&key)
            .iter()
            .any(|(_, held)| *held == Held::InForce(version))
    };
    eventually("the ack is recorded", in_force).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_come_with_a_message_are_not_missed() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.watch(REVIEWS).await;
    let endpoints = "endpoints/shop/reviews:80";
    let mut nonce = loop {
        let update = proxy.next().await.unwrap();
        if keys(&update).contains(&endpoints) {
            break update.nonce;
        }
    };
    for round in 0..500_u32 {
        let next = snapshot(&format!("10.1.{}.{}", 1 + round / 250, round % 250));
        // The one meets the other somewhere between the socket and the session.
        let publishing = async {
            for _ in 0..round % 32 {
                tokio::task::yield_now().await;
            }
            controller.publish.send_replace(Some(next));
        };
        tokio::join!(proxy.ack(nonce, &[]), publishing);
        let update = proxy.next().await.unwrap();
        assert_eq!(keys(&update), [endpoints], "{round}");
        nonce = update.nonce;
    }
}

#[tokio::test]
async fn rejected_resource_is_recorded_and_counted() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    let update = proxy.next().await.unwrap();
    proxy.ack(update.nonce, &["workload"]).await;
    eventually("the nack is counted", || {
        controller.metrics.nacks.get() == 1
    })
    .await;
    let holders = controller.registry.holders(&ResourceKey::Workload);
    let version = update.resources[0].version;
    assert_eq!(holders[0].1, Held::Refused(version));
}

#[tokio::test]
async fn stopped_subscriber_delays_no_other() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut stopped = Proxy::of(&controller, "web-0", &[]).await;
    let mut reading = Proxy::of(&controller, "web-0", &[]).await;
    for proxy in [&mut stopped, &mut reading] {
        proxy.watch(REVIEWS).await;
        let first = proxy.next().await.unwrap();
        if keys(&first) == ["workload"] {
            proxy.next().await.unwrap();
        }
    }
    for round in 0..20_u8 {
        let ip = format!("10.1.1.{round}");
        controller.publish.send_replace(Some(snapshot(&ip)));
        let update = reading.next().await.unwrap();
        assert_eq!(keys(&update), ["endpoints/shop/reviews:80"]);
        for nonce in 1..=update.nonce {
            reading.ack(nonce, &[]).await;
        }
    }
    // It wakes up, and after what was under way gets the latest state at once.
    let mut last = stopped.next().await.unwrap();
    let mut seen = 1;
    let latest = snapshot("10.1.1.19")
        .encoder
        .endpoints(&weft_ir::ServicePort::new("shop", "reviews", 80), "");
    let latest = latest.unwrap().version;
    while last.resources[0].version != latest {
        for nonce in 1..=last.nonce {
            stopped.ack(nonce, &[]).await;
        }
        last = stopped.next().await.unwrap();
        seen += 1;
    }
    assert!(seen <= session::MAX_UNACKED + 1, "{seen} updates");
}

#[tokio::test]
async fn stream_waits_for_a_pod_that_the_watch_does_not_show_yet() {
    let controller = controller(Some(WEB), None, Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    eventually("the stream is open", || {
        controller.metrics.streams.get() == 1
    })
    .await;
    controller.publish.send_replace(Some(snapshot("10.1.0.2")));
    assert_eq!(keys(&proxy.next().await.unwrap()), ["workload"]);
}

#[tokio::test]
async fn invalid_messages_end_the_stream_with_the_reason() {
    let limits = Limits {
        watches: 1,
        pod: Duration::from_millis(50),
        ..Limits::default()
    };
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), limits).await;
    let code = async |mut proxy: Proxy| proxy.end().await.code();

    let other = Proxy::of(&controller, "reviews-0", &[]).await;
    assert_eq!(code(other).await, Code::PermissionDenied);
    let unknown = Proxy::of(&controller, "nobody-0", &[]).await;
    assert_eq!(code(unknown).await, Code::NotFound);
    let rude = Proxy::connect(&controller).await.unwrap();
    rude.watch(REVIEWS).await;
    assert_eq!(code(rude).await, Code::InvalidArgument);
    let garbage = Proxy::of(&controller, "web-0", &[]).await;
    garbage.watch("reviews").await;
    assert_eq!(code(garbage).await, Code::InvalidArgument);
    let greedy = Proxy::of(&controller, "web-0", &[]).await;
    greedy.watch(REVIEWS).await;
    greedy.watch("10.96.0.11:80").await;
    assert_eq!(code(greedy).await, Code::ResourceExhausted);
    let newer = Proxy::of(&controller, "web-0", &[]).await;
    newer
        .messages
        .send(ProxyMessage { kind: None })
        .await
        .unwrap();
    assert_eq!(code(newer).await, Code::Unimplemented);
    eventually("every stream has ended", || {
        controller.metrics.streams.get() == 0
    })
    .await;
    assert_eq!(controller.metrics.watched_addresses.get(), 0);
}

#[tokio::test]
async fn stream_needs_a_client_certificate() {
    let controller = controller(None, Some(snapshot("10.1.0.2")), Limits::default()).await;
    let refused = Proxy::connect(&controller).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn stopping_ends_streams_so_that_proxies_connect_again() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    proxy.next().await.unwrap();
    controller.stop.cancel();
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
    controller.tasks.close();
    assert!(
        timeout(Duration::from_secs(5), controller.tasks.wait())
            .await
            .is_ok()
    );
}

/// The answer to `Withdraw`; everything before it is acknowledged.
async fn withdrawn(proxy: &mut Proxy) -> proto::Withdrawn {
    loop {
        let update = proxy.next().await.unwrap();
        if let Some(withdrawn) = update.withdrawn {
            assert_eq!((update.nonce, keys(&update)), (0, vec![]));
            return withdrawn;
        }
        proxy.ack(update.nonce, &[]).await;
    }
}

#[tokio::test]
async fn pod_is_withdrawn_once_every_proxy_has_acknowledged() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut client = Proxy::of(&controller, "web-0", &[]).await;
    client.watch(REVIEWS).await;
    let mut all = client.next().await.unwrap();
    if keys(&all) == ["workload"] {
        client.ack(all.nonce, &[]).await;
        all = client.next().await.unwrap();
    }
    client.ack(all.nonce, &[]).await;
    let mut ends = Proxy::of(&controller, "web-1", &[]).await;
    ends.say(Kind::Withdraw(proto::Withdraw {})).await;
    // The watch is behind the proxy.
    controller.publish.send_replace(Some(leaving(true)));
    let update = client.next().await.unwrap();
    assert_eq!(keys(&update), ["endpoints/shop/reviews:80"]);
    let answer = withdrawn(&mut ends);
    tokio::pin!(answer);
    let early = timeout(Duration::from_millis(100), answer.as_mut()).await;
    assert!(early.is_err(), "answered before the client acknowledged");
    client.ack(update.nonce, &[]).await;
    let expected = proto::Withdrawn {
        terminating: true,
        service_ports: 1,
        unacknowledged: 0,
    };
    assert_eq!(answer.await, expected);
}

#[tokio::test]
async fn withdrawal_does_not_wait_for_disconnected_proxies() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut client = Proxy::of(&controller, "web-0", &[]).await;
    client.watch(REVIEWS).await;
    client.next().await.unwrap();
    let mut ends = Proxy::of(&controller, "web-1", &[]).await;
    ends.say(Kind::Withdraw(proto::Withdraw {})).await;
    controller.publish.send_replace(Some(leaving(true)));
    client.next().await.unwrap();
    drop(client);
    assert_eq!(withdrawn(&mut ends).await.unacknowledged, 0);
}

#[tokio::test]
async fn pod_that_is_not_deleted_is_not_withdrawn() {
    let controller = controller(Some(WEB), Some(leaving(false)), Limits::default()).await;
    let mut proxy = Proxy::of(&controller, "web-1", &[]).await;
    proxy.say(Kind::Withdraw(proto::Withdraw {})).await;
    // Asked again meanwhile: one answer.
    proxy.say(Kind::Withdraw(proto::Withdraw {})).await;
    assert_eq!(withdrawn(&mut proxy).await, proto::Withdrawn::default());
    let more = timeout(Duration::from_millis(100), proxy.next()).await;
    assert!(more.is_err(), "{more:?}");
}
