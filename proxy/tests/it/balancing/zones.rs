//! Endpoints of the zone of the client.

use super::*;

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
