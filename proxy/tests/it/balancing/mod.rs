//! TrafficPolicies: which endpoint takes a request.

mod algorithms;
mod keys;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::support::gateway::{
    GatewayPod, all_to, at, free_port, gateway, host, listener, port as open,
};
use crate::support::*;
use http::request::Builder;
use http::{HeaderName, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_api::{encode, proto};
use weft_ir::{
    Algorithm, BalancingMethod, Choice, ConsistentHash, Endpoint, EndpointSet, HashCookie, HashKey,
    Hints, LoadBalancing, LoadFactor, Locality, Mode, Protocol, Retry, Routing, Serving, SlowStart,
    TrafficPolicy, Workload, ZonePreference,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

const NAMES: [&str; 4] = ["v1", "v2", "v3", "v4"];

/// The applications of one Service.
struct Apps(Vec<Upstream>);

impl Apps {
    async fn start(speaks: Speaks) -> Self {
        let mut apps = Vec::new();
        for name in NAMES {
            apps.push(Upstream::start(name, speaks).await.unwrap());
        }
        Self(apps)
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.0.iter().map(|app| unmeshed(app.address())).collect()
    }

    /// Places the applications in zones; the empty one is none.
    fn zones(&self, zones: [&str; 4]) -> Choice {
        let of = |zone: &str| Hints {
            zones: [zone.to_owned()].into(),
            ..Hints::default()
        };
        let placed = self.0.iter().zip(zones);
        let placed = placed.filter(|(_, zone)| !zone.is_empty());
        Choice {
            hints: placed
                .map(|(app, zone)| (app.address(), of(zone)))
                .collect(),
            affinity: None,
        }
    }

    fn preferring(
        &self,
        zones: ZonePreference,
        method: BalancingMethod,
        choice: Choice,
    ) -> proto::Resource {
        let policy = TrafficPolicy {
            load_balancing: Some(LoadBalancing { method, zones }),
            ..TrafficPolicy::default()
        };
        encode::endpoints(&EndpointSet {
            choice,
            traffic: Some(Arc::new(policy)),
            ..EndpointSet::new(port("reviews"), Protocol::Http1, self.endpoints())
        })
    }

    fn set(&self, balancing: BalancingMethod) -> proto::Resource {
        self.chosen(balancing, Choice::default())
    }

    fn chosen(&self, balancing: BalancingMethod, choice: Choice) -> proto::Resource {
        let set = set(self.endpoints(), balancing);
        encode::endpoints(&EndpointSet { choice, ..set })
    }
}

/// Places the proxy in a zone.
fn in_zone(pod: &Pod, zone: &str) -> proto::Resource {
    let locality = Locality {
        node: "node1".to_owned(),
        zone: zone.to_owned(),
    };
    encode::workload(&Workload {
        locality,
        ..Workload::new(pod.identity.clone(), Mode::Permissive)
    })
}

fn set(endpoints: Vec<Endpoint>, balancing: BalancingMethod) -> EndpointSet {
    EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            load_balancing: Some(balancing.into()),
            ..TrafficPolicy::default()
        })),
        ..EndpointSet::new(port("reviews"), Protocol::Http1, endpoints)
    }
}

fn per_request(algorithm: Algorithm) -> BalancingMethod {
    BalancingMethod::PerRequest {
        algorithm,
        slow_start: None,
    }
}

fn hash(key: HashKey) -> BalancingMethod {
    BalancingMethod::ConsistentHash(ConsistentHash {
        key,
        load_factor: None,
    })
}

fn by_header() -> BalancingMethod {
    hash(HashKey::Header(HeaderName::from_static("x-user")))
}

fn by_cookie() -> BalancingMethod {
    let cookie = HashCookie::new("session", "/", Some(Duration::from_secs(3600)));
    hash(HashKey::Cookie(cookie.unwrap()))
}

fn client_pod() -> Pod {
    Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive)
}

fn direct() -> proto::Resource {
    service(Protocol::Http1, Routing::Direct(vec![to("reviews", 1)]))
}

/// A client pod with these endpoints, and where its application connects to.
fn pod_with(set: proto::Resource) -> (Pod, SocketAddr) {
    let pod = client_pod();
    pod.tell(vec![set, direct()]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    (pod, front)
}

fn user(number: usize) -> Builder {
    Request::get("/").header("x-user", format!("user-{number}"))
}

/// Returns the application that answers.
async fn answers(client: &mut Client, request: Builder) -> String {
    let seen = client.send(request, "").await;
    assert_eq!(seen.status, 200);
    seen.header("x-upstream").to_owned()
}

/// Returns the application of each of so many users.
async fn users(front: SocketAddr, count: usize) -> Vec<String> {
    let mut client = Client::connect(front, Version::Http1).await;
    let mut given = Vec::new();
    for number in 0..count {
        given.push(answers(&mut client, user(number)).await);
    }
    given
}

/// Sends requests without a key one after the other; returns how many each application got.
async fn shares(front: SocketAddr, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(front, Version::Http1).await;
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let name = answers(&mut client, Request::get("/")).await;
        *shares.entry(name).or_default() += 1;
    }
    shares
}

fn distinct(names: &[String]) -> usize {
    names.iter().collect::<BTreeSet<_>>().len()
}
