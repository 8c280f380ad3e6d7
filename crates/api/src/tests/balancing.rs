//! Load balancing: both ways, unknown values, and invalid ones.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use proto::resource::Body;
use weft_ir::{
    Algorithm, BalancingMethod, ConsistentHash, EndpointSet, HashCookie, HashKey, LoadBalancing,
    LoadFactor, Protocol, ServicePort, SlowStart, TrafficPolicy, ZonePreference,
};

use crate::{Resource, decode, encode, proto};

fn set(load_balancing: LoadBalancing) -> EndpointSet {
    let id = ServicePort::new("shop", "web", 80);
    EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            load_balancing: Some(load_balancing),
            ..TrafficPolicy::default()
        })),
        ..EndpointSet::new(id, Protocol::Http1, Vec::new())
    }
}

fn hash(key: HashKey, factor: u32) -> BalancingMethod {
    BalancingMethod::ConsistentHash(ConsistentHash {
        key,
        load_factor: LoadFactor::new(factor),
    })
}

fn cookie(ttl: Option<u64>) -> HashKey {
    let ttl = ttl.map(Duration::from_secs);
    HashKey::Cookie(HashCookie::new("session", "/cart", ttl).unwrap())
}

fn per_request(algorithm: Algorithm, window: u64) -> BalancingMethod {
    BalancingMethod::PerRequest {
        algorithm,
        slow_start: SlowStart::new(Duration::from_secs(window)),
    }
}

#[test]
fn every_algorithm_and_key_decodes_to_the_same_value() {
    for balancing in [
        per_request(Algorithm::PeakEwma, 0),
        per_request(Algorithm::LeastRequest, 30),
        per_request(Algorithm::RoundRobin, 3600),
        per_request(Algorithm::Random, 1),
        hash(HashKey::Header(HeaderName::from_static("x-user")), 0),
        hash(cookie(None), 100),
        hash(cookie(Some(0)), 1000),
        hash(cookie(Some(3600)), 125),
        hash(HashKey::QueryParameter("user id".to_owned()), 0),
        hash(HashKey::SourceAddress, 0),
    ] {
        for zones in [
            ZonePreference::Service,
            ZonePreference::Prefer,
            ZonePreference::Require,
            ZonePreference::Disabled,
        ] {
            let method = balancing.clone();
            let set = set(LoadBalancing { method, zones });
            let decoded = decode::resource(encode::endpoints(&set)).unwrap();
            assert_eq!(decoded.2, Resource::Endpoints(set));
        }
    }
}

/// Changes the section as it is sent.
fn changed(
    of: BalancingMethod,
    change: impl FnOnce(&mut proto::LoadBalancing),
) -> Result<Option<Arc<TrafficPolicy>>, String> {
    let mut resource = encode::endpoints(&set(of.into()));
    let Some(Body::Endpoints(wire)) = &mut resource.body else {
        panic!("endpoints");
    };
    let traffic = wire.traffic.as_mut().unwrap();
    change(traffic.load_balancing.as_mut().unwrap());
    match decode::resource(resource) {
        Ok((_, _, Resource::Endpoints(set))) => Ok(set.traffic),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn what_a_newer_controller_names_is_as_without_the_field() {
    use proto::load_balancing::Algorithm as Wire;
    type Change = fn(&mut proto::LoadBalancing);
    let newer: [(BalancingMethod, Change); 4] = [
        (per_request(Algorithm::PeakEwma, 0), |of| of.zones = 1000),
        (per_request(Algorithm::Random, 0), |of| of.algorithm = None),
        (per_request(Algorithm::Random, 0), |of| {
            of.algorithm = Some(Wire::PerRequest(proto::PerRequestBalancing {
                algorithm: 1000,
                slow_start_milliseconds: 1000,
            }));
        }),
        (hash(HashKey::SourceAddress, 0), |of| {
            of.algorithm = Some(Wire::ConsistentHash(proto::ConsistentHash::default()));
        }),
    ];
    for (of, change) in newer {
        let policy = changed(of, change).unwrap();
        let section = policy.and_then(|of| of.load_balancing.clone());
        assert_eq!(section, Some(LoadBalancing::default()));
    }
}

#[test]
fn invalid_load_balancing_is_rejected_with_the_field() {
    use proto::consistent_hash::Key;
    use proto::load_balancing::Algorithm as Wire;
    fn hash_of(of: &mut proto::LoadBalancing) -> &mut proto::ConsistentHash {
        match &mut of.algorithm {
            Some(Wire::ConsistentHash(hash)) => hash,
            _ => panic!("a hash"),
        }
    }
    let cookie = |name: &str, path: &str, ttl_seconds| {
        Some(Key::Cookie(proto::HashCookie {
            name: name.to_owned(),
            path: path.to_owned(),
            ttl_seconds,
        }))
    };
    for (field, key) in [
        ("load_balancing.header", Some(Key::Header("a b".to_owned()))),
        ("load_balancing.cookie", cookie("a b", "/", None)),
        ("load_balancing.cookie", cookie("a", "/;", None)),
        ("load_balancing.cookie", cookie("a", "/", Some(u32::MAX))),
    ] {
        let of = hash(HashKey::SourceAddress, 0);
        let error = changed(of, |wire| hash_of(wire).key = key).unwrap_err();
        assert!(error.contains(field), "{field}: {error}");
    }
    let error = changed(hash(HashKey::SourceAddress, 100), |wire| {
        hash_of(wire).load_factor_percent = 99;
    });
    assert!(error.unwrap_err().contains("load_factor_percent"));
    let error = changed(per_request(Algorithm::Random, 1), |wire| {
        if let Some(Wire::PerRequest(of)) = &mut wire.algorithm {
            of.slow_start_milliseconds = 999;
        }
    });
    assert!(error.unwrap_err().contains("slow_start_milliseconds"));
}
