//! At the pod: every version of HTTP, gRPC, claims as sources, keys that change.

use super::*;
use AuthorizationAction::{Allow, Deny};

#[tokio::test]
async fn requests_need_a_valid_token() {
    let other = Signer::new(TokenAlgorithm::Es256, "a").unwrap();
    let good = bearer(&SIGNER, &claims("user", 0));
    let mut audience = claims("user", 0);
    audience["aud"] = json!("bank");
    let cases = [
        (good, 200, ""),
        (String::new(), 401, r#"Bearer realm="weft""#),
        ("Basic abc".to_owned(), 401, r#"Bearer realm="weft""#),
        (
            "Bearer x".to_owned(),
            401,
            r#"Bearer realm="weft", error="invalid_token", error_description="the token is malformed""#,
        ),
        (
            bearer(&SIGNER, &claims("user", 601)),
            401,
            r#"Bearer realm="weft", error="invalid_token", error_description="the token has expired""#,
        ),
        (
            bearer(&SIGNER, &audience),
            401,
            r#"Bearer realm="weft", error="invalid_token", error_description="the token is for another audience""#,
        ),
        (
            bearer(&other, &claims("user", 0)),
            401,
            r#"Bearer realm="weft", error="invalid_token", error_description="the signature of the token is not valid""#,
        ),
    ];
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        enforce(&pair.server, vec![tokens(provider(&[&SIGNER]), true)]);
        for (authorization, code, challenge) in &cases {
            let request = get("/", authorization).header("x-user", "root");
            let seen = client.send(request, "").await;
            assert_eq!(seen.status, *code, "{authorization}");
            assert_eq!(seen.header("www-authenticate"), *challenge);
            if *code == 200 {
                assert_eq!(seen.header("x-saw-x-user"), "jane");
                assert_eq!(seen.header("x-saw-authorization"), authorization);
            } else {
                assert_eq!(seen.header("weft-error-type"), "authentication_failed");
                let message = seen.header("weft-error");
                assert!(
                    message.starts_with("denied by AuthenticationPolicy shop/tokens: "),
                    "{message}"
                );
            }
        }
        // Without a token, and without one being required.
        enforce(&pair.server, vec![tokens(provider(&[&SIGNER]), false)]);
        for (authorization, code, _) in &cases {
            let code = match authorization.starts_with("Bearer") {
                true => *code,
                false => 200,
            };
            let request = get("/", authorization).header("x-user", "root");
            let seen = client.send(request, "").await;
            assert_eq!(seen.status, code, "{authorization}");
            assert_ne!(seen.header("x-saw-x-user"), "root");
        }
        // Revoked under traffic.
        enforce(&pair.server, Vec::new());
        let seen = client.send(get("/", "").header("x-user", "root"), "").await;
        assert_eq!((seen.status, seen.header("x-saw-x-user")), (200, "root"));
    }
}

#[tokio::test]
async fn grpc_is_told_unauthenticated() {
    let (pair, mut client) = Pair::for_version(Version::Http2).await;
    enforce(&pair.server, vec![tokens(provider(&[&SIGNER]), true)]);
    let request = http::Request::post("/shop.Cart/Get").header("content-type", "application/grpc");
    let seen = client.send(request, "").await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, "16"));
    assert_eq!(seen.header("www-authenticate"), r#"Bearer realm="weft""#);
}

#[tokio::test]
async fn token_is_removed_if_it_is_not_forwarded() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    let provider = JwtProvider {
        forward: false,
        ..provider(&[&SIGNER])
    };
    enforce(&pair.server, vec![tokens(provider, true)]);
    let token = bearer(&SIGNER, &claims("user", 0));
    let seen = client.send(get("/", &token), "").await;
    assert_eq!((seen.status, seen.header("x-saw-x-user")), (200, "jane"));
    assert!(!seen.headers.contains_key("x-saw-authorization"));
}

#[tokio::test]
async fn keys_rotate() {
    let (pair, mut client) = Pair::for_version(Version::Http2).await;
    let second = Signer::new(TokenAlgorithm::Es256, "b").unwrap();
    let first_token = bearer(&SIGNER, &claims("user", 0));
    let second_token = bearer(&second, &claims("user", 0));
    let sets: [(&[&Signer], u16, u16); 4] = [
        (&[&SIGNER], 200, 401),
        (&[&SIGNER, &second], 200, 200),
        (&[&second], 401, 200),
        (&[], 401, 401),
    ];
    for (keys, of_first, of_second) in sets {
        enforce(&pair.server, vec![tokens(provider(keys), true)]);
        for (token, code) in [(&first_token, of_first), (&second_token, of_second)] {
            let seen = client.send(get("/", token), "").await;
            assert_eq!(seen.status, code);
        }
    }
}

#[tokio::test]
async fn claims_of_verified_tokens_alone_are_sources() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    let admin = bearer(&SIGNER, &claims("admin", 0));
    let user = bearer(&SIGNER, &claims("user", 0));
    let optional = || tokens(provider(&[&SIGNER]), false);
    let allow = || by_role(Allow, "admin", true);
    for (policies, codes) in [
        (vec![optional(), allow()], [200, 403, 403]),
        (
            vec![optional(), by_role(Allow, "admin", false)],
            [403, 200, 200],
        ),
        (
            vec![optional(), by_role(Deny, "admin", true)],
            [403, 200, 200],
        ),
        // The idiom that requires a token: no token is none of the sources.
        (
            vec![optional(), by_role(Deny, "admin", false)],
            [200, 403, 403],
        ),
        (
            vec![tokens(provider(&[&SIGNER]), true), allow()],
            [200, 403, 401],
        ),
        // No policy verifies the token: it says nothing.
        (vec![allow()], [403, 403, 403]),
        (vec![by_role(Deny, "admin", true)], [200, 200, 200]),
        (vec![by_role(Deny, "admin", false)], [403, 403, 403]),
    ] {
        enforce(&pair.server, policies.clone());
        for (authorization, code) in [&*admin, &*user, ""].into_iter().zip(codes) {
            let seen = client.send(get("/", authorization), "").await;
            assert_eq!(seen.status, code, "{policies:?} {authorization}");
        }
    }
}

#[tokio::test]
async fn policy_applies_to_its_ports_and_invalid_ones_close_them() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    let own = pair.app.address().port();
    for (port, code) in [(own, 401), (own ^ 1, 200)] {
        let at_port = AuthorizationPolicy {
            ports: vec![port],
            ..tokens(provider(&[&SIGNER]), true)
        };
        enforce(&pair.server, vec![at_port]);
        assert_eq!(client.get("/").await.status, code, "{port}");
    }
    let invalid = AuthorizationPolicy {
        effect: PolicyEffect::Invalid,
        ..tokens(provider(&[]), true)
    };
    enforce(&pair.server, vec![invalid]);
    let token = bearer(&SIGNER, &claims("user", 0));
    let seen = client.send(get("/", &token), "").await;
    assert_eq!(seen.status, 403);
    let message = "denied by AuthenticationPolicy shop/tokens, which is invalid";
    assert_eq!(seen.header("weft-error"), message);
}
