//! Who signed in: the tokens that one target accepts, and the claims of a verified one.
//!
//! Source: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (algorithms), RFC 7519 (JWT), RFC 8037 (EdDSA).

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use serde_json::{Map, Value};

/// The tokens that a target accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Whether a request without a token is refused. One with a bad token always is.
    pub required: bool,
    /// Each has another issuer.
    pub providers: Vec<JwtProvider>,
}

/// Whose tokens are accepted, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtProvider {
    /// Its name in the policy.
    pub name: String,
    /// The claim `iss`, exactly.
    pub issuer: String,
    /// The claim `aud` has one of these; empty means any.
    pub audiences: Vec<String>,
    /// The keys of the issuer. Without any, all of its tokens are refused.
    pub keys: Vec<JsonWebKey>,
    /// Where tokens are.
    pub locations: Vec<TokenLocation>,
    /// Claims that become headers.
    pub claim_headers: Vec<ClaimHeader>,
    /// Whether the token is forwarded.
    pub forward: bool,
    /// Seconds by which clocks may differ.
    pub clock_skew: u16,
}

/// Where a request has a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLocation {
    /// A header, after the prefix.
    Header {
        /// The name.
        name: HeaderName,
        /// Compared without case; may be empty.
        prefix: String,
    },
    /// A query parameter.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// A claim whose value becomes a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHeader {
    /// The name, as [`Claims::get`] takes it.
    pub claim: String,
    /// The header, which clients cannot set.
    pub header: HeaderName,
}

/// A public key of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonWebKey {
    /// `kid`. No two keys of the same type have the same.
    pub id: Option<String>,
    /// `alg`: the only algorithm that the key is used with.
    pub algorithm: Option<TokenAlgorithm>,
    /// The key.
    pub material: KeyMaterial,
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    /// Modulus and exponent, big-endian.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: Vec<u8>,
    },
    /// The uncompressed point of P-256.
    P256(Vec<u8>),
    /// The uncompressed point of P-384.
    P384(Vec<u8>),
    /// The point of Ed25519.
    Ed25519(Vec<u8>),
}

/// How a token is signed: with a private key always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum TokenAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl TokenAlgorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// Returns the value of `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Returns the algorithm of this name; `None` for `none`, for HMAC, and for what is unknown.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.as_str() == name)
    }
}

impl JsonWebKey {
    /// Returns true if the key verifies signatures of the algorithm. Its type decides, not the
    /// token.
    pub fn verifies(&self, algorithm: TokenAlgorithm) -> bool {
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let fits = match self.material {
            KeyMaterial::Rsa { .. } => {
                matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512)
            }
            KeyMaterial::P256(_) => algorithm == Es256,
            KeyMaterial::P384(_) => algorithm == Es384,
            KeyMaterial::Ed25519(_) => algorithm == EdDsa,
        };
        fits && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

/// The claims of a token that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    issuer: Arc<str>,
    all: Map<String, Value>,
}

impl Claims {
    /// `issuer`: of the provider that verified them.
    pub fn new(issuer: Arc<str>, all: Map<String, Value>) -> Self {
        Self { issuer, all }
    }

    /// Returns the issuer that the token was verified for.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns a claim: the one of this very name or, if there is none, the one that a path of
    /// names with dots between them leads to. Names may have dots of their own.
    pub fn get(&self, name: &str) -> Option<&Value> {
        find(&self.all, name)
    }
}

/// Visits each claim once at most: where it is in the token says how much of the name is left.
fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut dots = name.match_indices('.');
    dots.find_map(|(at, _)| {
        let (first, rest) = (name.get(..at)?, name.get(at + 1..)?);
        find(claims.get(first)?.as_object()?, rest)
    })
}

/// A condition on the token of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMatch {
    /// The issuer.
    pub issuer: String,
    /// The claim `sub`; `None` means any.
    pub subject: Option<String>,
    /// Each must be met.
    pub claims: Vec<ClaimMatch>,
}

/// A condition on a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The name, as [`Claims::get`] takes it.
    pub name: String,
    /// The claim is one of these; of an array, one element is.
    pub values: Vec<String>,
}

impl TokenMatch {
    /// Returns true if the token meets the condition.
    pub fn is_met(&self, token: &Claims) -> bool {
        let Self {
            issuer,
            subject,
            claims,
        } = self;
        let subject = subject.as_ref().is_none_or(|wanted| {
            let subject = token.all.get("sub").and_then(Value::as_str);
            subject == Some(wanted)
        });
        token.issuer() == issuer && subject && claims.iter().all(|of| of.is_met(token))
    }
}

impl ClaimMatch {
    fn is_met(&self, token: &Claims) -> bool {
        let wanted = |value: &Value| {
            let text = claim_text(value);
            text.is_some_and(|text| self.values.iter().any(|wanted| *wanted == text))
        };
        match token.get(&self.name) {
            Some(Value::Array(elements)) => elements.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        }
    }
}

/// Returns a string, a number or a truth value as text.
pub fn claim_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Claims {
        Claims::new("https://issuer".into(), serde_json::from_str(text).unwrap())
    }

    fn is_met(token: &Claims, name: &str, value: &str) -> bool {
        let condition = TokenMatch {
            issuer: "https://issuer".to_owned(),
            subject: None,
            claims: vec![ClaimMatch {
                name: name.to_owned(),
                values: vec!["other".to_owned(), value.to_owned()],
            }],
        };
        condition.is_met(token)
    }

    #[test]
    fn claims_are_compared_as_text_elements_and_by_path() {
        let token = claims(
            r#"{"sub": "jane", "roles": ["user", "admin", {"a": 1}], "level": 3, "staff": true,
                "realm": {"access": {"roles": ["ops"]}}, "https://a.example/role": "lead",
                "a.b": "literal", "a": {"b": "nested"}, "none": null,
                "kubernetes.io": {"namespace": "shop", "pod": {"name": "web"}}}"#,
        );
        for (name, value, met) in [
            ("roles", "admin", true),
            ("roles", "adm", false),
            ("level", "3", true),
            ("staff", "true", true),
            ("realm.access.roles", "ops", true),
            ("realm.access", "ops", false),
            ("realm.absent.roles", "ops", false),
            ("https://a.example/role", "lead", true),
            ("a.b", "literal", true),
            ("a.b", "nested", false),
            ("kubernetes.io.namespace", "shop", true),
            ("kubernetes.io.pod.name", "web", true),
            ("kubernetes.namespace", "shop", false),
            ("none", "null", false),
            ("absent", "", false),
        ] {
            assert_eq!(is_met(&token, name, value), met, "{name} {value}");
        }
    }

    #[test]
    fn issuer_and_subject_are_exact() {
        let token = claims(r#"{"sub": "jane", "iss": "https://other"}"#);
        let condition = |issuer: &str, subject: Option<&str>| TokenMatch {
            issuer: issuer.to_owned(),
            subject: subject.map(str::to_owned),
            claims: Vec::new(),
        };
        for (issuer, subject, met) in [
            ("https://issuer", None, true),
            ("https://issuer", Some("jane"), true),
            ("https://issuer", Some("jan"), false),
            ("https://issuer/", None, false),
            ("https://other", None, false),
        ] {
            let condition = condition(issuer, subject);
            assert_eq!(condition.is_met(&token), met, "{issuer} {subject:?}");
        }
    }

    #[test]
    fn key_type_decides_the_algorithm() {
        let key = |material, algorithm| JsonWebKey {
            id: None,
            algorithm,
            material,
        };
        let rsa = KeyMaterial::Rsa {
            modulus: vec![1],
            exponent: vec![3],
        };
        use TokenAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256};
        for (key, verifies) in [
            (key(rsa.clone(), None), [true, true, false, false, false]),
            (key(rsa, Some(Ps256)), [false, true, false, false, false]),
            (
                key(KeyMaterial::P256(vec![]), None),
                [false, false, true, false, false],
            ),
            (
                key(KeyMaterial::P384(vec![]), None),
                [false, false, false, true, false],
            ),
            (
                key(KeyMaterial::Ed25519(vec![]), None),
                [false, false, false, false, true],
            ),
        ] {
            let found = [Rs256, Ps256, Es256, Es384, EdDsa].map(|of| key.verifies(of));
            assert_eq!(found, verifies, "{key:?}");
        }
        for name in ["none", "None", "HS256", "HS512", "ES512", "rs256", ""] {
            assert_eq!(TokenAlgorithm::of_name(name), None, "{name}");
        }
    }
}
