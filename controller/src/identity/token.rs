//! Checks the claims of a token before Kubernetes reviews it, so that strangers cannot cause
//! reviews of tokens that are certain to be rejected. The claims are not trusted: the signature has
//! not been verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use time::OffsetDateTime;
use weft_api::TOKEN_AUDIENCE;
use weft_ir::Identity;

/// The tolerated difference between clocks, in seconds.
const LEEWAY: i64 = 60;

/// Why a token is rejected without a review.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PrecheckError {
    #[error(
        "the token is not a projected token of a service account; check the projected volume of \
         the pod"
    )]
    Malformed,
    #[error(
        "the token is not for the audience {TOKEN_AUDIENCE}; check the projected volume of the pod"
    )]
    Audience,
    #[error(
        "the token has expired; check the clocks of the pod's node and of the controller's node"
    )]
    Expired,
    #[error("the token is not bound to a pod; only projected tokens of pods are accepted")]
    NotBound,
    #[error("the CSR requests another service account than the token's")]
    ForeignName,
}

impl PrecheckError {
    /// The label `reason` of the metric: that of the review where the review has the same reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed_token",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotBound => "not_bound",
            Self::ForeignName => "foreign_name",
        }
    }
}

/// The claims of a service account's token that are checked (KEP-1205).
#[derive(Debug, Deserialize)]
struct Claims {
    aud: Audience,
    exp: i64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// Checks that the claims are those of a pod that runs as `asked`. Returns the pod's name from the
/// claims.
pub(super) fn precheck(
    token: &str,
    asked: &Identity,
    now: OffsetDateTime,
) -> Result<String, PrecheckError> {
    let claims = claims(token).ok_or(PrecheckError::Malformed)?;
    let is_for_us = match &claims.aud {
        Audience::One(one) => one == TOKEN_AUDIENCE,
        Audience::Many(many) => many.iter().any(|one| one == TOKEN_AUDIENCE),
    };
    if !is_for_us {
        return Err(PrecheckError::Audience);
    }
    if claims.exp.saturating_add(LEEWAY) < now.unix_timestamp() {
        return Err(PrecheckError::Expired);
    }
    let Kubernetes {
        namespace,
        serviceaccount,
        pod,
    } = claims.kubernetes;
    if namespace != asked.namespace() || serviceaccount.name != asked.account() {
        return Err(PrecheckError::ForeignName);
    }
    pod.map(|pod| pod.name).ok_or(PrecheckError::NotBound)
}

/// Parses the claims of a JWT in compact form (RFC 7519).
fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || header.is_empty() || signature.is_empty() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::identity::tests::{identity, now};

    /// The claims of a token of `bob-0`.
    pub(crate) fn payload() -> Value {
        json!({
            "aud": [TOKEN_AUDIENCE],
            "exp": now().unix_timestamp() + 3_600,
            "kubernetes.io": {
                "namespace": "shop",
                "serviceaccount": { "name": "bob", "uid": "1" },
                "pod": { "name": "bob-0", "uid": "2" },
            },
        })
    }

    /// A token with these claims; `signature` stands for the one that Kubernetes would verify.
    pub(crate) fn token(payload: &Value, signature: &str) -> String {
        let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
        format!("e30.{payload}.{signature}")
    }

    #[test]
    fn token_of_the_pod_passes() {
        let asked = identity("shop", "bob");
        let mut of_bob = payload();
        let of = |of: &Value| precheck(&token(of, "x"), &asked, now());
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
        of_bob["aud"] = json!(TOKEN_AUDIENCE);
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
        of_bob["exp"] = json!(now().unix_timestamp() - 30);
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
    }

    #[test]
    fn wrong_claims_are_rejected_without_a_review() {
        let asked = identity("shop", "bob");
        for (pointer, value, expected) in [
            ("/aud", json!(["https://api"]), PrecheckError::Audience),
            ("/aud", json!(7), PrecheckError::Malformed),
            (
                "/exp",
                json!(now().unix_timestamp() - 120),
                PrecheckError::Expired,
            ),
            ("/exp", json!(i64::MIN), PrecheckError::Expired),
            (
                "/kubernetes.io/namespace",
                json!("other"),
                PrecheckError::ForeignName,
            ),
            (
                "/kubernetes.io/serviceaccount/name",
                json!("eve"),
                PrecheckError::ForeignName,
            ),
            ("/kubernetes.io/pod", Value::Null, PrecheckError::NotBound),
            ("/kubernetes.io", Value::Null, PrecheckError::Malformed),
        ] {
            let mut of = payload();
            *of.pointer_mut(pointer).unwrap() = value;
            let rejected = precheck(&token(&of, "x"), &asked, now());
            assert_eq!(rejected, Err(expected), "{pointer}");
        }
        let good = token(&payload(), "x");
        for token in [
            "",
            "x",
            "a.b",
            "a.b.c",
            "..",
            &format!("{good}.x"),
            &token(&payload(), ""),
        ] {
            let rejected = precheck(token, &asked, now());
            assert_eq!(rejected, Err(PrecheckError::Malformed), "{token}");
        }
    }
}
