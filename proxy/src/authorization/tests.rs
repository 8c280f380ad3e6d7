use std::net::Ipv4Addr;

use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, IpNet,
    PolicyEffect, PolicyId, RouteKind, RouteSection, SourceMatch,
};

use super::*;
use crate::telemetry::metrics::Metrics;

/// How long the policies of what is removed are kept.
const GRACE: Duration = Duration::from_secs(15);

fn policies() -> Policies {
    Policies::new(Direction::Gateway, &Metrics::new().decisions)
}

fn deny(networks: &[&str]) -> Authorization {
    let networks = networks.iter().map(|text| text.parse::<IpNet>().unwrap());
    let rule = AuthorizationRule {
        sources: Some(networks.map(SourceMatch::Network).collect()),
        ..AuthorizationRule::default()
    };
    let policy = AuthorizationPolicy {
        id: PolicyId {
            namespace: Some("shop".into()),
            name: "p".into(),
            kind: weft_ir::PolicyKind::Authorization,
        },
        ports: Vec::new(),
        effect: PolicyEffect::Rules(AuthorizationAction::Deny, vec![rule]),
    };
    Authorization {
        policies: vec![Arc::new(policy)],
        ..Authorization::default()
    }
}

fn workload(of: Authorization) -> Authorizations {
    Authorizations {
        workload: of,
        ..Authorizations::default()
    }
}

fn listener(name: &str, of: Authorization) -> Authorizations {
    Authorizations {
        listeners: vec![((80, name.to_owned()), of)],
        ..Authorizations::default()
    }
}

fn client(policies: &Policies, last: u8) -> Arc<ClientPolicies> {
    let address = Ipv4Addr::new(10, 0, 0, last).into();
    ClientPolicies::new(policies, None, address, 80)
}

fn head(path: &str) -> http::request::Parts {
    http::Request::get(path).body(()).unwrap().into_parts().0
}

fn is_denied(client: &Arc<ClientPolicies>) -> bool {
    client.request(&mut head("/"), |_| {}).is_denied()
}

#[test]
fn version_says_whether_policies_are_in_force() {
    let policies = policies();
    let everything = || workload(deny(&["0.0.0.0/0"]));
    assert!(policies.load().is_none());
    policies.publish(&workload(Authorization::default()), None);
    assert_eq!(policies.version(), 0, "nothing has changed");
    policies.publish(&everything(), None);
    let first = policies.version();
    assert!(policies.load().is_some_and(|of| of.version == first));
    policies.publish(&everything(), None);
    assert_ne!(policies.version(), first);
    policies.clear();
    assert!(policies.load().is_none());
    policies.deny_all();
    assert!(is_denied(&client(&policies, 1)));
    assert!(client(&policies, 1).bytes().is_denied());
    assert!(
        client(&policies, 1)
            .listener_bytes(&"any".into())
            .is_denied()
    );
}

#[test]
fn decision_on_client_is_made_once_for_each_version() {
    let policies = policies();
    policies.publish(&workload(deny(&["10.0.0.2/32"])), None);
    let (one, two) = (client(&policies, 1), client(&policies, 2));
    assert!(!is_denied(&one) && is_denied(&two));
    let compiled = policies.load().unwrap();
    let target = compiled.of_workload().unwrap();
    let decide = |address: u8| {
        let address = Ipv4Addr::new(10, 0, 0, address).into();
        one.decision(&compiled, target, address)
    };
    assert!(Arc::ptr_eq(&decide(1), &decide(1)));
    // Those of other clients do not grow without bound.
    let first = decide(1);
    (2..100).for_each(|address| drop(decide(address)));
    assert!(!Arc::ptr_eq(&first, &decide(1)));
    assert_eq!(Arc::strong_count(&first), 1);
    policies.publish(&workload(deny(&["10.0.0.1/32"])), None);
    assert!(is_denied(&one) && !is_denied(&two));
}

#[test]
fn permit_is_revoked_by_a_change_alone() {
    let policies = policies();
    let client = client(&policies, 1);
    let mut permits = [client.request(&mut head("/"), |_| {}), client.bytes()];
    for permit in &mut permits {
        assert!(permit.verdict().is_none() && !permit.is_revoked());
        policies.publish(&workload(deny(&["10.0.0.2/32"])), None);
        assert!(!permit.is_revoked());
        policies.publish(&workload(deny(&["10.0.0.1/32"])), None);
        assert!(permit.is_revoked());
        policies.clear();
        assert!(permit.is_revoked(), "it stays so");
    }
}

#[tokio::test]
async fn revocation_resolves_for_a_change_before_and_after() {
    let policies = policies();
    let client = client(&policies, 1);
    let (mut before, mut after) = (client.bytes(), client.bytes());
    let mut after = Box::pin(Permit::revocation(Some(&mut after)));
    assert!(futures::poll!(&mut after).is_pending());
    policies.publish(&workload(deny(&["10.0.0.2/32"])), None);
    assert!(futures::poll!(&mut after).is_pending());
    policies.publish(&workload(deny(&["10.0.0.1/32"])), None);
    after.await;
    Permit::revocation(Some(&mut before)).await;
}

#[test]
fn paths_are_normalized_only_if_a_rule_of_the_client_reads_them() {
    let policies = policies();
    let mut authorization = deny(&["10.0.0.2/32"]);
    let policy = Arc::make_mut(&mut authorization.policies[0]);
    if let PolicyEffect::Rules(_, rules) = &mut policy.effect {
        rules[0].requests.push(weft_ir::RequestMatch {
            path: Some(weft_ir::PathMatch::Exact("/admin".to_owned())),
            ..weft_ir::RequestMatch::default()
        });
    }
    policies.publish(&workload(authorization), None);
    for (last, normalizes) in [(1, false), (2, true)] {
        let mut normalized = false;
        client(&policies, last).request(&mut head("/"), |_| normalized = true);
        assert_eq!(normalized, normalizes);
    }
    assert!(client(&policies, 1).reads_paths());
}

/// A listener or route that an update removes takes requests until its port has changed, and on
/// open connections for a while after.
#[tokio::test(start_paused = true)]
async fn policies_of_removed_listener_outlive_its_open_connections() {
    let policies = policies();
    let client = client(&policies, 1);
    let denied = |name: &str| client.listener_bytes(&name.into()).is_denied();
    let everybody = || deny(&["0.0.0.0/0"]);
    policies.publish(&listener("a", everybody()), None);
    assert!(denied("a") && !denied("b"));
    policies.publish(&listener("b", everybody()), Some(GRACE));
    assert!(denied("a") && denied("b"));
    policies.settle(|_, name| name == "b", |_| true);
    assert!(denied("a"), "a is removed");
    tokio::time::advance(GRACE + Duration::from_secs(1)).await;
    assert!(!denied("a") && denied("b"));
    policies.publish(&listener("a", everybody()), Some(GRACE));
    assert!(denied("b"));
    policies.settle(|_, _| true, |_| true);
    assert!(!denied("b"), "b is there, and has no policies");
}

#[test]
fn route_and_rule_decide_together() {
    let policies = policies();
    let route = RouteId {
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "r".into(),
    };
    let section = |rule: Option<&str>| RouteSection {
        route: route.clone(),
        rule: rule.map(str::to_owned),
    };
    policies.publish(
        &Authorizations {
            routes: vec![
                (section(None), deny(&["10.0.0.1/32"])),
                (section(Some("a")), deny(&["10.0.0.2/32"])),
            ],
            ..Authorizations::default()
        },
        None,
    );
    for (last, rule, expected) in [
        (1, None, true),
        (1, Some("a"), true),
        (1, Some("b"), true),
        (2, None, false),
        (2, Some("a"), true),
        (2, Some("b"), false),
        (3, Some("a"), false),
    ] {
        let client = client(&policies, last);
        let mut permit = client.gateway_request(&head("/"), client.address);
        permit.at_route(&Arc::new(section(rule)), &head("/"));
        assert_eq!(permit.is_denied(), expected, "{last} {rule:?}");
    }
}
