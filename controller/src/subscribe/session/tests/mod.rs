#![allow(clippy::unwrap_used)]

mod acks;
mod gateways;
mod sizes;

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_api::proto::Update;
use weft_ir::Transport;

use super::update::{FULL_UPDATE, MAX_RESOURCE, SPLIT_UPDATE};
use super::*;
use crate::encoder::{EncodedDestination, EncodedGateway, Source};

/// Ports of a Gateway with their versions, and the sets that they refer to.
type Ports = (Vec<(u16, u64)>, Vec<ServicePort>);

/// Destinations by address, with the sets they refer to; versions as set.
#[derive(Default)]
struct Cluster {
    workload: u64,
    /// 0: none.
    authorization: u64,
    destinations: BTreeMap<SocketAddr, (u64, Vec<ServicePort>)>,
    sets: BTreeMap<ServicePort, u64>,
    /// That the pod runs on: `node2` sees other endpoints than the rest.
    node: Option<&'static str>,
    /// Of the pod's Gateway.
    gateway: Option<Ports>,
    /// Bytes that each endpoint set takes beside its name.
    weight: usize,
}

fn resource(key: ResourceKey, version: u64) -> Resource {
    Resource {
        key: key.to_string(),
        version,
        body: None,
    }
}

impl Source for Cluster {
    fn destination(&self, address: SocketAddr, _: &str) -> Arc<EncodedDestination> {
        let (version, references) = self
            .destinations
            .get(&address)
            .cloned()
            .unwrap_or((1, vec![]));
        Arc::new(EncodedDestination {
            resource: resource(ResourceKey::Destination(address), version),
            references: references.into_iter().collect(),
        })
    }

    fn endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<Resource>> {
        let of_node = if node == "node2" { 5000 } else { 0 };
        let version = *self.sets.get(id)? + of_node;
        let mut resource = resource(ResourceKey::Endpoints(id.clone()), version);
        if self.weight > 0 {
            let name = "x".repeat(self.weight);
            let id = weft_api::proto::ServicePort {
                name: Some(weft_api::proto::service_port::Name::Service(name)),
                ..Default::default()
            };
            resource.body = Some(weft_api::proto::resource::Body::Endpoints(
                weft_api::proto::EndpointSet {
                    id: Some(id),
                    ..Default::default()
                },
            ));
        }
        Some(Arc::new(resource))
    }

    fn node(&self, _: &str, _: &str) -> Option<String> {
        self.node.map(str::to_owned)
    }

    fn workload(&self, _: &str, _: &str) -> Option<Arc<Resource>> {
        (self.workload > 0).then(|| Arc::new(resource(ResourceKey::Workload, self.workload)))
    }

    fn authorization(&self, _: &str, _: &str) -> Option<Arc<Resource>> {
        let version = self.authorization;
        (version > 0).then(|| Arc::new(resource(ResourceKey::Authorization, version)))
    }

    fn gateway(&self, _: &str, _: &str) -> Option<Arc<EncodedGateway>> {
        let (ports, references) = self.gateway.as_ref()?;
        let ports = ports.iter().map(|(port, version)| {
            let key = ResourceKey::Port(Transport::Tcp, *port);
            (key.clone(), resource(key, *version))
        });
        let gateway = (ResourceKey::Gateway, resource(ResourceKey::Gateway, 1));
        Some(Arc::new(EncodedGateway {
            resources: std::iter::once(gateway).chain(ports).collect(),
            routes: HashMap::new(),
            references: references.iter().cloned().collect(),
        }))
    }

    /// As `endpoints`, of other versions.
    fn gateway_endpoints(&self, id: &ServicePort, node: &str) -> Option<Arc<Resource>> {
        let mut set = self.endpoints(id, node)?.as_ref().clone();
        set.version += 1000;
        Some(Arc::new(set))
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn port(name: &str) -> ServicePort {
    ServicePort::new("shop", name, 80)
}

/// 10.0.0.1 refers to a and b, 10.0.0.2 to b.
fn cluster() -> Cluster {
    Cluster {
        workload: 1,
        authorization: 0,
        destinations: BTreeMap::from([
            (address(1), (10, vec![port("a"), port("b")])),
            (address(2), (20, vec![port("b")])),
        ]),
        sets: BTreeMap::from([(port("a"), 100), (port("b"), 200)]),
        node: Some("node1"),
        gateway: None,
        weight: 0,
    }
}

fn hello(held: &[(&str, u64)]) -> Hello {
    Hello {
        namespace: "shop".into(),
        pod: "web-0".into(),
        version: String::new(),
        held: held
            .iter()
            .map(|(key, version)| (key.parse().unwrap(), *version))
            .collect(),
        unknown: Vec::new(),
    }
}

fn session(held: &[(&str, u64)]) -> Session {
    Session::new(hello(held), 100).unwrap()
}

fn ack(session: &mut Session, nonce: u64) -> Acked {
    let refused = Vec::new();
    session
        .receive(Input::Ack { nonce, refused })
        .unwrap()
        .unwrap()
}

/// The keys that an update sends, and those it removes, each sorted.
fn said(update: Option<Update>) -> (Vec<String>, Vec<String>) {
    let update = update.expect("an update is due");
    let mut sent: Vec<_> = update
        .resources
        .into_iter()
        .map(|resource| resource.key)
        .collect();
    let mut removed = update.removed;
    sent.sort();
    removed.sort();
    (sent, removed)
}

const D1: &str = "destination/10.0.0.1:80";
const D2: &str = "destination/10.0.0.2:80";
const A: &str = "endpoints/shop/a:80";
const B: &str = "endpoints/shop/b:80";

#[test]
fn workload_is_first_and_a_destination_comes_with_its_sets() {
    let (cluster, mut session) = (cluster(), session(&[]));
    assert_eq!(said(session.next_update(&cluster)).0, ["workload"]);
    session.receive(Input::Watch(address(1))).unwrap();
    assert_eq!(said(session.next_update(&cluster)).0, [D1, A, B]);
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn only_what_differs_is_sent() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(1))).unwrap();
    session.next_update(&cluster).unwrap();
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    cluster.sets.insert(port("b"), 201);
    session.snapshot_changed();
    assert_eq!(said(session.next_update(&cluster)).0, [B]);
    // The second destination shares what is already there.
    session.receive(Input::Watch(address(2))).unwrap();
    assert_eq!(said(session.next_update(&cluster)).0, [D2]);
}

#[test]
fn endpoints_are_of_the_pods_node_even_while_the_pod_is_unknown() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    cluster.node = Some("node2");
    session.receive(Input::Watch(address(2))).unwrap();
    let update = session.next_update(&cluster).unwrap();
    let versions = |update: &Update| {
        let sets = update.resources.iter().filter(|of| of.key == B);
        sets.map(|of| of.version).collect::<Vec<_>>()
    };
    assert_eq!(versions(&update), [5200]);
    cluster.node = None;
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn unreferenced_set_is_removed_with_the_change() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(1))).unwrap();
    session.next_update(&cluster).unwrap();
    cluster
        .destinations
        .insert(address(1), (11, vec![port("b")]));
    session.snapshot_changed();
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![D1.into()], vec![A.into()])
    );
}

#[test]
fn set_that_moves_between_destinations_stays() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    session.next_update(&cluster).unwrap();
    cluster
        .destinations
        .insert(address(1), (11, vec![port("b")]));
    cluster
        .destinations
        .insert(address(2), (21, vec![port("a")]));
    session.snapshot_changed();
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![D1.into(), D2.into()], vec![])
    );
}

#[test]
fn set_of_a_deleted_service_is_removed() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(2))).unwrap();
    session.next_update(&cluster).unwrap();
    cluster.sets.remove(&port("b"));
    session.snapshot_changed();
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![], vec![B.into()])
    );
}

#[test]
fn after_a_reconnect_only_differences_come_and_what_is_gone_is_named() {
    let cluster = cluster();
    let held = [
        ("workload", 1),
        (D1, 10),
        (A, 100),
        (B, 199),
        ("endpoints/shop/old:80", 5),
    ];
    let mut session = session(&held);
    session.receive(Input::Watch(address(1))).unwrap();
    let gone = vec!["endpoints/shop/old:80".to_owned()];
    assert_eq!(said(session.next_update(&cluster)), (vec![B.into()], gone));
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn unknown_keys_are_removed() {
    let mut hello = hello(&[("workload", 1)]);
    hello.unknown = vec!["policy/x".into()];
    let mut session = Session::new(hello, 100).unwrap();
    assert_eq!(said(session.next_update(&cluster())).1, ["policy/x"]);
}

#[test]
fn unwatching_removes_unneeded_resources() {
    let (cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    session.next_update(&cluster).unwrap();
    session.receive(Input::Unwatch(address(1))).unwrap();
    // The proxy may have dropped b before it learnt that the other destination needs it.
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![B.into()], vec![D1.into(), A.into()])
    );
    session.receive(Input::Unwatch(address(1))).unwrap();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn watching_again_sends_everything_again() {
    let (cluster, mut session) = (cluster(), session(&[("workload", 1)]));
    session.receive(Input::Watch(address(1))).unwrap();
    session.next_update(&cluster).unwrap();
    session.receive(Input::Unwatch(address(1))).unwrap();
    session.receive(Input::Watch(address(1))).unwrap();
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![D1.into(), A.into(), B.into()], vec![])
    );
}

#[test]
fn workload_survives_a_moment_without_the_pod() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.next_update(&cluster).unwrap();
    cluster.workload = 0;
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

/// A proxy that serves its pod must know the policies, and keeps them while the watch is behind.
#[test]
fn authorization_comes_with_the_workload_and_is_never_removed() {
    let mut cluster = cluster();
    cluster.authorization = 5;
    let mut session = session(&[]);
    let first = session.next_update(&cluster);
    assert_eq!(said(first).0, ["authorization", "workload"]);
    cluster.authorization = 6;
    session.snapshot_changed();
    assert_eq!(said(session.next_update(&cluster)).0, ["authorization"]);
    (cluster.workload, cluster.authorization) = (0, 0);
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    // A proxy that holds the current version is not sent it again.
    let held = [("workload", 1), ("authorization", 6)];
    (cluster.workload, cluster.authorization) = (1, 6);
    assert_eq!(self::session(&held).next_update(&cluster), None);
}

const P80: &str = "port/tcp/80";
const P443: &str = "port/tcp/443";
