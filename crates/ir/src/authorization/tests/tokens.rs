//! Verified tokens as sources, and policies on tokens.

use super::*;
use crate::authentication::{ClaimMatch, Claims};

fn token(role: &str) -> Arc<Claims> {
    let claims = serde_json::json!({ "sub": "jane", "role": role });
    let serde_json::Value::Object(claims) = claims else {
        panic!("claims are an object");
    };
    Arc::new(Claims::new("issuer".into(), claims))
}

fn role(role: &str) -> SourceMatch {
    SourceMatch::Token(TokenMatch {
        issuer: "issuer".to_owned(),
        subject: None,
        claims: vec![ClaimMatch {
            name: "role".to_owned(),
            values: vec![role.to_owned()],
        }],
    })
}

fn not_from(sources: &[SourceMatch]) -> AuthorizationRule {
    AuthorizationRule {
        not_sources: sources.to_vec(),
        ..AuthorizationRule::default()
    }
}

fn with(connection: &ConnectionAuthorization, tokens: &[Arc<Claims>]) -> (Decision, Decision) {
    let (head, ()) = Request::get("/v1").body(()).unwrap().into_parts();
    let (method, uri) = (&head.method, &head.uri);
    let now = connection.request(method, uri, &head.headers, tokens, |_| {});
    (now, connection.request_in_flight(method, uri, tokens))
}

/// For a request without a token, one of an admin, one of a user, and both; and for bytes.
#[test]
fn tokens_decide() {
    let web = identity("shop", "web");
    let (admin, user) = (token("admin"), token("user"));
    let tokens = [
        vec![],
        vec![admin.clone()],
        vec![user.clone()],
        vec![user, admin],
    ];
    let on_admin = from(&[role("admin")]);
    let both = AuthorizationRule {
        sources: Some(vec![role("admin"), role("user")]),
        ..not_from(&[role("user")])
    };
    let or_account = from(&[role("admin"), account("shop", "web")]);
    let but_account = AuthorizationRule {
        sources: Some(vec![role("admin")]),
        ..not_from(&[account("shop", "web")])
    };
    let by = |met: [bool; 4]| met.map(|met| if met { allowed_by(0) } else { NOT_ALLOWED });
    let not = |met: [bool; 4]| met.map(|met| if met { denied_by(0) } else { ALLOWED });
    for (policy, expected, bytes) in [
        (
            allow(std::slice::from_ref(&on_admin)),
            by([false, true, false, true]),
            NOT_ALLOWED,
        ),
        (
            allow(&[not_from(&[role("admin")])]),
            by([true, false, true, false]),
            NOT_ALLOWED,
        ),
        (allow(&[both]), by([false, true, false, false]), NOT_ALLOWED),
        (allow(&[or_account]), by([true; 4]), allowed_by(0)),
        (allow(&[but_account]), by([false; 4]), NOT_ALLOWED),
        (
            deny(&[on_admin]),
            not([false, true, false, true]),
            denied_by(0),
        ),
        // Requires a token.
        (
            deny(&[not_from(&[role("admin")])]),
            not([true, false, true, false]),
            denied_by(0),
        ),
    ] {
        let connection = connection(std::slice::from_ref(&policy), Some(&web));
        assert_eq!(connection.bytes(|_| {}), bytes, "{policy:?}");
        assert!(!connection.denies_all() || expected.iter().all(|of| *of == NOT_ALLOWED));
        for (tokens, expected) in tokens.iter().zip(expected) {
            let found = with(&connection, tokens);
            assert_eq!(found, (expected, expected), "{policy:?} {tokens:?}");
        }
    }
}

#[test]
fn policy_on_tokens_refuses_bytes_at_its_ports() {
    let tokens = AuthorizationPolicy {
        effect: PolicyEffect::Tokens(Arc::new(Authentication {
            required: false,
            providers: Vec::new(),
        })),
        ..policy(AuthorizationAction::Allow, &[])
    };
    let everybody = allow(&[AuthorizationRule::default()]);
    for (port, expected) in [(80, denied_by(0)), (81, allowed_by(1))] {
        let policies = [at_port(port, tokens.clone()), everybody.clone()];
        let connection = connection(&policies, None);
        assert_eq!(connection.bytes(|_| {}), expected);
        // Requests are decided by their tokens before.
        assert_eq!(with(&connection, &[]).0, allowed_by(1));
    }
}
