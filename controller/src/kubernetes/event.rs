//! Events of Kubernetes, which `kubectl describe` shows with an object, for what no condition can
//! report.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::ObjectMeta;

/// The maximum length of a message.
const MAX_MESSAGE: usize = 1000;

/// Whether an Event asks for attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Makes an Event about the object at the current time.
pub(crate) fn event(
    metadata: ObjectMeta,
    object: ObjectReference,
    kind: EventKind,
    reason: &str,
    message: &str,
) -> Event {
    let now = Time(Timestamp::now());
    Event {
        metadata,
        involved_object: object,
        type_: Some(kind.name().to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.chars().take(MAX_MESSAGE).collect()),
        source: Some(EventSource {
            component: Some("weft-controller".to_owned()),
            host: None,
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
