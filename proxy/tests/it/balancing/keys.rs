//! Requests with the same key go to the same endpoint.

use super::*;

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
async fn retry_goes_to_the_next_endpoint_on_the_ring() {
    let failing = Upstream::start("failing", Speaks::Silent).await.unwrap();
    let good = Upstream::start("good", Speaks::Http1).await.unwrap();
    let endpoints = vec![unmeshed(failing.address()), unmeshed(good.address())];
    let pod = client_pod();
    let mut rule = rule(0, vec![to("reviews", 1)]);
    rule.timeouts.backend = weft_ir::TimeLimit::Within(Duration::from_millis(100));
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
