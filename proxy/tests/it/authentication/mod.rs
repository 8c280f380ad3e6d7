//! Authentication: requests need valid tokens, at a pod and at a gateway, before policies on who
//! may call are asked, which can require their claims.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use weft_api::encode;
use weft_ir::{
    Authentication, Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule,
    Authorizations, ClaimHeader, ClaimMatch, DefaultAuthorization, JwtProvider, PolicyEffect,
    PolicyId, PolicyKind, SourceMatch, TokenAlgorithm, TokenLocation, TokenMatch,
};
use weft_testkit::tokens::Signer;

use crate::support::*;

mod gateway;
mod pod;

const ISSUER: &str = "https://issuer.example";

static SIGNER: LazyLock<Signer> =
    LazyLock::new(|| Signer::new(TokenAlgorithm::Es256, "a").unwrap());

fn provider(keys: &[&Signer]) -> JwtProvider {
    JwtProvider {
        name: "main".to_owned(),
        issuer: ISSUER.to_owned(),
        audiences: vec!["shop".to_owned()],
        keys: keys.iter().map(|of| of.key()).collect(),
        locations: vec![TokenLocation::Header {
            name: http::header::AUTHORIZATION,
            prefix: "Bearer ".to_owned(),
        }],
        claim_headers: vec![ClaimHeader {
            claim: "sub".to_owned(),
            header: "x-user".parse().unwrap(),
        }],
        forward: true,
        clock_skew: 0,
    }
}

fn id(name: &str, kind: PolicyKind) -> PolicyId {
    PolicyId {
        namespace: Some("shop".into()),
        name: name.into(),
        kind,
    }
}

/// The policy `tokens` of the namespace `shop`.
fn tokens(provider: JwtProvider, required: bool) -> AuthorizationPolicy {
    AuthorizationPolicy {
        id: id("tokens", PolicyKind::Authentication),
        ports: Vec::new(),
        effect: PolicyEffect::Tokens(Arc::new(Authentication {
            required,
            providers: vec![provider],
        })),
    }
}

/// A policy on the claim `role`: with the value, or without it.
fn by_role(action: AuthorizationAction, role: &str, has: bool) -> AuthorizationPolicy {
    let source = SourceMatch::Token(TokenMatch {
        issuer: ISSUER.to_owned(),
        subject: None,
        claims: vec![ClaimMatch {
            name: "role".to_owned(),
            values: vec![role.to_owned()],
        }],
    });
    let rule = match has {
        true => AuthorizationRule {
            sources: Some(vec![source]),
            ..AuthorizationRule::default()
        },
        false => AuthorizationRule {
            not_sources: vec![source],
            ..AuthorizationRule::default()
        },
    };
    AuthorizationPolicy {
        id: id("roles", PolicyKind::Authorization),
        ports: Vec::new(),
        effect: PolicyEffect::Rules(action, vec![rule]),
    }
}

fn of(policies: Vec<AuthorizationPolicy>) -> Authorization {
    Authorization {
        policies: policies.into_iter().map(Arc::new).collect(),
        default: DefaultAuthorization::Allow,
    }
}

fn enforce(pod: &Pod, policies: Vec<AuthorizationPolicy>) {
    pod.tell(vec![encode::authorizations(&Authorizations {
        workload: of(policies),
        ..Authorizations::default()
    })]);
}

/// Valid for another ten minutes from `from` seconds ago.
fn claims(role: &str, from: u64) -> Value {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    json!({"iss": ISSUER, "aud": "shop", "sub": "jane", "role": role, "exp": now - from + 600})
}

fn bearer(signer: &Signer, claims: &Value) -> String {
    let token = signer.token(TokenAlgorithm::Es256, claims).unwrap();
    format!("Bearer {token}")
}

fn get(path: &str, authorization: &str) -> http::request::Builder {
    let request = http::Request::get(path);
    match authorization {
        "" => request,
        value => request.header("authorization", value),
    }
}
