//! What the root's Secret says of its rotation, and the writes that take it from one phase to the next. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::About;
use crate::identity::{Bundle, LoadError, Phase, Trust};

/// Set by users: a rotation is wanted. Any new text begins one; `from=weft-ca-next` in it names the root to take.
pub const REQUEST: &str = "weft.dev/rotate-root";
/// The request that was answered last: the same text asks for nothing.
const ANSWERED: &str = "weft.dev/rotate-root-answered";
/// Why a request was refused.
const REFUSED: &str = "weft.dev/rotation-refused";
/// The phase and how far it is.
pub const STATUS: &str = "weft.dev/rotation";
/// When the phase began.
const SINCE: &str = "weft.dev/rotation-since";
const REPORTS: &str = "weft.dev/roots-of.";

/// The only Secret that a new root may be brought in: the controller may read no other.
pub const BROUGHT: &str = "weft-ca-next";
/// Withdrawn roots that are remembered, for replicas that missed a phase.
const REMEMBERED: usize = 8;

type Data = BTreeMap<String, ByteString>;

/// Annotations and data of the Secret.
#[derive(Clone, Copy)]
pub struct View<'a>(pub &'a Secret);

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new root is made.
    Make,
    /// That of the Secret [`BROUGHT`] is taken.
    Take,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnderWay(&'static str),
    Word(String),
    /// The root that was brought cannot be used.
    Unusable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay(phase) => write!(
                f,
                "a rotation is under way ({phase}): ask again when it is complete"
            ),
            Self::Word(word) => write!(
                f,
                "{word:?} in {REQUEST} is not understood: the only Secret that a root is taken from is from={BROUGHT}"
            ),
            Self::Unusable(reason) => write!(f, "Secret {BROUGHT}: {reason}"),
        }
    }
}

impl<'a> View<'a> {
    fn annotation(self, name: &str) -> Option<&'a str> {
        let annotations = self.0.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// The request that has not been answered, if it can be.
    pub fn request(self, phase: &Phase) -> Option<Result<Request, Refusal>> {
        let text = self.annotation(REQUEST).filter(|text| !text.is_empty())?;
        if self.annotation(ANSWERED) == Some(text) {
            return None;
        }
        if *phase != Phase::Steady {
            return Some(Err(Refusal::UnderWay(phase.word())));
        }
        let mut request = Request::Make;
        for word in text.split_whitespace().filter(|word| word.contains('=')) {
            match word.split_once('=') {
                Some(("from", BROUGHT)) => request = Request::Take,
                _ => return Some(Err(Refusal::Word(word.to_owned()))),
            }
        }
        Some(Ok(request))
    }

    /// Whether the Secret is of this phase: what is trusted here may be of an earlier one, or of a later one.
    pub fn is_of(self, phase: &Phase) -> bool {
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

    /// When the phase began, if that is known.
    pub fn since(self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.annotation(SINCE)?, &Rfc3339).ok()
    }

    /// The report under an annotation, if it is of this phase and root.
    pub fn report(self, annotation: &str, phase: &Phase, root: u64) -> Option<super::Report> {
        let about: About = self.annotation(annotation)?.parse().ok()?;
        (about.phase == phase.word() && about.root == root).then_some(about.report)
    }

    /// A merge patch of these, which fails when the Secret has changed since.
    fn patch(self, data: &Value, annotations: &Value) -> Value {
        json!({
            "metadata": {
                "resourceVersion": self.0.metadata.resource_version,
                "annotations": annotations,
            },
            "data": data,
        })
    }

    /// The request is refused.
    pub fn refused(self, why: &Refusal) -> Value {
        let answered = self.annotation(REQUEST);
        let annotations = json!({ANSWERED: answered, REFUSED: why.to_string()});
        self.patch(&json!({}), &annotations)
    }

    /// Another text for how far it is.
    pub fn told(self, status: &str) -> Value {
        self.patch(&json!({}), &json!({STATUS: status}))
    }

    /// The phase is counted from now: its beginning is not known.
    pub fn counted(self, now: OffsetDateTime) -> Value {
        self.patch(&json!({}), &json!({SINCE: stamp(now)}))
    }

    /// Into distributing, with the root to come.
    pub fn distributing(self, certificates: &[u8], key: &[u8], now: OffsetDateTime) -> Value {
        let data = json!({"next.crt": bytes(certificates), "next.key": bytes(key)});
        let annotations = json!({
            ANSWERED: self.annotation(REQUEST), REFUSED: null,
            STATUS: "distributing", SINCE: stamp(now),
        });
        self.patch(&data, &annotations)
    }

    /// Into renewing: the root to come signs. `None` when there is none.
    pub fn renewing(self, trust: &Trust, now: OffsetDateTime) -> Result<Option<Value>, LoadError> {
        let data = self.0.data.as_ref();
        let get = |key: &str| data.and_then(|data| data.get(key));
        let (Some(certificates), Some(key)) = (get("next.crt"), get("next.key")) else {
            return Ok(None);
        };
        let signing = Bundle::of([trust.authority.root().clone()])?;
        // cert-manager and others list the signer's own root there, too: it is to go with the signer.
        let further = self.bundle("ca.crt")?.without(&signing).pem(now);
        let further = (!further.is_empty()).then(|| bytes(further.as_bytes()));
        let previous = signing
            .and(&self.bundle("previous.crt")?)
            .and(trust.former());
        let data = json!({
            "tls.crt": certificates, "tls.key": key, "next.crt": null, "next.key": null,
            "ca.crt": further,
            "previous.crt": bytes(previous.pem(now).as_bytes()),
        });
        let annotations = json!({STATUS: "renewing", SINCE: stamp(now)});
        Ok(Some(self.patch(&data, &annotations)))
    }

    /// Into renewing, after a root was put in place of another by hand.
    pub fn replaced(self, trust: &Trust, now: OffsetDateTime) -> Value {
        let data = json!({"previous.crt": bytes(trust.former().pem(now).as_bytes())});
        self.patch(&data, &json!({STATUS: "renewing", SINCE: stamp(now)}))
    }

    /// Into steady: what signed before is trusted no longer.
    pub fn steady(self, trust: &Trust, now: OffsetDateTime) -> Result<Value, LoadError> {
        let own = Bundle::of([trust.authority.root().clone()])?;
        let gone = self.bundle("previous.crt")?.and(trust.former());
        let gone = gone.and(&self.bundle("withdrawn.crt")?).without(&own);
        let gone = gone.first(REMEMBERED);
        let data = json!({"previous.crt": null, "withdrawn.crt": bytes(gone.pem(now).as_bytes())});
        let mut annotations = json!({
            STATUS: format!("complete since {}", stamp(now)), SINCE: null,
        });
        let there = self.0.metadata.annotations.iter().flat_map(BTreeMap::keys);
        for report in there.filter(|name| name.starts_with(REPORTS)) {
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
