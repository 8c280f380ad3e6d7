//! What a token says of itself, before Kubernetes is asked whether it is true: strangers must not make the controller ask
//! for what cannot be right. Nothing here is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use time::OffsetDateTime;
use weft_api::TOKEN_AUDIENCE;
use weft_ir::Identity;

/// Clocks of nodes differ by less.
const LEEWAY: i64 = 60;

/// Why Kubernetes need not be asked about a token.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Implausible {
    #[error(
        "the token is no projected token of a service account; check the projected volume of the pod"
    )]
    Malformed,
    #[error(
        "the token is not made for the audience {TOKEN_AUDIENCE}; check the projected volume of the pod"
    )]
    Audience,
    #[error("the token has ended; check the clocks of the pod's node and of the controller's")]
    Expired,
    #[error("the token is not bound to a pod; only projected tokens of pods are accepted")]
    NotBound,
    #[error("the CSR does not ask for the account that the token is of")]
    ForeignName,
}

impl Implausible {
    /// A word for the metrics, that of the review where it would have said the same.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed_token",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotBound => "not_bound",
            Self::ForeignName => "foreign_name",
        }
    }
}

/// The claims of a service account's token that are looked at (KEP-1205).
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

/// Checks that the token may be one of a pod that runs as `asked`; gives the pod's name, as the token says it.
pub(super) fn plausible(
    token: &str,
    asked: &Identity,
    now: OffsetDateTime,
) -> Result<String, Implausible> {
    let claims = claims(token).ok_or(Implausible::Malformed)?;
    let made_for_us = match &claims.aud {
        Audience::One(one) => one == TOKEN_AUDIENCE,
        Audience::Many(many) => many.iter().any(|one| one == TOKEN_AUDIENCE),
    };
    if !made_for_us {
        return Err(Implausible::Audience);
    }
    if claims.exp.saturating_add(LEEWAY) < now.unix_timestamp() {
        return Err(Implausible::Expired);
    }
    let Kubernetes {
        namespace,
        serviceaccount,
        pod,
    } = claims.kubernetes;
    if namespace != asked.namespace() || serviceaccount.name != asked.account() {
        return Err(Implausible::ForeignName);
    }
    pod.map(|pod| pod.name).ok_or(Implausible::NotBound)
}

/// The claims of a JWT in compact form (RFC 7519): three parts, of which the second is JSON.
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

    /// A token that says it is of `bob-0`; nobody has signed it.
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

    /// `signature` stands for the one that Kubernetes would check.
    pub(crate) fn token(payload: &Value, signature: &str) -> String {
        let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
        format!("e30.{payload}.{signature}")
    }

    #[test]
    fn a_pods_own_token_is_plausible() {
        let asked = identity("shop", "bob");
        let mut of_bob = payload();
        let of = |of: &Value| plausible(&token(of, "x"), &asked, now());
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
        of_bob["aud"] = json!(TOKEN_AUDIENCE);
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
        of_bob["exp"] = json!(now().unix_timestamp() - 30);
        assert_eq!(of(&of_bob), Ok("bob-0".to_owned()));
    }

    #[test]
    fn what_cannot_be_right_is_refused_unasked() {
        let asked = identity("shop", "bob");
        for (pointer, value, expected) in [
            ("/aud", json!(["https://api"]), Implausible::Audience),
            ("/aud", json!(7), Implausible::Malformed),
            (
                "/exp",
                json!(now().unix_timestamp() - 120),
                Implausible::Expired,
            ),
            ("/exp", json!(i64::MIN), Implausible::Expired),
            (
                "/kubernetes.io/namespace",
                json!("other"),
                Implausible::ForeignName,
            ),
            (
                "/kubernetes.io/serviceaccount/name",
                json!("eve"),
                Implausible::ForeignName,
            ),
            ("/kubernetes.io/pod", Value::Null, Implausible::NotBound),
            ("/kubernetes.io", Value::Null, Implausible::Malformed),
        ] {
            let mut of = payload();
            *of.pointer_mut(pointer).unwrap() = value;
            let refused = plausible(&token(&of, "x"), &asked, now());
            assert_eq!(refused, Err(expected), "{pointer}");
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
            let refused = plausible(token, &asked, now());
            assert_eq!(refused, Err(Implausible::Malformed), "{token}");
        }
    }
}
