//! The policies that a proxy enforces: whatever is not understood is rejected.

use std::sync::Arc;

use weft_ir::*;

use crate::{Resource, decode, encode, proto};
use proto::authorization_condition::Kind;
use proto::resource::Body;

fn authentication() -> Authentication {
    let key = |algorithm, material| JsonWebKey {
        id: Some("k".into()),
        algorithm,
        material,
    };
    let rsa = KeyMaterial::Rsa {
        modulus: vec![1; 256],
        exponent: vec![1, 0, 1],
    };
    let mut keys: Vec<JsonWebKey> = TokenAlgorithm::ALL
        .into_iter()
        .map(|of| key(Some(of), rsa.clone()))
        .collect();
    keys.extend([
        key(None, KeyMaterial::P256(vec![4; 65])),
        key(None, KeyMaterial::P384(vec![4; 97])),
        key(None, KeyMaterial::Ed25519(vec![5; 32])),
    ]);
    let provider = JwtProvider {
        name: "main".into(),
        issuer: "https://issuer.example".into(),
        audiences: vec!["shop".into(), "api".into()],
        keys,
        locations: vec![
            TokenLocation::Header {
                name: http::header::AUTHORIZATION,
                prefix: "Bearer ".into(),
            },
            TokenLocation::Query("access_token".into()),
            TokenLocation::Cookie("session".into()),
        ],
        claim_headers: vec![ClaimHeader {
            claim: "sub".into(),
            header: http::HeaderName::from_static("x-user"),
        }],
        forward: true,
        clock_skew: 60,
    };
    Authentication {
        required: true,
        providers: vec![provider],
    }
}

pub(super) fn everything() -> Authorizations {
    let domain = || TrustDomain::new("cluster.local").unwrap();
    let sources = vec![
        SourceMatch::Identity(Identity::new(domain(), "shop", "web").unwrap()),
        SourceMatch::Namespace(domain(), "shop".into()),
        SourceMatch::Network("10.0.0.0/8".parse().unwrap()),
        SourceMatch::Token(TokenMatch {
            issuer: "https://issuer.example".into(),
            subject: Some("jane".into()),
            claims: vec![ClaimMatch {
                name: "roles".into(),
                values: vec!["admin".into(), "ops".into()],
            }],
        }),
    ];
    let request = |path: &str| RequestMatch {
        path: Some(PathMatch::Prefix(path.into())),
        ..RequestMatch::default()
    };
    let rules = vec![
        AuthorizationRule {
            sources: Some(sources.clone()),
            not_sources: sources,
            ports: vec![80],
            requests: vec![request("/a")],
            not_requests: vec![request("/a/b"), request("/a/c")],
        },
        AuthorizationRule {
            sources: Some(vec![]),
            ..AuthorizationRule::default()
        },
        AuthorizationRule::default(),
    ];
    let policy = |namespace: Option<&str>, effect| {
        Arc::new(AuthorizationPolicy {
            id: PolicyId {
                namespace: namespace.map(Arc::from),
                name: "p".into(),
                kind: PolicyKind::Authorization,
            },
            ports: vec![80, 443],
            effect,
        })
    };
    use AuthorizationAction::{Allow, Audit, Deny};
    let policies = vec![
        policy(None, PolicyEffect::Rules(Deny, rules.clone())),
        policy(Some("shop"), PolicyEffect::Rules(Allow, rules.clone())),
        policy(Some("shop"), PolicyEffect::Rules(Audit, rules)),
        policy(Some("shop"), PolicyEffect::Invalid),
        policy(
            Some("shop"),
            PolicyEffect::Tokens(Arc::new(authentication())),
        ),
    ];
    let authorization = |default| Authorization {
        policies: policies.clone(),
        default,
    };
    let section = |rule: Option<&str>| RouteSection {
        route: RouteId {
            kind: RouteKind::Grpc,
            namespace: "shop".into(),
            name: "reviews".into(),
        },
        rule: rule.map(str::to_owned),
    };
    Authorizations {
        workload: authorization(DefaultAuthorization::Allow),
        listeners: vec![(
            (443, "https".into()),
            authorization(DefaultAuthorization::Mesh),
        )],
        routes: vec![
            (section(None), authorization(DefaultAuthorization::Deny)),
            (section(Some("canary")), Authorization::default()),
        ],
    }
}

#[test]
fn policies_round_trip() {
    for whole in [everything(), Authorizations::default()] {
        let wire = encode::authorizations(&whole);
        let (key, version, decoded) = decode::resource(wire.clone()).unwrap();
        assert_eq!(decoded, Resource::Authorization(whole));
        assert_eq!((key.to_string(), version), (wire.key, wire.version));
    }
}

/// Limits depend on it: no encoding may be larger.
#[test]
fn wire_size_of_a_policy_is_an_upper_bound_of_the_encoding() {
    let policies = everything().workload.policies;
    let encoded = |policies: &[Arc<AuthorizationPolicy>]| {
        let workload = Authorization {
            policies: policies.to_vec(),
            ..Authorization::default()
        };
        let whole = Authorizations {
            workload,
            ..Authorizations::default()
        };
        prost::Message::encoded_len(&encode::authorizations(&whole))
    };
    for policy in &policies {
        let size =
            encoded(&[Arc::clone(policy), Arc::clone(policy)]) - encoded(&[Arc::clone(policy)]);
        let bound = policy.wire_size();
        assert!(size <= bound && bound < 4 * size, "{size} of {bound}");
    }
}

/// A newer controller may send what this version does not know.
#[test]
fn unknown_parts_of_policies_are_rejected() {
    type Change = fn(&mut proto::Authorization);
    let changes: [(&str, Change); 10] = [
        ("authorization.default", |of| of.default = 9),
        ("policy.action", |of| of.policies[1].action = 9),
        ("policy.port", |of| of.policies[1].ports = vec![0]),
        ("policy.kind", |of| of.policies[1].kind = 9),
        ("policy.tokens", |of| of.policies[4].tokens = None),
        ("key.material", |of| {
            let tokens = of.policies[4].tokens.as_mut().unwrap();
            tokens.providers[0].keys[0].material = None;
        }),
        ("key.algorithm", |of| {
            let tokens = of.policies[4].tokens.as_mut().unwrap();
            tokens.providers[0].keys[0].algorithm = "HS256".into();
        }),
        ("rule.condition", |of| {
            of.policies[1].rules[0].conditions[1].kind = None;
        }),
        ("rule.source", |of| {
            let Some(Kind::Sources(sources)) = &mut of.policies[1].rules[0].conditions[0].kind
            else {
                panic!("sources come first");
            };
            sources.sources[0].kind = None;
        }),
        ("rule.source", |of| {
            let Some(Kind::Sources(sources)) = &mut of.policies[1].rules[0].conditions[0].kind
            else {
                panic!("sources come first");
            };
            let kind = proto::authorization_source::Kind::Cidr("10.0.0.0/33".into());
            sources.sources[0].kind = Some(kind);
        }),
    ];
    for (field, change) in changes {
        let mut wire = encode::authorizations(&everything());
        let Some(Body::Authorization(body)) = &mut wire.body else {
            panic!("not an authorization");
        };
        change(body.workload.as_mut().unwrap());
        let error = decode::resource(wire).unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
}
