//! Selection of endpoints as the Service asks: topology hints of EndpointSlices, and
//! sessionAffinity.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::support::gateway::{
    GatewayPod, all_to, at, free_port, host, listener, port as open_port,
};
use crate::support::*;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_api::{encode, proto};
use weft_ir::{
    Choice, Endpoint, EndpointSet, Hints, Locality, Mode, Protocol, Routing, Serving, Workload,
};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

/// The applications of one Service, and its endpoint set.
struct Apps(Vec<Upstream>);

impl Apps {
    async fn start(names: &[&str]) -> Self {
        let mut apps = Vec::new();
        for name in names {
            apps.push(Upstream::start(name, Speaks::Http1).await.unwrap());
        }
        Self(apps)
    }

    /// The endpoint set without the applications at the indexes `left_out`.
    fn set(&self, choice: Choice, left_out: &[usize]) -> proto::Resource {
        let apps = self.0.iter().enumerate();
        let apps = apps.filter(|(place, _)| !left_out.contains(place));
        let endpoints: Vec<Endpoint> = apps.map(|(_, app)| unmeshed(app.address())).collect();
        encode::endpoints(&EndpointSet {
            choice,
            ..EndpointSet::new(port("reviews"), Protocol::Http1, endpoints)
        })
    }

    /// Topology hints that assign each application to its zone.
    fn zoned(&self, zones: &[&str]) -> Choice {
        let hints = self.0.iter().zip(zones).map(|(app, zone)| {
            let hints = Hints {
                zones: [(*zone).to_owned()].into(),
                ..Hints::default()
            };
            (app.address(), hints)
        });
        Choice {
            hints: hints.collect(),
            affinity: None,
        }
    }
}

fn workload(pod: &Pod, zone: &str) -> proto::Resource {
    let locality = Locality {
        node: "node1".to_owned(),
        zone: zone.to_owned(),
    };
    encode::workload(&Workload {
        locality,
        ..Workload::new(pod.identity.clone(), Mode::Permissive)
    })
}

fn client_pod() -> Pod {
    Pod::start(&Pki::new().unwrap(), "frontend", Mode::Permissive)
}

fn direct() -> proto::Resource {
    service(Protocol::Http1, Routing::Direct(vec![to("reviews", 1)]))
}

/// Sends 60 requests; returns how many each application got.
async fn shares(front: SocketAddr) -> BTreeMap<String, usize> {
    let mut client = Client::connect(front, Version::Http1).await;
    let mut shares = BTreeMap::new();
    for _ in 0..60 {
        let seen = client.get("/").await;
        assert_eq!(seen.status, 200);
        *shares
            .entry(seen.header("x-upstream").to_owned())
            .or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn zone_endpoints_are_preferred_while_healthy() {
    let mut apps = Apps::start(&["a1", "a2", "b1"]).await;
    let choice = apps.zoned(&["a", "a", "b"]);
    let pod = client_pod();
    pod.tell(vec![apps.set(choice.clone(), &[]), direct()]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    // The pod's own zone is not known yet, so all endpoints are equal.
    assert_eq!(shares(front).await.len(), 3);
    // The zone becomes known; the endpoints are not sent again.
    pod.tell(vec![workload(&pod, "b")]);
    assert_eq!(shares(front).await, [("b1".to_owned(), 60)].into());
    pod.tell(vec![workload(&pod, "a")]);
    let in_zone = shares(front).await;
    assert!(!in_zone.contains_key("b1"), "{in_zone:?}");
    // The zone's endpoint stops before the controller knows: requests go elsewhere, none fails.
    pod.tell(vec![workload(&pod, "b")]);
    apps.0.remove(2).stop().await;
    let elsewhere = shares(front).await;
    assert!(!elsewhere.contains_key("b1"), "{elsewhere:?}");
}

#[tokio::test]
async fn overloaded_zone_endpoint_spills_to_other_zone() {
    let far = Upstream::start("far", Speaks::Http1).await.unwrap();
    let near = Upstream::start("near", Speaks::Silent).await.unwrap();
    let zone = |zone: &str| Hints {
        zones: [zone.to_owned()].into(),
        ..Hints::default()
    };
    let choice = Choice {
        hints: [(near.address(), zone("a")), (far.address(), zone("b"))].into(),
        affinity: None,
    };
    let endpoints = vec![unmeshed(near.address()), unmeshed(far.address())];
    let pod = client_pod();
    pod.tell(vec![
        workload(&pod, "a"),
        encode::endpoints(&EndpointSet {
            choice,
            ..EndpointSet::new(port("reviews"), Protocol::Http1, endpoints)
        }),
        direct(),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    // Requests whose clients wait for a response.
    let mut waiting = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(front).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        waiting.push(stream);
    }
    let all_sent = async {
        while near.connections() < 32 {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, all_sent)
        .await
        .expect("all requests reach the near endpoint");
    let mut client = Client::connect(front, Version::Http1).await;
    assert_eq!(client.get("/").await.header("x-upstream"), "far");
}

fn sticky(kept: u64) -> Choice {
    Choice {
        affinity: Some(Duration::from_secs(kept)),
        ..Choice::default()
    }
}

/// Returns the application that serves a request from this loopback address.
async fn from(client: u8, number: u16) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 7, client), 0));
    socket.bind(own).unwrap();
    let stream = socket.connect(at(number)).await.unwrap();
    let mut client = Client::over(stream, Version::Http1).await;
    let seen = client.send(Request::get("/").header("host", "a"), "").await;
    assert_eq!(seen.status, 200);
    seen.header("x-upstream").to_owned()
}

#[tokio::test]
async fn gateway_client_keeps_its_endpoint_with_session_affinity() {
    let apps = Apps::start(&["v1", "v2", "v3"]).await;
    let gateway = GatewayPod::start();
    let number = free_port();
    let rules = vec![host("", all_to("reviews"))];
    gateway.tell(vec![
        // The third endpoint is added later.
        apps.set(sticky(600), &[2]),
        open_port(number, Serving::Http(vec![listener("any", "", rules)])),
    ]);
    let mut given = BTreeMap::new();
    for client in 1..=20 {
        given.insert(client, from(client, number).await);
    }
    let used: std::collections::BTreeSet<&String> = given.values().collect();
    assert_eq!(used.len(), 2, "{given:?}");
    // Other clients and added endpoints move no client.
    gateway.tell(vec![apps.set(sticky(600), &[])]);
    for (client, known) in &given {
        assert_eq!(from(*client, number).await, *known, "client {client}");
    }
    // A removed endpoint moves its own clients only; they keep their new endpoint when it returns.
    gateway.tell(vec![apps.set(sticky(600), &[0])]);
    let mut moved = given.clone();
    for (client, known) in &given {
        let now = from(*client, number).await;
        assert_eq!(
            now == *known,
            known != "v1",
            "client {client}: {known} -> {now}"
        );
        moved.insert(*client, now);
    }
    gateway.tell(vec![apps.set(sticky(600), &[])]);
    for (client, known) in &moved {
        assert_eq!(from(*client, number).await, *known, "client {client}");
    }
}

#[tokio::test]
async fn session_affinity_treats_pod_as_one_client() {
    let mut apps = Apps::start(&["v1", "v2", "v3"]).await;
    let pod = client_pod();
    pod.tell(vec![apps.set(sticky(600), &[]), direct()]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let first = shares(front).await;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(shares(front).await, first);
    // The same on another connection.
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let known = first.keys().next().unwrap();
    assert!(answer.contains(&format!("x-upstream: {known}")), "{answer}");
    // When the endpoint is down, its clients are served by another one.
    let place = ["v1", "v2", "v3"].iter().position(|name| name == known);
    apps.0.remove(place.unwrap()).stop().await;
    let second = shares(front).await;
    assert!(
        second.len() == 1 && !second.contains_key(known),
        "{second:?}"
    );
}
