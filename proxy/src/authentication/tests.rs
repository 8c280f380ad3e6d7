//! Which tokens are valid, where they are found, and what is kept of them.

use http::{HeaderName, Request};
use serde_json::{Value, json};
use weft_ir::{ClaimHeader, JwtProvider, TokenAlgorithm, TokenLocation};
use weft_testkit::tokens::{Signer, part};

use super::*;

const ISSUER: &str = "https://issuer.example";

fn provider(keys: &[&Signer]) -> JwtProvider {
    JwtProvider {
        name: "main".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: vec!["shop".to_owned(), "api".to_owned()],
        keys: keys.iter().map(|of| of.key()).collect(),
        locations: vec![bearer()],
        claim_headers: Vec::new(),
        forward: true,
        clock_skew: 60,
    }
}

fn bearer() -> TokenLocation {
    TokenLocation::Header {
        name: http::header::AUTHORIZATION,
        prefix: "Bearer ".to_owned(),
    }
}

fn of(providers: Vec<JwtProvider>, required: bool) -> Arc<Authenticator> {
    Authenticators::default().get(&Arc::new(Authentication {
        required,
        providers,
    }))
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "shop", "sub": "jane", "exp": now() + 600})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn head(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get("/");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn error(of: &Authenticator, token: &str) -> Option<TokenError> {
    of.verify(token, now()).err()
}

#[test]
fn every_algorithm_is_verified_by_its_own_key_alone() {
    let signers = TokenAlgorithm::ALL.map(|of| (of, Signer::new(of, of.as_str()).unwrap()));
    let all: Vec<&Signer> = signers.iter().map(|(_, signer)| signer).collect();
    let authenticator = of(vec![provider(&all)], true);
    for (algorithm, signer) in &signers {
        let token = signer.token(*algorithm, &claims()).unwrap();
        let verified = authenticator.verify(&token, now()).unwrap();
        assert_eq!(verified.claims.get("sub"), Some(&json!("jane")));
        // One bit of the payload, or another key.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let forged = part(&with("sub", json!("root")));
        let forged = format!("{header}.{forged}.{signature}");
        assert_eq!(error(&authenticator, &forged), Some(TokenError::Signature));
        let other = Signer::new(*algorithm, algorithm.as_str()).unwrap();
        let token = other.token(*algorithm, &claims()).unwrap();
        assert_eq!(error(&authenticator, &token), Some(TokenError::Signature));
    }
}

#[test]
fn claims_are_checked() {
    let signer = Signer::new(TokenAlgorithm::Es256, "a").unwrap();
    let authenticator = of(vec![provider(&[&signer])], true);
    let (soon, now) = (now() + 600, now());
    for (claims, expected) in [
        (claims(), None),
        (with("aud", json!(["other", "api"])), None),
        (with("nbf", json!(now + 30)), None),
        (with("exp", json!(now - 30)), None),
        (with("exp", json!(soon as f64 + 0.5)), None),
        (with("exp", json!(now - 61)), Some(TokenError::Expired)),
        (with("exp", json!(0)), Some(TokenError::Expired)),
        (with("exp", json!("soon")), Some(TokenError::Malformed)),
        (with("exp", json!(-1)), Some(TokenError::Malformed)),
        (without("exp"), Some(TokenError::Malformed)),
        (with("nbf", json!(now + 90)), Some(TokenError::NotYetValid)),
        (with("aud", json!("shops")), Some(TokenError::Audience)),
        (with("aud", json!(["other"])), Some(TokenError::Audience)),
        (with("aud", json!({"shop": 1})), Some(TokenError::Audience)),
        (without("aud"), Some(TokenError::Audience)),
        (
            with("iss", json!("https://issuer.example/")),
            Some(TokenError::Issuer),
        ),
        (with("iss", json!([ISSUER])), Some(TokenError::Issuer)),
        (without("iss"), Some(TokenError::Issuer)),
        (json!([]), Some(TokenError::Malformed)),
    ] {
        let token = signer.token(TokenAlgorithm::Es256, &claims).unwrap();
        assert_eq!(error(&authenticator, &token), expected, "{claims}");
    }
}

#[test]
fn key_and_algorithm_are_never_the_choice_of_the_token() {
    use TokenAlgorithm::{Es256, Rs256};
    let rsa = Signer::new(Rs256, "a").unwrap();
    let ec = Signer::new(Es256, "b").unwrap();
    let second = Signer::new(Es256, "c").unwrap();
    let authenticator = of(vec![provider(&[&rsa, &ec])], true);
    let sign = |header: Value| rsa.sign(Rs256, &header, &claims()).unwrap();
    for (header, expected) in [
        (json!({"alg": "RS256", "kid": "a"}), None),
        // One key of the type is there.
        (json!({"alg": "RS256"}), None),
        (json!({"alg": "none"}), Some(TokenError::Algorithm)),
        (
            json!({"alg": "None", "kid": "a"}),
            Some(TokenError::Algorithm),
        ),
        (
            json!({"alg": "HS256", "kid": "a"}),
            Some(TokenError::Algorithm),
        ),
        (json!({"alg": "ES256", "kid": "a"}), Some(TokenError::Key)),
        (
            json!({"alg": "ES256", "kid": "b"}),
            Some(TokenError::Signature),
        ),
        (
            json!({"alg": "PS256", "kid": "a"}),
            Some(TokenError::Signature),
        ),
        (json!({"alg": "RS256", "kid": "z"}), Some(TokenError::Key)),
        (
            json!({"alg": "RS256", "kid": 1}),
            Some(TokenError::Malformed),
        ),
        (json!({"kid": "a"}), Some(TokenError::Malformed)),
        (
            json!({"alg": "RS256", "kid": "a", "crit": ["exp"]}),
            Some(TokenError::Critical),
        ),
        (
            json!({"alg": "RS256", "kid": "a", "jwk": ec.jwk(), "jku": "https://evil.example"}),
            None,
        ),
    ] {
        let token = sign(header.clone());
        assert_eq!(error(&authenticator, &token), expected, "{header}");
    }
    // `none` without a signature, and HMAC with the public key as its secret.
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims()));
    assert_eq!(
        error(&authenticator, &unsigned),
        Some(TokenError::Algorithm)
    );
    // Without a kid, two keys of the type are one too many.
    let authenticator = of(vec![provider(&[&ec, &second])], true);
    let token = ec.sign(Es256, &json!({"alg": "ES256"}), &claims()).unwrap();
    assert_eq!(error(&authenticator, &token), Some(TokenError::Key));
    // Without keys, everything is refused.
    let authenticator = of(vec![provider(&[])], true);
    let token = ec.token(Es256, &claims()).unwrap();
    assert_eq!(error(&authenticator, &token), Some(TokenError::Key));
}

#[test]
fn malformed_tokens_are_refused() {
    let signer = Signer::new(TokenAlgorithm::EdDsa, "a").unwrap();
    let authenticator = of(vec![provider(&[&signer])], true);
    let token = signer.token(TokenAlgorithm::EdDsa, &claims()).unwrap();
    let long = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(error(&authenticator, &token), None);
    for (text, expected) in [
        (String::new(), TokenError::Malformed),
        ("a".to_owned(), TokenError::Malformed),
        ("..".to_owned(), TokenError::Malformed),
        ("a.b.c.d.e".to_owned(), TokenError::Malformed),
        (format!("{token}="), TokenError::Malformed),
        (format!("{token}.x"), TokenError::Malformed),
        (format!("{token}, {token}"), TokenError::Malformed),
        (long, TokenError::TooLong),
    ] {
        assert_eq!(error(&authenticator, &text), Some(expected), "{text}");
    }
}

#[test]
fn one_token_is_found_in_any_place() {
    let token = |headers: &[(&str, &str)], uri: &str| {
        let mut head = head(headers);
        head.uri = uri.parse().unwrap();
        let locations = vec![
            bearer(),
            TokenLocation::Header {
                name: HeaderName::from_static("x-token"),
                prefix: String::new(),
            },
            TokenLocation::Query("token".to_owned()),
            TokenLocation::Cookie("session".to_owned()),
        ];
        let provider = JwtProvider {
            locations,
            ..provider(&[])
        };
        let found = find::token(&[provider], &head);
        found.map(|token| token.map(str::to_owned))
    };
    let one = |text: &str| Ok(Some(text.to_owned()));
    let several = Err(TokenError::Several);
    for (headers, uri, expected) in [
        (&[][..], "/", Ok(None)),
        (&[("authorization", "Bearer a.b.c")], "/", one("a.b.c")),
        (&[("authorization", "bearer   a.b.c ")], "/", one("a.b.c")),
        (&[("authorization", "Bearer")], "/", one("")),
        (&[("authorization", "Basic abc")], "/", Ok(None)),
        (&[("authorization", "Bearers abc")], "/", Ok(None)),
        (&[("x-token", "a.b.c")], "/", one("a.b.c")),
        (&[("x-other", "a.b.c")], "/", Ok(None)),
        (&[], "/?token=a&b=c", one("a")),
        (&[], "/?tok%65n=a", one("a")),
        (&[("cookie", "a=b; session=x; c=d")], "/", one("x")),
        (&[("cookie", "a=b"), ("cookie", "session=x")], "/", one("x")),
        (&[("cookie", "xsession=x")], "/", Ok(None)),
        // The same one twice is one.
        (
            &[("authorization", "Bearer a"), ("x-token", "a")],
            "/?token=a",
            one("a"),
        ),
        (
            &[("authorization", "Bearer a"), ("x-token", "b")],
            "/",
            several.clone(),
        ),
        (
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
            "/",
            several.clone(),
        ),
        (
            &[("authorization", "Bearer a"), ("authorization", "Basic b")],
            "/",
            several.clone(),
        ),
        (
            &[("authorization", "Bearer a")],
            "/?token=b",
            several.clone(),
        ),
        (&[], "/?token=a&token=b", several.clone()),
        (&[], "/?token=a&tok%65n=b", several.clone()),
        (&[("cookie", "session=x; session=y")], "/", several.clone()),
    ] {
        assert_eq!(token(headers, uri), expected, "{headers:?} {uri}");
    }
}

#[test]
fn claims_become_headers_that_clients_cannot_set() {
    let signer = Signer::new(TokenAlgorithm::EdDsa, "a").unwrap();
    let claim = |claim: &str, header: &str| ClaimHeader {
        claim: claim.to_owned(),
        header: header.parse().unwrap(),
    };
    let provider = JwtProvider {
        claim_headers: vec![
            claim("sub", "x-user"),
            claim("roles", "x-roles"),
            claim("realm.level", "x-level"),
            claim("odd", "x-odd"),
            claim("comma", "x-comma"),
            claim("long", "x-long"),
            claim("object", "x-object"),
        ],
        ..provider(&[&signer])
    };
    let other = JwtProvider {
        name: "other".to_owned(),
        issuer: "https://other.example".to_owned(),
        claim_headers: vec![claim("sub", "x-other")],
        ..provider.clone()
    };
    let authenticator = of(vec![provider, other], false);
    let mut all = claims();
    all["roles"] = json!(["admin", "ops"]);
    all["realm"] = json!({"level": 3});
    all["odd"] = json!("a\r\nx-user: root");
    all["comma"] = json!(["a,b"]);
    all["long"] = json!("a".repeat(4097));
    all["object"] = json!({"a": 1});
    let token = signer.token(TokenAlgorithm::EdDsa, &all).unwrap();
    let forged = [
        "x-user", "x-roles", "x-level", "x-odd", "x-comma", "x-long", "x-object", "x-other",
        // CGI reads it as `x-user`.
        "x_user",
    ];
    let authorization = format!("Bearer {token}");
    for (sent, expected) in [
        (Some(&*authorization), vec!["jane", "admin,ops", "3"]),
        (None, vec![]),
        (Some("Bearer x"), vec![]),
    ] {
        let mut head = head(&forged.map(|name| (name, "root")));
        if let Some(sent) = sent {
            head.headers.insert("authorization", sent.parse().unwrap());
        }
        let _ = authenticator.authenticate(&mut head);
        let found = forged.iter().filter_map(|name| head.headers.get(*name));
        let found: Vec<&str> = found.map(|value| value.to_str().unwrap()).collect();
        assert_eq!(found, expected, "{sent:?}");
    }
}

#[test]
fn token_is_removed_from_every_place_unless_forwarded() {
    let signer = Signer::new(TokenAlgorithm::EdDsa, "a").unwrap();
    let token = signer.token(TokenAlgorithm::EdDsa, &claims()).unwrap();
    let locations = vec![
        bearer(),
        TokenLocation::Query("token".to_owned()),
        TokenLocation::Cookie("session".to_owned()),
    ];
    for forward in [true, false] {
        let provider = JwtProvider {
            locations: locations.clone(),
            forward,
            ..provider(&[&signer])
        };
        let authenticator = of(vec![provider], true);
        let (bearer, cookie) = (format!("Bearer {token}"), format!("a=b; session={token}"));
        let mut head = head(&[("authorization", &bearer), ("cookie", &cookie)]);
        head.uri = format!("http://a.example/x?b=c&token={token}")
            .parse()
            .unwrap();
        let verified = authenticator.authenticate(&mut head).unwrap().unwrap();
        authenticator.remove_token(&verified, &mut head);
        let text = format!("{} {:?}", head.uri, head.headers);
        assert_eq!(
            text.matches(&token).count(),
            if forward { 3 } else { 0 },
            "{text}"
        );
        if !forward {
            assert_eq!(head.uri, "http://a.example/x?b=c");
            assert_eq!(head.headers["cookie"], "a=b");
        }
    }
}

#[test]
fn absent_token_is_refused_only_if_required() {
    for required in [true, false] {
        let authenticator = of(vec![provider(&[])], required);
        let found = authenticator.authenticate(&mut head(&[]));
        assert_eq!(found.is_ok(), !required);
        // A bad one always is.
        let bad = head(&[("authorization", "Bearer x")]);
        let found = authenticator.authenticate(&mut { bad });
        assert_eq!(found.err(), Some(TokenError::Malformed));
    }
}

#[test]
fn only_verified_tokens_are_kept_until_they_end() {
    let signer = Signer::new(TokenAlgorithm::EdDsa, "a").unwrap();
    let authenticators = Authenticators::default();
    let authentication = |keys: &[&Signer]| {
        Arc::new(Authentication {
            required: true,
            providers: vec![provider(keys)],
        })
    };
    let authenticator = authenticators.get(&authentication(&[&signer]));
    let cache = &authenticators.0.cache;
    let token = signer.token(TokenAlgorithm::EdDsa, &claims()).unwrap();
    for number in 0..100 {
        let _ = authenticator.verify(&format!("{token}{number}"), now());
    }
    assert_eq!(cache.len(), 0);
    for _ in 0..3 {
        assert!(authenticator.verify(&token, now()).is_ok());
    }
    assert_eq!(cache.len(), 1);
    let late = now() + 600 + 60;
    assert!(authenticator.verify(&token, late - 1).is_ok());
    let found = authenticator.verify(&token, late).err();
    assert_eq!(found, Some(TokenError::Expired));
    // The same content is the same authenticator; with other keys, nothing is known.
    let same = authenticators.get(&authentication(&[&signer]));
    assert!(Arc::ptr_eq(&same, &authenticator));
    let rotated = authenticators.get(&authentication(&[]));
    assert_eq!(error(&rotated, &token), Some(TokenError::Key));
    // Bounded: 8 shards of at most 512 tokens, or 256 KiB of them.
    for number in 0..20_000 {
        let key = TokenKey::new(7, &number.to_string());
        let verified = authenticator.verify(&token, now()).unwrap();
        cache.insert(key, verified, 300, now());
    }
    assert!(cache.len() <= 8 * 512, "{}", cache.len());
}
