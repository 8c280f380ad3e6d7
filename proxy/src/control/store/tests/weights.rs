//! Weights of backends, whatever balances their endpoints.

use weft_ir::{
    Algorithm, BalancingMethod, ConsistentHash, HashKey, LoadFactor, SlowStart, TrafficPolicy,
};

use super::*;

fn per_request(algorithm: Algorithm) -> BalancingMethod {
    BalancingMethod::PerRequest {
        algorithm,
        slow_start: SlowStart::new(Duration::from_secs(30)),
    }
}

fn balanced(name: &str, of: &BalancingMethod) -> proto::Resource {
    let third = if name == "v1" { 1 } else { 2 };
    let endpoint = |n: u8| Endpoint {
        address: SocketAddr::from(([10, 1, third, n], 80)),
        identity: None,
    };
    let id = ServicePort::new("shop", name, 80);
    let endpoints = (0..5).map(endpoint).collect();
    encode::endpoints(&EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            load_balancing: Some(of.clone().into()),
            ..TrafficPolicy::default()
        })),
        ..EndpointSet::new(id, Protocol::Http1, endpoints)
    })
}

#[tokio::test]
async fn backend_weights_hold_under_every_algorithm() {
    const REQUESTS: u32 = 10_000;
    let hash = BalancingMethod::ConsistentHash(ConsistentHash {
        key: HashKey::SourceAddress,
        load_factor: LoadFactor::new(125),
    });
    for balancing in [
        per_request(Algorithm::PeakEwma),
        per_request(Algorithm::LeastRequest),
        per_request(Algorithm::RoundRobin),
        per_request(Algorithm::Random),
        hash,
    ] {
        let (store, _requests) = store();
        let backends = [("v1", 90), ("v2", 10)].map(|(name, weight)| WeightedBackend {
            weight,
            backend: Backend::Service(ServicePort::new("shop", name, 80)),
            filters: Vec::new(),
        });
        store.apply(update(vec![
            balanced("v1", &balancing),
            balanced("v2", &balancing),
            encode::destination(&Destination {
                address: at("10.0.0.1:80"),
                target: Target::Service(Arc::new(Service {
                    id: ServicePort::new("shop", "reviews", 80),
                    protocol: Protocol::Http1,
                    routing: Routing::Direct(backends.to_vec()),
                })),
            }),
        ]));
        let resolved = watched(&store, "10.0.0.1:80").await.load();
        let Resolved::Service(service) = &**resolved else {
            panic!("no service");
        };
        let ResolvedRouting::Direct(rule) = &service.routing else {
            panic!("routes");
        };
        let mut first = 0;
        let mut used = HashSet::new();
        for request in 0..REQUESTS {
            let cluster = rule.pick_backend().unwrap().target.as_ref().unwrap();
            let client = std::net::IpAddr::from(request.to_be_bytes());
            let endpoint = cluster.pick(&[], Some(client)).unwrap();
            let own = u32::from(endpoint.address.to_string().starts_with("10.1.1."));
            assert_eq!(own == 1, &*cluster.name == "shop/v1:80");
            first += own;
            used.insert(endpoint.address);
        }
        let expected = REQUESTS / 10 * 9;
        assert!(
            first.abs_diff(expected) <= REQUESTS / 50,
            "{balancing:?}: {first}"
        );
        assert_eq!(used.len(), 10, "{balancing:?}");
    }
}
