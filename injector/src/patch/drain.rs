//! The termination of a pod: the preStop hook that calls the proxy before a container gets SIGTERM,
//! and times that fit into the pod's grace period.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::add;

/// Kubernetes' default of `terminationGracePeriodSeconds`.
const GRACE_PERIOD: i64 = 30;
/// How long a hook may delay a container's SIGTERM, unless the grace for outside clients is longer.
const WITHDRAW: i64 = 8;
/// Reserve of the grace period for the end of the proxy.
const RESERVE: i64 = 5;

const MAX_DRAIN: i64 = 86_400;

/// Times of the proxy, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// The maximum time of the hook: at most half of the grace period, the other half is for the
    /// application.
    pub withdraw: i64,
    /// How long open connections may take to end after the proxy gets SIGTERM.
    pub drain: i64,
}

impl Times {
    /// `outside_grace` is the time for clients outside the mesh.
    pub(super) fn within(grace_period: Option<i64>, outside_grace: Option<u8>) -> Self {
        let grace_period = grace_period.unwrap_or(GRACE_PERIOD).max(1);
        let wished = outside_grace.map_or(WITHDRAW, |grace| WITHDRAW.max(grace.into()));
        Self {
            withdraw: wished.min(grace_period / 2),
            // A day is enough, and the proxy counts in 32 bits.
            drain: (grace_period - RESERVE).clamp(1, MAX_DRAIN),
        }
    }
}

/// Returns operations that add the hook to every container without a `preStop`.
pub(super) fn hooks(raw: &Value) -> Vec<PatchOperation> {
    let containers = raw.pointer("/spec/containers").and_then(Value::as_array);
    let containers = containers.into_iter().flatten().enumerate();
    containers
        .filter_map(|(place, container)| hook(place, container))
        .collect()
}

fn hook(place: usize, container: &Value) -> Option<PatchOperation> {
    let hook = json!({ "httpGet": { "path": "/drain", "port": 15021, "scheme": "HTTP" } });
    let place = place.to_string();
    let path = ["spec", "containers", place.as_str(), "lifecycle"];
    match container.get("lifecycle") {
        Some(Value::Object(lifecycle)) => match lifecycle.get("preStop") {
            Some(own) if !own.is_null() => None,
            _ => Some(add(path.into_iter().chain(["preStop"]), hook)),
        },
        _ => Some(add(path, json!({ "preStop": hook }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fit_into_the_grace_period() {
        for (period, outside, withdraw, drain) in [
            (None, None, 8, 25),
            (Some(30), Some(3), 8, 25),
            (Some(60), Some(20), 20, 55),
            (Some(10), Some(20), 5, 5),
            (Some(2), None, 1, 1),
            (Some(1), None, 0, 1),
            (Some(0), None, 0, 1),
            (Some(-7), None, 0, 1),
            (Some(i64::MAX), None, 8, 86_400),
        ] {
            let times = Times::within(period, outside);
            assert_eq!(times, Times { withdraw, drain }, "{period:?} {outside:?}");
        }
    }
}
