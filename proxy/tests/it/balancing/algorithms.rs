//! Requests that are balanced by themselves, and bounds of the load.

use super::*;

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
