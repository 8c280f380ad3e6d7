//! The state of a rotation in the root's Secret, and the patches from one phase to the next. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::PhaseReport;
use crate::identity::{Bundle, LoadError, Phase, RootFingerprint, Trust};

/// Set by users to request a rotation. Any new text starts one; `from=weft-ca-next` in it selects a
/// root of the user's.
pub const REQUEST: &str = "weft.dev/rotate-root";
/// The last request that was handled: the same text requests nothing.
const HANDLED: &str = "weft.dev/rotate-root-answered";
/// Why a request was rejected.
const REJECTED: &str = "weft.dev/rotation-refused";
/// The phase and its progress.
pub const STATUS: &str = "weft.dev/rotation";
/// When the phase began.
const SINCE: &str = "weft.dev/rotation-since";
const REPORTS: &str = "weft.dev/roots-of.";

/// The only Secret that a root of the user's is read from: the controller has no right to read
/// others.
pub const USER_ROOT: &str = "weft-ca-next";
/// Withdrawn roots that are kept, for replicas that missed a phase.
const MAX_WITHDRAWN: usize = 8;

type Data = BTreeMap<String, ByteString>;

/// The Secret with its annotations and data.
#[derive(Clone, Copy)]
pub struct View<'a>(pub &'a Secret);

/// What a user requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A generated root.
    Generate,
    /// The root of the Secret [`USER_ROOT`].
    FromSecret,
}

/// Why a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    UnderWay(&'static str),
    Word(String),
    /// The user's root is not usable.
    Unusable(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay(phase) => write!(
                f,
                "a rotation is under way ({phase}): request another one when it is complete"
            ),
            Self::Word(word) => write!(
                f,
                "{word:?} in {REQUEST} is not supported: the only source of a root is \
                 from={USER_ROOT}"
            ),
            Self::Unusable(reason) => write!(f, "Secret {USER_ROOT}: {reason}"),
        }
    }
}

impl<'a> View<'a> {
    fn annotation(self, name: &str) -> Option<&'a str> {
        let annotations = self.0.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// Returns the request that has not been handled, or why it is rejected.
    pub fn request(self, phase: &Phase) -> Option<Result<Request, Rejection>> {
        let text = self.annotation(REQUEST).filter(|text| !text.is_empty())?;
        if self.annotation(HANDLED) == Some(text) {
            return None;
        }
        if *phase != Phase::Steady {
            return Some(Err(Rejection::UnderWay(phase.name())));
        }
        let mut request = Request::Generate;
        for word in text.split_whitespace().filter(|word| word.contains('=')) {
            match word.split_once('=') {
                Some(("from", USER_ROOT)) => request = Request::FromSecret,
                _ => return Some(Err(Rejection::Word(word.to_owned()))),
            }
        }
        Some(Ok(request))
    }

    /// Returns true if the Secret is in this phase: the state of this replica may be of an earlier
    /// or later one.
    pub fn is_in(self, phase: &Phase) -> bool {
        let data = self.0.data.as_ref();
        let has = |key: &str| {
            data.and_then(|data| data.get(key))
                .is_some_and(|v| !v.0.is_empty())
        };
        match phase {
            Phase::Steady => !has("next.crt") && !has("previous.crt"),
            Phase::Distributing { .. } => has("next.crt"),
            Phase::Renewing => !has("next.crt") && has("previous.crt"),
        }
    }

    pub fn status(self) -> Option<&'a str> {
        self.annotation(STATUS)
    }

    /// Returns when the phase began, if that is known.
    pub fn since(self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.annotation(SINCE)?, &Rfc3339).ok()
    }

    /// Returns the report in an annotation, if it is about this phase and root.
    pub fn report(
        self,
        annotation: &str,
        phase: &Phase,
        root: RootFingerprint,
    ) -> Option<super::Report> {
        let about: PhaseReport = self.annotation(annotation)?.parse().ok()?;
        (about.phase == phase.name() && about.root == root).then_some(about.report)
    }

    /// Returns a merge patch, which fails if the Secret has changed since it was read.
    fn patch(self, data: &Value, annotations: &Value) -> Value {
        json!({
            "metadata": {
                "resourceVersion": self.0.metadata.resource_version,
                "annotations": annotations,
            },
            "data": data,
        })
    }

    /// The patch that rejects the request.
    pub fn rejected(self, why: &Rejection) -> Value {
        let handled = self.annotation(REQUEST);
        let annotations = json!({HANDLED: handled, REJECTED: why.to_string()});
        self.patch(&json!({}), &annotations)
    }

    /// The patch that updates the progress.
    pub fn progress(self, status: &str) -> Value {
        self.patch(&json!({}), &json!({STATUS: status}))
    }

    /// The patch that starts the phase's clock at `now`, as its beginning is unknown.
    pub fn started(self, now: OffsetDateTime) -> Value {
        self.patch(&json!({}), &json!({SINCE: stamp(now)}))
    }

    /// The patch into the phase distributing, with the next root.
    pub fn distributing(self, certificates: &[u8], key: &[u8], now: OffsetDateTime) -> Value {
        let data = json!({"next.crt": bytes(certificates), "next.key": bytes(key)});
        let annotations = json!({
            HANDLED: self.annotation(REQUEST), REJECTED: null,
            STATUS: "distributing", SINCE: stamp(now),
        });
        self.patch(&data, &annotations)
    }

    /// The patch into the phase renewing, in which the next root signs. Returns `None` if there is
    /// no next root.
    pub fn renewing(self, trust: &Trust, now: OffsetDateTime) -> Result<Option<Value>, LoadError> {
        let data = self.0.data.as_ref();
        let get = |key: &str| data.and_then(|data| data.get(key));
        let (Some(certificates), Some(key)) = (get("next.crt"), get("next.key")) else {
            return Ok(None);
        };
        let signing = Bundle::of([trust.authority.root().clone()])?;
        // cert-manager and others add the signer's own root to ca.crt: it must be withdrawn with
        // the signer.
        let additional = self.bundle("ca.crt")?.difference(&signing).pem(now);
        let additional = (!additional.is_empty()).then(|| bytes(additional.as_bytes()));
        let previous = signing
            .union(&self.bundle("previous.crt")?)
            .union(trust.former());
        let data = json!({
            "tls.crt": certificates, "tls.key": key, "next.crt": null, "next.key": null,
            "ca.crt": additional,
            "previous.crt": bytes(previous.pem(now).as_bytes()),
        });
        let annotations = json!({STATUS: "renewing", SINCE: stamp(now)});
        Ok(Some(self.patch(&data, &annotations)))
    }

    /// The patch into the phase renewing after a user replaced the root.
    pub fn replaced(self, trust: &Trust, now: OffsetDateTime) -> Value {
        let data = json!({"previous.crt": bytes(trust.former().pem(now).as_bytes())});
        self.patch(&data, &json!({STATUS: "renewing", SINCE: stamp(now)}))
    }

    /// The patch into the phase steady: the previous root is withdrawn.
    pub fn steady(self, trust: &Trust, now: OffsetDateTime) -> Result<Value, LoadError> {
        let own = Bundle::of([trust.authority.root().clone()])?;
        let withdrawn = self.bundle("previous.crt")?.union(trust.former());
        let withdrawn = withdrawn.union(&self.bundle("withdrawn.crt")?);
        let withdrawn = withdrawn.difference(&own).truncated(MAX_WITHDRAWN);
        let data =
            json!({"previous.crt": null, "withdrawn.crt": bytes(withdrawn.pem(now).as_bytes())});
        let mut annotations = json!({
            STATUS: format!("complete since {}", stamp(now)), SINCE: null,
        });
        let present = self.0.metadata.annotations.iter().flat_map(BTreeMap::keys);
        for report in present.filter(|name| name.starts_with(REPORTS)) {
            annotations[report] = Value::Null;
        }
        Ok(self.patch(&data, &annotations))
    }

    fn bundle(self, key: &'static str) -> Result<Bundle, LoadError> {
        let data: Option<&Data> = self.0.data.as_ref();
        let pem = data.and_then(|data| data.get(key));
        Bundle::from_pem(key, pem.map_or(&[][..], |pem| &pem.0))
    }
}

fn bytes(bytes: &[u8]) -> Value {
    json!(ByteString(bytes.to_vec()))
}

fn stamp(at: OffsetDateTime) -> String {
    let whole = at.replace_nanosecond(0).unwrap_or(at);
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
