mod weights;

use super::lookup::MAX_ADDRESSES;
use super::*;
use crate::routing::destination::{Resolved, ResolvedRouting};
use weft_api::encode;
use weft_ir::{
    Backend, Destination, Endpoint, EndpointSet, Mode, Protocol, Routing, Service, Target,
    TrustDomain, WeightedBackend,
};

fn identity() -> Identity {
    Identity::new(TrustDomain::new("cluster.local").unwrap(), "shop", "front").unwrap()
}

fn store() -> (Store, mpsc::UnboundedReceiver<Request>) {
    let settings = Settings {
        identity: identity(),
        current: CurrentCredentials::default(),
        wait: Duration::from_secs(1),
        idle: Duration::from_secs(600),
        ports: None,
    };
    let metrics = Arc::new(Metrics::new());
    let domain = identity().trust_domain().clone();
    let tls = crate::tls::Tls::new(Default::default(), domain).unwrap();
    let upstream = Arc::new(EndpointRegistry::new(Vec::new(), tls, metrics.clone()));
    Store::new(settings, upstream, metrics)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn service(address: &str, backends: &[&str]) -> proto::Resource {
    let backends = backends.iter().map(|name| WeightedBackend {
        weight: 1,
        backend: Backend::Service(ServicePort::new("shop", *name, 80)),
        filters: Vec::new(),
    });
    encode::destination(&Destination {
        address: at(address),
        target: Target::Service(Arc::new(Service {
            id: ServicePort::new("shop", "reviews", 80),
            protocol: Protocol::Http1,
            routing: Routing::Direct(backends.collect()),
        })),
    })
}

fn endpoints(name: &str, addresses: &[&str]) -> proto::Resource {
    let endpoints = addresses.iter().map(|address| Endpoint {
        address: at(address),
        identity: None,
    });
    let id = ServicePort::new("shop", name, 80);
    encode::endpoints(&EndpointSet::new(id, Protocol::Http1, endpoints.collect()))
}

fn update(resources: Vec<proto::Resource>) -> proto::Update {
    proto::Update {
        nonce: 1,
        resources,
        removed: Vec::new(),
        withdrawn: None,
    }
}

fn backends(watched: &WatchedDestination) -> Vec<(String, Vec<SocketAddr>)> {
    let resolved = watched.load();
    let Resolved::Service(service) = &**resolved else {
        panic!("no service at {}", watched.address);
    };
    let ResolvedRouting::Direct(rule) = &service.routing else {
        panic!("routes at {}", watched.address);
    };
    let describe = |cluster: &Arc<Cluster>| {
        let endpoint_addresses = cluster
            .members()
            .endpoints
            .iter()
            .map(|p| p.address)
            .collect();
        (cluster.name.to_string(), endpoint_addresses)
    };
    let clusters = rule.backends.iter().map(|b| b.target.as_ref().unwrap());
    clusters.map(describe).collect()
}

async fn watched(store: &Store, address: &str) -> Arc<WatchedDestination> {
    match store.lookup(at(address)).await {
        Lookup::Found(watched) => watched,
        Lookup::Unreachable => panic!("{address} is unknown"),
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_lookups_share_one_watch_request() {
    let (store, mut requests) = store();
    store.set_connected(true);
    let lookups = futures::future::join(
        store.lookup(at("10.0.0.1:80")),
        store.lookup(at("10.0.0.1:80")),
    );
    let answer = async {
        assert_eq!(
            requests.recv().await,
            Some(Request::Watch(at("10.0.0.1:80")))
        );
        assert!(requests.try_recv().is_err());
        store.apply(update(vec![
            endpoints("reviews", &["10.1.0.1:80"]),
            service("10.0.0.1:80", &["reviews"]),
        ]))
    };
    let ((first, second), refused) = futures::future::join(lookups, answer).await;
    assert_eq!(refused, []);
    let (Lookup::Found(first), Lookup::Found(second)) = (first, second) else {
        panic!("no answer to the lookups");
    };
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(
        backends(&first),
        [("shop/reviews:80".to_owned(), vec![at("10.1.0.1:80")])]
    );
}

#[tokio::test(start_paused = true)]
async fn only_first_lookup_waits_for_an_absent_controller() {
    let (store, _requests) = store();
    let begun = Instant::now();
    assert!(matches!(
        store.lookup(at("10.0.0.1:80")).await,
        Lookup::Unreachable
    ));
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    assert!(matches!(
        store.lookup(at("10.0.0.2:80")).await,
        Lookup::Unreachable
    ));
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn held_destination_sees_endpoint_updates() {
    let (store, _requests) = store();
    store.apply(update(vec![
        endpoints("v1", &["10.1.0.1:80"]),
        service("10.0.0.1:80", &["v1"]),
    ]));
    let held = watched(&store, "10.0.0.1:80").await;
    store.apply(update(vec![endpoints("v1", &["10.1.0.2:80"])]));
    assert_eq!(backends(&held)[0].1, [at("10.1.0.2:80")]);
    store.apply(update(vec![
        endpoints("v2", &["10.2.0.1:80"]),
        service("10.0.0.1:80", &["v2"]),
    ]));
    assert_eq!(backends(&held)[0].1, [at("10.2.0.1:80")]);
}

#[tokio::test]
async fn routes_are_applied_after_their_endpoints() {
    let (store, _requests) = store();
    let step = |n: u8| {
        let address = format!("10.1.0.{n}:80");
        update(vec![
            // The worst order within the message.
            service("10.0.0.1:80", &[&format!("v{n}")]),
            endpoints(&format!("v{n}"), &[&address]),
            endpoints(&format!("v{}", n - 1), &[]),
        ])
    };
    store.apply(step(1));
    let held = watched(&store, "10.0.0.1:80").await;
    let reader = std::thread::spawn({
        let held = held.clone();
        move || {
            let mut seen = HashSet::new();
            while !seen.contains("shop/v200:80") {
                let resolved = held.load();
                let Resolved::Service(service) = &**resolved else {
                    continue;
                };
                let ResolvedRouting::Direct(rule) = &service.routing else {
                    continue;
                };
                let Ok(cluster) = &rule.backends[0].target else {
                    continue;
                };
                // An endpoint set is emptied only after the route has left it.
                if cluster.members().endpoints.is_empty() {
                    assert!(
                        !Arc::ptr_eq(&resolved, &held.load()),
                        "the route in force has no endpoints"
                    );
                }
                seen.insert(cluster.name.to_string());
            }
        }
    });
    for n in 2..=200 {
        store.apply(step(n));
    }
    reader.join().unwrap();
}

#[tokio::test]
async fn invalid_resource_is_refused_and_others_are_applied() {
    let (store, _requests) = store();
    let mut bad = endpoints("v2", &["10.1.0.1:80"]);
    if let Some(proto::resource::Body::Endpoints(set)) = &mut bad.body {
        set.endpoints[0].address = "nowhere".to_owned();
    }
    let domain = TrustDomain::new("cluster.local").unwrap();
    let other = Identity::new(domain, "shop", "other").unwrap();
    let other = encode::workload(&Workload::new(other, Mode::Permissive));
    let refused = store.apply(update(vec![
        bad,
        other,
        endpoints("v1", &["10.1.0.1:80"]),
        service("10.0.0.1:80", &["v1"]),
    ]));
    let keys: Vec<_> = refused.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(keys, ["endpoints/shop/v2:80", "workload"]);
    assert!(
        refused[0].reason.contains("nowhere"),
        "{}",
        refused[0].reason
    );
    assert!(store.workload().is_none());
    assert_eq!(
        backends(&*watched(&store, "10.0.0.1:80").await)[0].1,
        [at("10.1.0.1:80")]
    );
    let held: HashSet<_> = store.held().into_iter().map(|held| held.key).collect();
    let expected = ["endpoints/shop/v1:80", "destination/10.0.0.1:80"];
    assert_eq!(held, expected.map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn refused_destination_ends_pending_lookup() {
    let (store, _requests) = store();
    store.set_connected(true);
    let begun = Instant::now();
    let refuse = async {
        let mut bad = service("10.0.0.1:80", &["v1"]);
        bad.body = None;
        tokio::task::yield_now().await;
        store.apply(update(vec![bad]))
    };
    let (lookup, refused) = futures::future::join(store.lookup(at("10.0.0.1:80")), refuse).await;
    assert!(matches!(lookup, Lookup::Unreachable));
    assert_eq!((refused.len(), begun.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn idle_destinations_expire_only_while_connected() {
    let (store, mut requests) = store();
    store.apply(update(vec![
        endpoints("v1", &["10.1.0.1:80"]),
        service("10.0.0.1:80", &["v1"]),
        service("10.0.0.2:80", &["v1"]),
    ]));
    let used = watched(&store, "10.0.0.2:80").await;
    tokio::time::advance(Duration::from_secs(601)).await;
    store.sweep();
    assert_eq!(
        store.watched().len(),
        2,
        "nothing expires while disconnected"
    );
    store.set_connected(true);
    store.sweep();
    assert_eq!(store.watched(), [at("10.0.0.2:80")].into());
    assert_eq!(requests.try_recv(), Ok(Request::Unwatch(at("10.0.0.1:80"))));
    drop(used);
    store.sweep();
    assert_eq!(store.watched(), HashSet::new());
}

#[tokio::test]
async fn removed_endpoint_set_empties_its_cluster_until_sent_again() {
    let (store, _requests) = store();
    store.apply(update(vec![
        endpoints("v1", &["10.1.0.1:80"]),
        service("10.0.0.1:80", &["v1"]),
    ]));
    let held = watched(&store, "10.0.0.1:80").await;
    let mut removal = update(Vec::new());
    removal.removed = vec!["endpoints/shop/v1:80".to_owned()];
    assert_eq!(store.apply(removal), []);
    assert_eq!(store.held().len(), 1);
    assert_eq!(backends(&held)[0].1, []);
    store.apply(update(vec![endpoints("v1", &["10.1.0.9:80"])]));
    assert_eq!(backends(&held)[0].1, [at("10.1.0.9:80")]);
}

#[tokio::test]
async fn requests_in_flight_keep_endpoints_of_removed_backend() {
    let (store, _requests) = store();
    store.apply(update(vec![
        endpoints("v1", &["10.1.0.1:80"]),
        service("10.0.0.1:80", &["v1"]),
    ]));
    let held = watched(&store, "10.0.0.1:80").await;
    let in_flight = held.load();
    let mut shift = update(vec![
        endpoints("v2", &["10.2.0.1:80"]),
        service("10.0.0.1:80", &["v2"]),
    ]);
    shift.removed = vec!["endpoints/shop/v1:80".to_owned()];
    store.apply(shift);
    let Resolved::Service(service) = &**in_flight else {
        panic!("no service");
    };
    let ResolvedRouting::Direct(rule) = &service.routing else {
        panic!("routes");
    };
    let cluster = rule.backends[0].target.as_ref().unwrap();
    assert_eq!(cluster.members().endpoints.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn destination_limit_evicts_idle_destinations() {
    let (store, _requests) = store();
    store.set_connected(true);
    let known = |n: usize| format!("10.{}.{}.1:80", n / 256, n % 256);
    let all = (0..MAX_ADDRESSES).map(|n| service(&known(n), &["v1"]));
    assert_eq!(store.apply(update(all.collect())), []);
    let begun = Instant::now();
    let refused = store.lookup(at("192.0.2.1:80")).await;
    assert!(matches!(refused, Lookup::Unreachable));
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "the lookup fails without a request"
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    let _ = store.lookup(at("192.0.2.1:80")).await;
    assert_eq!(store.watched(), [at("192.0.2.1:80")].into());
}
