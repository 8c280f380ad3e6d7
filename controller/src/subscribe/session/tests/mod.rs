#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_ir::Transport;

use super::*;
use crate::encoder::{EncodedDestination, EncodedGateway};

/// Ports of a Gateway with their versions, and the sets that they refer to.
type Ports = (Vec<(u16, u64)>, Vec<ServicePort>);

/// Destinations by address, with the sets they refer to; versions as set.
#[derive(Default)]
struct Cluster {
    workload: u64,
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
fn silent_proxy_gets_a_few_updates_and_then_only_the_latest() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.receive(Input::Watch(address(2))).unwrap();
    let mut sent = 0;
    for version in 300..400 {
        cluster.sets.insert(port("b"), version);
        session.snapshot_changed();
        sent += usize::from(session.next_update(&cluster).is_some());
    }
    assert_eq!(sent, MAX_UNACKED);
    ack(&mut session, 1);
    let update = session.next_update(&cluster).unwrap();
    assert_eq!(update.resources[0].version, 399);
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn acks_tell_what_is_in_force_and_what_was_refused() {
    let (cluster, mut session) = (cluster(), session(&[("workload", 1)]));
    session.receive(Input::Watch(address(2))).unwrap();
    let nonce = session.next_update(&cluster).unwrap().nonce;
    let refused = vec![(B.to_owned(), "no".to_owned())];
    let acked = session
        .receive(Input::Ack { nonce, refused })
        .unwrap()
        .unwrap();
    assert_eq!(
        acked.in_force,
        [(ResourceKey::Destination(address(2)), Some(20))]
    );
    assert_eq!(
        acked.refused,
        [(ResourceKey::Endpoints(port("b")), 200, "no".to_owned())]
    );
    // The same content would be refused again.
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    assert_eq!(ack(&mut session, nonce), Acked::default());
}

/// A session that has sent 5,000 destinations in one update.
fn sent_many() -> (Session, Update) {
    let mut session = Session::new(hello(&[]), 10_000).unwrap();
    for n in 0..5_000_u16 {
        let [high, low] = n.to_be_bytes();
        let address = SocketAddr::from(([10, 1, high, low], 80));
        session.receive(Input::Watch(address)).unwrap();
    }
    let update = session.next_update(&cluster()).unwrap();
    (session, update)
}

#[test]
fn ack_with_many_rejections_is_fast() {
    let (mut session, update) = sent_many();
    assert_eq!(update.resources.len(), 5_001);
    let nonce = update.nonce;
    let name = |n: usize| (format!("destination/10.2.0.1:{n}"), String::new());
    let refused: Vec<_> = (0..500_000).map(name).collect();
    let begun = std::time::Instant::now();
    let answer = session.receive(Input::Ack { nonce, refused });
    let (refused, sent) = (500_000, 5_001);
    assert_eq!(answer, Err(StreamError::TooManyRefusals { refused, sent }));
    // Looked for one by one they would take minutes; most of this is the test's own message, given
    // back.
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
}

#[test]
fn every_resource_of_a_large_update_may_be_rejected() {
    let (mut session, update) = sent_many();
    let refused = update.resources.iter();
    let refused = refused.map(|one| (one.key.clone(), "no".to_owned()));
    let (nonce, refused) = (update.nonce, refused.collect());
    let acked = session.receive(Input::Ack { nonce, refused });
    assert_eq!(acked.unwrap().unwrap().refused.len(), 5_001);
}

#[test]
fn unknown_nonce_is_an_error() {
    let mut session = session(&[]);
    for nonce in [0, 1, u64::MAX] {
        let refused = Vec::new();
        let answer = session.receive(Input::Ack { nonce, refused });
        assert_eq!(answer, Err(StreamError::Nonce(nonce)));
    }
}

#[test]
fn watches_are_bounded_in_hello_and_later() {
    let mut session = Session::new(hello(&[(D1, 10)]), 2).unwrap();
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    let third = session.receive(Input::Watch(address(3)));
    assert_eq!(third, Err(StreamError::TooManyWatches(2)));
    assert!(Session::new(hello(&[(D1, 10), (D2, 20)]), 1).is_err());
}

#[test]
fn large_update_is_split_between_destinations_only() {
    let mut cluster = cluster();
    cluster.weight = FULL_UPDATE;
    cluster
        .destinations
        .insert(address(2), (20, vec![port("c")]));
    cluster.sets.insert(port("c"), 300);
    let mut session = session(&[("workload", 1)]);
    session.receive(Input::Watch(address(1))).unwrap();
    session.receive(Input::Watch(address(2))).unwrap();
    assert_eq!(said(session.next_update(&cluster)).0, [D1, A, B]);
    assert_eq!(
        said(session.next_update(&cluster)).0,
        [D2, "endpoints/shop/c:80"]
    );
    assert_eq!(session.next_update(&cluster), None);
}

/// What a destination needs comes before it, in as many updates as that takes.
#[test]
fn sets_of_one_destination_may_take_several_updates() {
    let mut cluster = cluster();
    cluster.weight = SPLIT_UPDATE;
    let mut session = session(&[("workload", 1)]);
    session.receive(Input::Watch(address(1))).unwrap();
    for sent in [vec![A], vec![B], vec![D1]] {
        let update = session.next_update(&cluster);
        assert!(update.as_ref().unwrap().encoded_len() < SPLIT_UPDATE + FULL_UPDATE);
        assert_eq!(said(update).0, sent);
    }
    assert_eq!(session.next_update(&cluster), None);
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn too_large_resource_is_withheld_alone() {
    let (mut cluster, mut session) = (cluster(), session(&[("workload", 1)]));
    session.receive(Input::Watch(address(2))).unwrap();
    session.next_update(&cluster).unwrap();
    cluster.weight = MAX_RESOURCE;
    cluster.sets.insert(port("b"), 201);
    cluster.destinations.get_mut(&address(2)).unwrap().0 = 21;
    session.snapshot_changed();
    // The set that is in force stays, and is not removed.
    assert_eq!(
        said(session.next_update(&cluster)),
        (vec![D2.to_owned()], vec![])
    );
    let withheld = session.withheld();
    assert_eq!(withheld.len(), 1);
    let (key, version, reason) = &withheld[0];
    assert_eq!((key, *version), (&ResourceKey::Endpoints(port("b")), 201));
    assert!(reason.contains("at most 12582912 are sent"), "{reason}");
    // Said once for each version.
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
    assert_eq!(session.withheld(), []);
    cluster.weight = 0;
    cluster.sets.insert(port("b"), 202);
    session.snapshot_changed();
    assert_eq!(said(session.next_update(&cluster)).0, [B]);
}

#[test]
fn workload_survives_a_moment_without_the_pod() {
    let (mut cluster, mut session) = (cluster(), session(&[]));
    session.next_update(&cluster).unwrap();
    cluster.workload = 0;
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

const P80: &str = "port/tcp/80";
const P443: &str = "port/tcp/443";

/// Ports 80 and 443, which refer to a and b.
fn gateway() -> Cluster {
    let gateway = (vec![(80, 1), (443, 2)], vec![port("a"), port("b")]);
    Cluster {
        gateway: Some(gateway),
        ..cluster()
    }
}

#[test]
fn gateway_proxy_gets_its_ports_with_the_sets_for_gateways() {
    let (cluster, mut session) = (gateway(), session(&[]));
    let update = session.next_update(&cluster).unwrap();
    let versions: Vec<_> = update.resources.iter().map(|one| one.version).collect();
    assert_eq!(versions, [1, 1100, 1200, 1, 1, 2]);
    let keys: Vec<_> = update.resources.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, ["workload", A, B, "gateway", P80, P443]);
    assert_eq!(session.next_update(&cluster), None);
    session.snapshot_changed();
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn removed_port_is_removed_with_its_sets() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    said(session.next_update(&cluster));
    cluster.gateway = Some((vec![(80, 3)], vec![port("b")]));
    session.snapshot_changed();
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!(sent, [P80]);
    assert_eq!(removed, [A, P443]);
}

#[test]
fn ports_held_from_an_earlier_stream_are_compared_like_the_rest() {
    let held = [(P80, 1), ("port/udp/53", 7), (A, 1100), ("gateway", 1)];
    let (cluster, mut session) = (gateway(), session(&held));
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!(sent, [B, P443, "workload"]);
    assert_eq!(removed, ["port/udp/53"]);
}

#[test]
fn ports_wait_for_sets_that_do_not_fit_into_one_update() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    cluster.weight = FULL_UPDATE;
    assert_eq!(said(session.next_update(&cluster)).0, [A, "workload"]);
    assert_eq!(said(session.next_update(&cluster)).0, [B]);
    assert_eq!(
        said(session.next_update(&cluster)).0,
        ["gateway", P443, P80]
    );
    assert_eq!(session.next_update(&cluster), None);
}

#[test]
fn unknown_gateway_keeps_its_ports_and_its_sets_are_updated() {
    let (mut cluster, mut session) = (gateway(), session(&[]));
    said(session.next_update(&cluster));
    cluster.gateway = None;
    cluster.sets.insert(port("a"), 101);
    session.snapshot_changed();
    let (sent, removed) = said(session.next_update(&cluster));
    assert_eq!((sent, removed), (vec![A.to_owned()], vec![]));
}
