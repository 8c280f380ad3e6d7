//! Tokens of requests: where they are, and their verification.

use std::sync::{Arc, LazyLock};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use weft_ir::{Authentication, ClaimHeader, JsonWebKey, JwtProvider, KeyMaterial, TokenLocation};
use weft_proxy::authentication::{Authenticator, Authenticators, TokenError};

/// A key of Ed25519, of which nobody has the private half.
const KEY: [u8; 32] = [
    0x06, 0xaa, 0x58, 0xad, 0x2f, 0x60, 0x33, 0x34, 0x31, 0x62, 0x8b, 0x99, 0xa8, 0x31, 0xee, 0x14,
    0x00, 0x6d, 0xc1, 0x47, 0x60, 0x66, 0x02, 0x95, 0xb0, 0x75, 0x5f, 0x13, 0xad, 0xf8, 0xc9, 0x71,
];
/// The only token that the key has signed: of `jane`, valid until the year 3000.
const TOKEN: &str = concat!(
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.",
    "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoic2hvcCIs",
    "InN1YiI6ImphbmUiLCJleHAiOjMyNTAzNjgwMDAwfQ.",
    "1oua1ZfHm9gEA-xgRP0psG6SAgqlYaKpimX7qJ7gIUcjpJjUdwP-JLC9h9zD",
    "DSkGjBrnXDeldre4Z6e_iHVvDw"
);
/// The header that the claim `sub` becomes, and what CGI takes for the same.
const USER: [&str; 2] = ["x-user", "x_user"];

static AUTHENTICATOR: LazyLock<Arc<Authenticator>> = LazyLock::new(|| {
    let header = |name: HeaderName, prefix: &str| TokenLocation::Header {
        name,
        prefix: prefix.to_owned(),
    };
    let provider = JwtProvider {
        name: "issuer".to_owned(),
        issuer: "https://issuer.example".to_owned(),
        audiences: vec!["shop".to_owned()],
        keys: vec![JsonWebKey {
            id: Some("a".to_owned()),
            algorithm: None,
            material: KeyMaterial::Ed25519(KEY.to_vec()),
        }],
        locations: vec![
            header(http::header::AUTHORIZATION, "Bearer "),
            TokenLocation::Query("token".to_owned()),
            TokenLocation::Cookie("session".to_owned()),
        ],
        claim_headers: vec![ClaimHeader {
            claim: "sub".to_owned(),
            header: HeaderName::from_static(USER[0]),
        }],
        forward: false,
        clock_skew: 0,
    };
    Authenticators::default().get(&Arc::new(Authentication {
        required: true,
        providers: vec![provider],
    }))
});

/// A request with the one valid token, and no other one, passes as `jane`, and has no token once it
/// is removed. No other request has a user. The input is a query in its first line, then headers.
pub fn check(bytes: &[u8]) {
    let Some(mut head) = request(bytes) else {
        return;
    };
    let has_token = has_token(&head);
    let verified = AUTHENTICATOR.authenticate(&mut head);
    let users = USER.iter().flat_map(|name| head.headers.get_all(*name));
    let users: Vec<&HeaderValue> = users.collect();
    match verified {
        Ok(Some(verified)) => {
            assert!(has_token, "{head:?} is verified");
            assert_eq!(users, ["jane"], "{head:?}");
            AUTHENTICATOR.remove_token(&verified, &mut head);
            let again = AUTHENTICATOR.authenticate(&mut head);
            assert!(matches!(again, Err(TokenError::Absent)), "{head:?}");
        }
        Ok(None) => panic!("a request passes without a token: {head:?}"),
        Err(_) => assert!(users.is_empty(), "{head:?}"),
    }
}

/// Returns `None` if the input is no request that HTTP can carry.
fn request(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let query = std::str::from_utf8(lines.next()?).ok()?;
    let mut request = Request::builder().uri(format!("/?{query}"));
    for line in lines.take(32) {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        let value = value.get(1..)?.trim_ascii();
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).ok()?.into_parts();
    Some(head)
}

fn has_token(head: &Parts) -> bool {
    let is_in = |text: &[u8]| {
        text.windows(TOKEN.len())
            .any(|part| part == TOKEN.as_bytes())
    };
    let query = head.uri.query().unwrap_or_default();
    is_in(query.as_bytes()) || head.headers.values().any(|value| is_in(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise no input would reach what follows a verification.
    #[test]
    fn token_is_verified() {
        let input = format!("\nauthorization: Bearer {TOKEN}");
        let mut head = request(input.as_bytes()).unwrap();
        assert!(matches!(AUTHENTICATOR.authenticate(&mut head), Ok(Some(_))));
    }
}
