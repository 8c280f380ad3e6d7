//! What has to be done so that the cluster has what Gateways need. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use tokio::time::Instant;
use weft_ir::GatewayId;
use weft_translate::Provision;

use super::ProxySettings;
use super::observe::{ObjectId, Observed, Seen};
use super::render::{Kind, render};
use crate::watch::ObjectKey;

/// What was applied last, and how the object was seen right after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) digest: u64,
    pub(super) version: String,
    pub(super) at: Instant,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Apply(Apply),
    Delete(Delete),
}

/// An object that is to be as it is rendered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Apply {
    pub(super) id: ObjectId,
    pub(super) object: Value,
    pub(super) digest: u64,
    /// To be looked at first: there may be one that is not ours.
    pub(super) claim: bool,
}

/// An object of ours that is no longer wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delete {
    pub(super) id: ObjectId,
    pub(super) uid: String,
}

/// What is to be done for one Gateway, in order, or what stands in the way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) gateway: GatewayId,
    /// The Gateway's.
    pub(super) uid: String,
    pub(super) steps: Result<Vec<Step>, String>,
}

/// Of every Gateway that needs something done, or cannot have it.
pub(super) fn plan(
    provisions: &[Provision],
    settings: &ProxySettings,
    observed: &Observed,
    applied: &HashMap<ObjectId, Applied>,
) -> Vec<Work> {
    let works = provisions.iter().map(|of| Work {
        gateway: of.gateway.clone(),
        uid: of.uid.clone(),
        steps: steps(of, settings, observed, applied),
    });
    works.filter(|work| work.steps != Ok(Vec::new())).collect()
}

fn steps(
    of: &Provision,
    settings: &ProxySettings,
    observed: &Observed,
    applied: &HashMap<ObjectId, Applied>,
) -> Result<Vec<Step>, String> {
    let key = ObjectKey::new(&*of.gateway.namespace, &of.name);
    let rendered = render(of, settings);
    let mut steps = Vec::new();
    for kind in Kind::ALL {
        let id = (kind, key.clone());
        let seen = observed.objects.get(&id);
        let Some((_, object)) = rendered.iter().find(|(one, _)| *one == kind) else {
            if let Some(seen) = seen
                && seen.owner.as_ref() == Some(&of.uid)
                && !seen.deleting
            {
                let uid = seen.uid.clone();
                steps.push(Step::Delete(Delete { id, uid }));
            }
            continue;
        };
        let digest = digest(object);
        if let Some(seen) = seen {
            hindrance(kind, &key, seen, &of.uid)?;
        }
        // What was just made may not be seen yet.
        let done = applied.get(&id).is_some_and(|applied| {
            let same = seen.is_none_or(|seen| applied.version == seen.version);
            applied.digest == digest && same
        });
        if !done {
            steps.push(Step::Apply(Apply {
                claim: seen.is_none(),
                object: object.clone(),
                id,
                digest,
            }));
        }
    }
    Ok(steps)
}

/// Why an object cannot be made the Gateway's.
pub(super) fn hindrance(
    kind: Kind,
    key: &ObjectKey,
    seen: &Seen,
    gateway_uid: &str,
) -> Result<(), String> {
    let kind = kind.names().2;
    if seen.deleting {
        return Err(format!(
            "{kind} {key} is being deleted: waiting until it is gone"
        ));
    }
    if seen.owner.as_deref() == Some(gateway_uid) {
        return Ok(());
    }
    Err(format!(
        "{kind} {key} exists and was not made for this Gateway, so it is left alone: delete or rename it, or give the \
         Gateway another name"
    ))
}

/// Objects of Gateways that have another class by now: nothing of the old class is wanted. Gateways by uid.
pub(super) fn outdated(observed: &Observed, classes: &BTreeMap<String, String>) -> Vec<Delete> {
    let outdated = observed.objects.iter().filter(|(_, seen)| {
        let now = seen.owner.as_ref().and_then(|owner| classes.get(owner));
        !seen.deleting && now.is_some() && seen.class.as_ref() != now
    });
    let objects: BTreeSet<_> = outdated
        .map(|(id, seen)| (id.clone(), seen.uid.clone()))
        .collect();
    let objects = objects.into_iter();
    objects.map(|(id, uid)| Delete { id, uid }).collect()
}

fn digest(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Keys are in order: the same object is the same text.
    object.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
