use std::net::IpAddr;
use std::sync::Arc;

use http::Request;

use super::*;
use crate::pattern::Pattern;
use crate::route::{HeaderMatch, PathMatch, QueryMatch, ValueMatch};

mod in_flight;
mod tokens;

fn identity(namespace: &str, account: &str) -> Identity {
    let domain = TrustDomain::new("cluster.local").unwrap();
    Identity::new(domain, namespace, account).unwrap()
}

fn account(namespace: &str, account: &str) -> SourceMatch {
    SourceMatch::Identity(identity(namespace, account))
}

fn namespace(name: &str) -> SourceMatch {
    SourceMatch::Namespace(TrustDomain::new("cluster.local").unwrap(), name.into())
}

fn network(text: &str) -> SourceMatch {
    SourceMatch::Network(text.parse().unwrap())
}

fn from(sources: &[SourceMatch]) -> AuthorizationRule {
    AuthorizationRule {
        sources: Some(sources.to_vec()),
        ..AuthorizationRule::default()
    }
}

fn path(condition: PathMatch) -> RequestMatch {
    RequestMatch {
        path: Some(condition),
        ..RequestMatch::default()
    }
}

fn prefix(text: &str) -> RequestMatch {
    path(PathMatch::Prefix(text.to_owned()))
}

fn to(requests: &[RequestMatch]) -> AuthorizationRule {
    AuthorizationRule {
        requests: requests.to_vec(),
        ..AuthorizationRule::default()
    }
}

/// A policy of the namespace whose name is the position among those of a test.
fn policy(action: AuthorizationAction, rules: &[AuthorizationRule]) -> AuthorizationPolicy {
    AuthorizationPolicy {
        id: PolicyId {
            namespace: Some("shop".into()),
            name: "p".into(),
            kind: PolicyKind::Authorization,
        },
        ports: Vec::new(),
        effect: PolicyEffect::Rules(action, rules.to_vec()),
    }
}

fn allow(rules: &[AuthorizationRule]) -> AuthorizationPolicy {
    policy(AuthorizationAction::Allow, rules)
}

fn deny(rules: &[AuthorizationRule]) -> AuthorizationPolicy {
    policy(AuthorizationAction::Deny, rules)
}

fn audit(rules: &[AuthorizationRule]) -> AuthorizationPolicy {
    policy(AuthorizationAction::Audit, rules)
}

fn of_cluster(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    let id = PolicyId {
        namespace: None,
        ..policy.id.clone()
    };
    AuthorizationPolicy { id, ..policy }
}

fn at_port(port: u16, policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        ports: vec![port],
        ..policy
    }
}

fn invalid(policy: AuthorizationPolicy) -> AuthorizationPolicy {
    AuthorizationPolicy {
        effect: PolicyEffect::Invalid,
        ..policy
    }
}

fn authorizer(default: DefaultAuthorization, policies: &[AuthorizationPolicy]) -> Arc<Authorizer> {
    Arc::new(Authorizer::new(Authorization {
        policies: policies.iter().cloned().map(Arc::new).collect(),
        default,
    }))
}

/// The connection of shop/web, or of a client in plain text, to port 80.
fn connection(
    policies: &[AuthorizationPolicy],
    client: Option<&Identity>,
) -> ConnectionAuthorization {
    let peer = Peer {
        identity: client,
        address: IpAddr::from([10, 0, 0, 9]),
    };
    authorizer(DefaultAuthorization::Allow, policies).connection(peer, 80)
}

fn ask(connection: &ConnectionAuthorization, method: &str, target: &str) -> Decision {
    let request = Request::builder().method(method).uri(target);
    decide(connection, request)
}

fn decide(connection: &ConnectionAuthorization, request: http::request::Builder) -> Decision {
    let (head, ()) = request.body(()).unwrap().into_parts();
    connection.request(&head.method, &head.uri, &head.headers, &[], |_| {})
}

const ALLOWED: Decision = Decision::Allowed(None);
const NOT_ALLOWED: Decision = Decision::Denied(Denial::NotAllowed);

fn allowed_by(position: usize) -> Decision {
    Decision::Allowed(Some(position))
}

fn denied_by(position: usize) -> Decision {
    Decision::Denied(Denial::Policy(position))
}

#[test]
fn sources() {
    let web = identity("shop", "web");
    let cases: [(&[AuthorizationRule], bool); 14] = [
        (&[], false),
        (&[AuthorizationRule::default()], true),
        (&[from(&[])], false),
        (&[from(&[account("shop", "web")])], true),
        (&[from(&[account("shop", "api")])], false),
        (&[from(&[account("other", "web")])], false),
        (&[from(&[namespace("shop")])], true),
        (&[from(&[namespace("sho")])], false),
        (&[from(&[network("10.0.0.0/24")])], true),
        (&[from(&[network("10.0.1.0/24")])], false),
        (&[from(&[network("10.0.1.0/24"), namespace("shop")])], true),
        (
            &[AuthorizationRule {
                not_sources: vec![namespace("shop")],
                ..AuthorizationRule::default()
            }],
            false,
        ),
        (
            &[AuthorizationRule {
                not_sources: vec![account("shop", "web")],
                ..from(&[namespace("shop")])
            }],
            false,
        ),
        (
            &[AuthorizationRule {
                ports: vec![81],
                ..AuthorizationRule::default()
            }],
            false,
        ),
    ];
    for (rules, matches) in cases {
        let connection = connection(&[allow(rules)], Some(&web));
        let expected = if matches { allowed_by(0) } else { NOT_ALLOWED };
        assert_eq!(ask(&connection, "GET", "/"), expected, "{rules:?}");
        assert_eq!(connection.bytes(|_| {}), expected, "{rules:?}");
        assert_eq!(connection.denies_all(), !matches, "{rules:?}");
    }
}

#[test]
fn client_without_identity_meets_no_condition_on_identities() {
    for source in [account("shop", "web"), namespace("shop")] {
        let connection = connection(&[allow(&[from(&[source])])], None);
        assert_eq!(ask(&connection, "GET", "/"), NOT_ALLOWED);
    }
    let foreign = Identity::new(TrustDomain::new("other.org").unwrap(), "shop", "web").unwrap();
    let policies = [allow(&[from(&[account("shop", "web"), namespace("shop")])])];
    let connection = connection(&policies, Some(&foreign));
    assert_eq!(ask(&connection, "GET", "/"), NOT_ALLOWED);
}

#[test]
fn policies_combine() {
    let any = [AuthorizationRule::default()];
    let none: [AuthorizationRule; 0] = [];
    let cases = [
        (vec![], ALLOWED),
        (vec![allow(&none)], NOT_ALLOWED),
        (vec![allow(&none), allow(&any)], allowed_by(1)),
        (vec![allow(&any), deny(&any)], denied_by(1)),
        (vec![audit(&any)], ALLOWED),
        (vec![invalid(allow(&any)), allow(&any)], denied_by(0)),
        // Other ports are not concerned.
        (vec![at_port(81, allow(&none))], ALLOWED),
        (vec![at_port(81, deny(&any))], ALLOWED),
        (vec![at_port(81, invalid(allow(&none)))], ALLOWED),
        (vec![at_port(80, allow(&none))], NOT_ALLOWED),
        // The cluster's are decided first, and a namespace cannot undo them.
        (vec![of_cluster(deny(&any)), allow(&any)], denied_by(0)),
        (vec![of_cluster(allow(&none)), allow(&any)], NOT_ALLOWED),
        (vec![of_cluster(allow(&any)), deny(&any)], denied_by(1)),
        (vec![of_cluster(allow(&any)), allow(&none)], NOT_ALLOWED),
        (vec![of_cluster(allow(&any)), allow(&any)], allowed_by(1)),
        (vec![of_cluster(allow(&any))], allowed_by(0)),
    ];
    for (policies, expected) in cases {
        let connection = connection(&policies, None);
        assert_eq!(ask(&connection, "GET", "/"), expected, "{policies:?}");
        assert_eq!(connection.bytes(|_| {}), expected, "{policies:?}");
    }
}

#[test]
fn default_decides_without_allow_policies() {
    let web = identity("shop", "web");
    let any = [AuthorizationRule::default()];
    let none = [deny(&[from(&[])])];
    let allowing = [of_cluster(allow(&any))];
    let default = Decision::Denied(Denial::Default);
    for (of, policies, client, expected) in [
        (DefaultAuthorization::Allow, &none[..], None, ALLOWED),
        (DefaultAuthorization::Mesh, &none, None, default),
        (DefaultAuthorization::Mesh, &none, Some(&web), ALLOWED),
        (DefaultAuthorization::Deny, &none, Some(&web), default),
        (DefaultAuthorization::Deny, &allowing, None, allowed_by(0)),
    ] {
        let peer = Peer {
            identity: client,
            address: IpAddr::from([10, 0, 0, 9]),
        };
        let connection = authorizer(of, policies).connection(peer, 80);
        assert_eq!(ask(&connection, "GET", "/"), expected, "{of:?}");
        assert_eq!(connection.denies_all(), expected == default, "{of:?}");
    }
}

#[test]
fn bytes_meet_no_condition_on_requests() {
    let rules = [to(&[prefix("/")])];
    let not_rules = [AuthorizationRule {
        not_requests: vec![prefix("/")],
        ..AuthorizationRule::default()
    }];
    for rules in [rules, not_rules] {
        let allowing = connection(&[allow(&rules)], None);
        assert_eq!(allowing.bytes(|_| {}), NOT_ALLOWED);
        assert!(!allowing.denies_all(), "a request could be allowed");
        let denying = connection(&[deny(&rules)], None);
        assert_eq!(denying.bytes(|_| {}), denied_by(0));
        assert!(!denying.denies_all(), "a request could be allowed");
        let mut audited = Vec::new();
        let auditing = connection(&[audit(&rules)], None);
        assert_eq!(auditing.bytes(|position| audited.push(position)), ALLOWED);
        assert_eq!(audited, [0]);
    }
}

/// What applications read differently from each other is denied: a `DENY` rule takes it, and an
/// `ALLOW` rule does not.
#[test]
fn ambiguous_requests_are_denied() {
    let admin = path(PathMatch::Prefix("/admin".to_owned()));
    let public = path(PathMatch::Regex(Pattern::new("/public.*").unwrap()));
    let header = RequestMatch {
        headers: vec![HeaderMatch {
            name: "x-role".parse().unwrap(),
            value: ValueMatch::Exact("admin".to_owned()),
        }],
        ..RequestMatch::default()
    };
    let parameter = RequestMatch {
        query: vec![QueryMatch {
            name: "role".to_owned(),
            value: ValueMatch::Exact("admin".to_owned()),
        }],
        ..RequestMatch::default()
    };
    let denying = connection(&[deny(&[to(&[admin, header, parameter])])], None);
    let allowing = connection(&[allow(&[to(&[public])])], None);
    for target in [
        "/public%2f..%2fadmin",
        "/public%2F..%2Fadmin",
        "/public/..%5cadmin",
        "/public/%00",
        "/public%252f",
        "/public/%2e%2e/admin",
        "/public;x/../admin",
        "/public%3b/admin",
        "/public//admin",
        "/public/./admin",
        "/public/../admin",
        "/public/..",
        "*",
    ] {
        assert_eq!(ask(&denying, "GET", target), denied_by(0), "{target}");
        assert_eq!(ask(&allowing, "GET", target), NOT_ALLOWED, "{target}");
    }
    for target in [
        "/public",
        "/public/...",
        "/public/.x",
        "/public/a%20b",
        "/public/x.y",
    ] {
        assert_eq!(ask(&denying, "GET", target), ALLOWED, "{target}");
        assert_eq!(ask(&allowing, "GET", target), allowed_by(0), "{target}");
    }
    let everything = connection(&[allow(&[to(&[prefix("/")])])], None);
    assert_eq!(ask(&everything, "GET", "/public%2fx"), allowed_by(0));
    for (values, expected) in [
        (&["user"][..], ALLOWED),
        (&["admin"], denied_by(0)),
        (&["user", "admin"], denied_by(0)),
        (&["user", "user"], denied_by(0)),
        (&["\u{e9}"], denied_by(0)),
    ] {
        let request = values
            .iter()
            .fold(Request::get("/public"), |request, value| {
                request.header("x-role", value.as_bytes())
            });
        assert_eq!(decide(&denying, request), expected, "{values:?}");
    }
    for (target, expected) in [
        ("/public?role=user", ALLOWED),
        ("/public?role=admin", denied_by(0)),
        ("/public?role=user&role=admin", denied_by(0)),
        ("/public?role=user&r%6fle=x", denied_by(0)),
    ] {
        assert_eq!(ask(&denying, "GET", target), expected, "{target}");
    }
}

#[test]
fn conditions_on_requests() {
    let method = RequestMatch {
        method: Some(http::Method::GET),
        ..prefix("/v1")
    };
    let but = AuthorizationRule {
        not_requests: vec![prefix("/v1/admin")],
        ..to(std::slice::from_ref(&method))
    };
    let allowing = connection(&[allow(&[but])], None);
    assert!(allowing.reads_paths());
    for (method, target, expected) in [
        ("GET", "/v1/items", allowed_by(0)),
        ("POST", "/v1/items", NOT_ALLOWED),
        ("GET", "/v2/items", NOT_ALLOWED),
        ("GET", "/v1/admin", NOT_ALLOWED),
        ("GET", "/v1/admin/x", NOT_ALLOWED),
        ("GET", "/v1/administrator", allowed_by(0)),
    ] {
        assert_eq!(
            ask(&allowing, method, target),
            expected,
            "{method} {target}"
        );
    }
}

/// A rule of another client costs a connection nothing.
#[test]
fn rules_of_other_clients_are_not_kept() {
    let policies: Vec<_> = (0..1000)
        .map(|number| allow(&[from(&[account("shop", &format!("a{number}"))])]))
        .collect();
    let client = identity("shop", "a500");
    let connection = connection(&policies, Some(&client));
    assert_eq!(ask(&connection, "GET", "/"), allowed_by(500));
    assert_eq!(connection.rules(), 1);
}
