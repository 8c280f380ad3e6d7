//! TrafficPolicies: which endpoint takes a request.

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

#[tokio::test]
async fn header_has_the_same_endpoint_from_every_proxy_and_in_any_order() {
    let apps = Apps::start(Speaks::Http1).await;
    let (_pod, front) = pod_with(apps.set(by_header()));
    let mut reversed = apps.endpoints();
    reversed.reverse();
    let (_other, other_front) = pod_with(encode::endpoints(&set(reversed, by_header())));
    let given = users(front, 60).await;
    assert_eq!(distinct(&given), 4, "{given:?}");
    assert_eq!(users(front, 60).await, given);
    assert_eq!(users(other_front, 60).await, given);
    // Without the header each request is balanced by itself.
    assert!(shares(front, 60).await.len() > 1);
}

#[tokio::test]
async fn users_of_an_endpoint_that_stops_or_leaves_move_and_come_back() {
    let mut apps = Apps::start(Speaks::Http1).await;
    let (pod, front) = pod_with(apps.set(by_header()));
    let given = users(front, 60).await;
    let stopped = apps.0.pop().unwrap();
    let address = stopped.address();
    stopped.stop().await;
    let moved = |now: &[String]| {
        for (before, now) in given.iter().zip(now) {
            assert_eq!(before == now, before != "v4", "{before} to {now}");
        }
    };
    // It does not answer; then it is gone.
    let now = users(front, 60).await;
    moved(&now);
    let pairs = now.iter().zip(&given);
    let instead = pairs.filter(|(_, before)| *before == "v4");
    let instead: Vec<String> = instead.map(|(now, _)| now.clone()).collect();
    assert!(distinct(&instead) > 1, "one takes over all: {instead:?}");
    pod.tell(vec![apps.set(by_header())]);
    assert_eq!(users(front, 60).await, now);
    apps.0.push(
        Upstream::start_at(address, "v4", Speaks::Http1)
            .await
            .unwrap(),
    );
    // A probe finds that it is back; or the policy of a new version of the set does not wait.
    let back = async {
        loop {
            pod.tell(vec![apps.set(by_header())]);
            if users(front, 60).await == given {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, back).await.expect("it is back");
}

#[tokio::test]
async fn cookie_is_made_for_clients_without_one_and_followed() {
    let apps = Apps::start(Speaks::Http1).await;
    let (_pod, front) = pod_with(apps.set(by_cookie()));
    let mut client = Client::connect(front, Version::Http1).await;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        let first = client.get("/").await;
        let set = first.header("set-cookie").to_owned();
        let (cookie, attributes) = set.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        assert_eq!(cookie.len(), "session=".len() + 16, "{cookie}");
        let follow = Request::get("/").header("cookie", format!("a=b; {cookie}"));
        let second = client.send(follow, "").await;
        assert_eq!(second.header("x-upstream"), first.header("x-upstream"));
        assert_eq!(second.header("set-cookie"), "", "it has one");
        sessions.push((cookie.to_owned(), first.header("x-upstream").to_owned()));
    }
    let cookies: BTreeSet<&String> = sessions.iter().map(|(cookie, _)| cookie).collect();
    assert_eq!(cookies.len(), 40);
    let names: Vec<String> = sessions.into_iter().map(|(_, name)| name).collect();
    assert_eq!(distinct(&names), 4, "{names:?}");
}

#[tokio::test]
async fn cookie_reaches_the_clients_of_a_gateway() {
    let apps = Apps::start(Speaks::Http1).await;
    let gateway = GatewayPod::start();
    let number = free_port();
    let rules = vec![host("", all_to("reviews"))];
    gateway.tell(vec![
        apps.set(by_cookie()),
        open(number, Serving::Http(vec![listener("any", "", rules)])),
    ]);
    let mut client = Client::connect(at(number), Version::Http2).await;
    let first = client.get("/").await;
    let set = first.header("set-cookie");
    let (cookie, _) = set.split_once(';').unwrap();
    for _ in 0..20 {
        let follow = Request::get("/").header("cookie", cookie);
        let name = answers(&mut client, follow).await;
        assert_eq!(name, first.header("x-upstream"));
    }
}

#[tokio::test]
async fn query_parameter_is_a_key() {
    let apps = Apps::start(Speaks::Http1).await;
    let key = HashKey::QueryParameter("user id".to_owned());
    let (_pod, front) = pod_with(apps.set(hash(key)));
    let mut client = Client::connect(front, Version::Http1).await;
    let mut given = Vec::new();
    for user in 0..40 {
        let plain = Request::get(format!("/a?user+id=u-{user}&b"));
        let encoded = Request::get(format!("/c?d=e&user%20id=u%2D{user}"));
        let name = answers(&mut client, plain).await;
        assert_eq!(answers(&mut client, encoded).await, name);
        given.push(name);
    }
    assert_eq!(distinct(&given), 4, "{given:?}");
}

/// Connects from this loopback address.
async fn from(client: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 7, client), 0));
    socket.bind(own).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn source_address_is_a_key_of_requests_and_of_connections() {
    let apps = Apps::start(Speaks::Http1).await;
    let (_pod, front) = pod_with(apps.set(hash(HashKey::SourceAddress)));
    let mut given = Vec::new();
    for client in 1..=20 {
        let mut names = Vec::new();
        for _ in 0..3 {
            let mut client = Client::over(from(client, front).await, Version::Http1).await;
            names.push(answers(&mut client, Request::get("/")).await);
        }
        assert_eq!(distinct(&names), 1, "{names:?}");
        given.push(names.remove(0));
    }
    assert!(distinct(&given) > 2, "{given:?}");
}

#[tokio::test]
async fn source_address_at_a_gateway_is_that_of_the_trusted_hops() {
    let apps = Apps::start(Speaks::Http1).await;
    let affinity = Choice {
        affinity: Some(Duration::from_secs(600)),
        ..Choice::default()
    };
    let turns = per_request(Algorithm::RoundRobin);
    for set in [
        apps.set(hash(HashKey::SourceAddress)),
        apps.chosen(turns, affinity),
    ] {
        let pod = GatewayPod::start();
        let number = free_port();
        let rules = vec![host("", all_to("reviews"))];
        let serving = Serving::Http(vec![listener("any", "", rules)]);
        pod.tell(vec![set, open(number, serving)]);
        for hops in [0, 1] {
            let mut trusting = gateway();
            trusting.forwarded.hops = hops;
            pod.tell(vec![encode::gateway(&trusting)]);
            let mut client = Client::connect(at(number), Version::Http1).await;
            let mut given = Vec::new();
            for address in 1..=40 {
                let forwarded = || {
                    let address = format!("192.0.2.{address}");
                    Request::get("/").header("x-forwarded-for", address)
                };
                given.push(answers(&mut client, forwarded()).await);
                assert_eq!(answers(&mut client, forwarded()).await, given[address - 1]);
            }
            // Without trusted hops all are one client.
            let expected = if hops == 0 { 1 } else { 4 };
            assert_eq!(distinct(&given), expected, "{hops}: {given:?}");
        }
    }
}

/// Returns the name of the application that answers bytes.
async fn greeting(mut stream: TcpStream) -> u8 {
    stream.write_all(b"\0hello").await.unwrap();
    stream.read_u8().await.unwrap()
}

#[tokio::test]
async fn connections_of_bytes_have_no_key_but_their_source() {
    let mut endpoints = Vec::new();
    for name in 0..4_u8 {
        let address = application(move |mut stream| async move {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(&[name]).await;
        });
        endpoints.push(unmeshed(address.await));
    }
    for (balancing, is_sticky) in [(hash(HashKey::SourceAddress), true), (by_header(), false)] {
        let pod = client_pod();
        let set = EndpointSet {
            protocol: Protocol::Detect,
            ..set(endpoints.clone(), balancing)
        };
        let routing = Routing::Direct(vec![to("reviews", 1)]);
        pod.tell(vec![
            encode::endpoints(&set),
            service(Protocol::Detect, routing),
        ]);
        let front = pod.outbound(SERVICE.parse().unwrap());
        let mut names = BTreeSet::new();
        for _ in 0..20 {
            names.insert(greeting(from(1, front).await).await);
        }
        assert_eq!(names.len() == 1, is_sticky, "{names:?}");
        for client in 2..20 {
            names.insert(greeting(from(client, front).await).await);
        }
        assert!(names.len() > 2, "{names:?}");
    }
}

#[tokio::test]
async fn algorithms_share_requests_of_equal_endpoints() {
    for (algorithm, least) in [
        (Algorithm::RoundRobin, 100),
        (Algorithm::Random, 60),
        (Algorithm::LeastRequest, 60),
        (Algorithm::PeakEwma, 1),
    ] {
        let apps = Apps::start(Speaks::Http1).await;
        let (_pod, front) = pod_with(apps.set(per_request(algorithm)));
        let shares = shares(front, 400).await;
        assert_eq!(shares.len(), 4, "{algorithm:?} {shares:?}");
        let is_share = |taken: &usize| *taken >= least;
        assert!(shares.values().all(is_share), "{algorithm:?} {shares:?}");
    }
}

#[tokio::test]
async fn least_request_avoids_the_endpoint_that_is_busy() {
    let busy = Upstream::start("busy", Speaks::Silent).await.unwrap();
    let free = Upstream::start("free", Speaks::Http1).await.unwrap();
    let endpoints = vec![unmeshed(busy.address()), unmeshed(free.address())];
    let balancing = per_request(Algorithm::LeastRequest);
    let (_pod, front) = pod_with(encode::endpoints(&set(endpoints, balancing)));
    // One request of some waits for the busy one; then it gets none.
    let mut waiting = Vec::new();
    while busy.connections() == 0 {
        let mut stream = TcpStream::connect(front).await.unwrap();
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        sent.await.unwrap();
        let read = stream.read_u8();
        let _ = tokio::time::timeout(Duration::from_millis(50), read).await;
        waiting.push(stream);
    }
    assert_eq!(shares(front, 50).await, [("free".to_owned(), 50)].into());
}

#[tokio::test]
async fn hot_key_never_gives_an_endpoint_more_than_the_factor_of_the_average() {
    let apps = Apps::start(Speaks::Silent).await;
    let balancing = BalancingMethod::ConsistentHash(ConsistentHash {
        key: HashKey::Header(HeaderName::from_static("x-user")),
        load_factor: LoadFactor::new(125),
    });
    let (_pod, front) = pod_with(apps.set(balancing));
    let mut waiting = Vec::new();
    let sent = async {
        for number in 1..=40 {
            let mut stream = TcpStream::connect(front).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nx-user: hot\r\n\r\n";
            stream.write_all(request).await.unwrap();
            waiting.push(stream);
            let active = || apps.0.iter().map(Upstream::connections);
            while active().sum::<usize>() < number {
                tokio::task::yield_now().await;
            }
            let most = 1.25 * number as f64 / 4.0 + 1.0;
            let is_bounded = |active: usize| active as f64 <= most;
            assert!(
                active().all(is_bounded),
                "{:?}",
                active().collect::<Vec<_>>()
            );
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, sent)
        .await
        .expect("all are sent");
    // Its own endpoint has the most that it may, and only as many others as are needed have any.
    let most = apps.0.iter().map(Upstream::connections).max();
    assert_eq!(most, Some(13));
}

#[tokio::test]
async fn retry_goes_to_the_next_endpoint_on_the_ring() {
    let failing = Upstream::start("failing", Speaks::Silent).await.unwrap();
    let good = Upstream::start("good", Speaks::Http1).await.unwrap();
    let endpoints = vec![unmeshed(failing.address()), unmeshed(good.address())];
    let pod = client_pod();
    let mut rule = rule(0, vec![to("reviews", 1)]);
    rule.timeouts.backend = Some(Duration::from_millis(100));
    rule.retry = Some(Retry {
        codes: vec![StatusCode::GATEWAY_TIMEOUT],
        attempts: 1,
        backoff: Duration::ZERO,
    });
    pod.tell(vec![
        encode::endpoints(&set(endpoints, by_header())),
        service(Protocol::Http1, Routing::Http(vec![Arc::new(rule)])),
    ]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let given = users(front, 20).await;
    assert!(given.iter().all(|name| name == "good"), "{given:?}");
    assert!(failing.connections() > 0);
}

#[tokio::test]
async fn keys_stay_in_the_zone_while_it_is_healthy() {
    let mut apps = Apps::start(Speaks::Http1).await;
    let choice = apps.zones(["a", "b", "a", "b"]);
    let pod = client_pod();
    pod.tell(vec![apps.chosen(by_header(), choice), direct()]);
    let front = pod.outbound(SERVICE.parse().unwrap());
    let anywhere = users(front, 60).await;
    assert_eq!(distinct(&anywhere), 4);
    // The place of the proxy becomes known: the order of the endpoints changes, the ring does not.
    pod.tell(vec![in_zone(&pod, "b")]);
    let near = users(front, 60).await;
    for (anywhere, near) in anywhere.iter().zip(&near) {
        assert!(["v2", "v4"].contains(&&**near), "{near}");
        let is_near = ["v2", "v4"].contains(&&**anywhere);
        assert!(!is_near || anywhere == near, "{anywhere} to {near}");
    }
    apps.0.remove(3).stop().await;
    apps.0.remove(1).stop().await;
    let far = users(front, 60).await;
    assert!(far.iter().all(|name| ["v1", "v3"].contains(&&**name)));
}

fn names(shares: &BTreeMap<String, usize>) -> Vec<&str> {
    shares.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn zone_is_preferred_though_an_endpoint_has_none() {
    let mut apps = Apps::start(Speaks::Http1).await;
    // Hints would not apply: one endpoint has none.
    let zones = apps.zones(["a", "b", "b", ""]);
    let turns = || per_request(Algorithm::RoundRobin);
    let prefer = apps.preferring(ZonePreference::Prefer, turns(), zones.clone());
    let (pod, front) = pod_with(prefer);
    assert_eq!(shares(front, 40).await.len(), 4, "its zone is not known");
    pod.tell(vec![in_zone(&pod, "b")]);
    assert_eq!(names(&shares(front, 40).await), ["v2", "v3"]);
    for preference in [ZonePreference::Service, ZonePreference::Disabled] {
        pod.tell(vec![apps.preferring(preference, turns(), zones.clone())]);
        assert_eq!(shares(front, 40).await.len(), 4, "{preference:?}");
    }
    // Others are used while none of the zone answers.
    pod.tell(vec![apps.preferring(
        ZonePreference::Prefer,
        turns(),
        zones,
    )]);
    apps.0.remove(2).stop().await;
    apps.0.remove(1).stop().await;
    assert_eq!(names(&shares(front, 40).await), ["v1", "v4"]);
}

#[tokio::test]
async fn zone_that_is_required_is_never_left() {
    for method in [
        per_request(Algorithm::PeakEwma),
        per_request(Algorithm::RoundRobin),
        by_header(),
    ] {
        let mut apps = Apps::start(Speaks::Http1).await;
        let zones = apps.zones(["a", "b", "b", ""]);
        let require = |affinity| {
            let choice = Choice {
                affinity,
                ..zones.clone()
            };
            apps.preferring(ZonePreference::Require, method.clone(), choice)
        };
        let sticky = Some(Duration::from_secs(600));
        let (pod, front) = pod_with(require(sticky));
        let mut client = Client::connect(front, Version::Http1).await;
        assert_eq!(client.get("/").await.status, 503, "its zone is not known");
        pod.tell(vec![in_zone(&pod, "b")]);
        for affinity in [sticky, None] {
            pod.tell(vec![require(affinity)]);
            let is_near = |name: &str| name == "v2" || name == "v3";
            let keyed = users(front, 40).await;
            assert!(keyed.iter().all(|name| is_near(name)), "{keyed:?}");
            let unkeyed = shares(front, 20).await;
            assert!(names(&unkeyed).into_iter().all(is_near), "{unkeyed:?}");
        }
        // None of the zone answers.
        apps.0.remove(2).stop().await;
        apps.0.remove(1).stop().await;
        for number in 0..20 {
            assert_eq!(client.send(user(number), "").await.status, 503);
        }
    }
}

#[tokio::test]
async fn key_of_the_policy_comes_before_session_affinity_and_an_algorithm_after_it() {
    let apps = Apps::start(Speaks::Http1).await;
    let sticky = || Choice {
        affinity: Some(Duration::from_secs(600)),
        ..Choice::default()
    };
    let (pod, front) = pod_with(apps.chosen(by_header(), sticky()));
    assert_eq!(distinct(&users(front, 60).await), 4);
    assert_eq!(shares(front, 20).await.len(), 1, "without the header");
    pod.tell(vec![
        apps.chosen(per_request(Algorithm::RoundRobin), sticky()),
    ]);
    assert_eq!(shares(front, 20).await.len(), 1);
}

#[tokio::test]
async fn new_endpoint_starts_slowly_and_first_endpoints_do_not() {
    let apps = Apps::start(Speaks::Http1).await;
    let balancing = BalancingMethod::PerRequest {
        algorithm: Algorithm::RoundRobin,
        slow_start: SlowStart::new(Duration::from_secs(3600)),
    };
    let mut endpoints = apps.endpoints();
    let last = endpoints.pop().unwrap();
    let three = encode::endpoints(&set(endpoints, balancing.clone()));
    let (pod, front) = pod_with(three);
    let first = shares(front, 300).await;
    assert!(first.values().all(|taken| *taken == 100), "{first:?}");
    pod.tell(vec![apps.set(balancing)]);
    let grown = shares(front, 1_000).await;
    let taken = grown.get("v4").copied().unwrap_or_default();
    assert!((5..100).contains(&taken), "{grown:?} {last:?}");
    // Without slow start it has its turn.
    pod.tell(vec![apps.set(per_request(Algorithm::RoundRobin))]);
    let whole = shares(front, 400).await;
    assert!(whole.values().all(|taken| *taken == 100), "{whole:?}");
}

#[tokio::test]
async fn policies_change_under_traffic_without_failures() {
    let apps = Apps::start(Speaks::Http1).await;
    let (pod, front) = pod_with(apps.set(by_header()));
    let mut client = Client::connect(front, Version::Http1).await;
    for number in 0..200 {
        pod.tell(vec![apps.set(match number % 5 {
            0 => per_request(Algorithm::RoundRobin),
            1 => hash(HashKey::SourceAddress),
            2 => per_request(Algorithm::Random),
            3 => by_cookie(),
            _ => by_header(),
        })]);
        answers(&mut client, user(number)).await;
    }
}
