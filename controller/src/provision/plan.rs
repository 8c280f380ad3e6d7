//! Compares the rendered objects of Gateways with those in the cluster, and plans the steps
//! between. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use tokio::time::Instant;
use weft_ir::GatewayId;
use weft_translate::Provision;

use super::ProxySettings;
use super::observe::{ObjectId, Observed, ObservedObject};
use super::render::{Kind, render};
use crate::watch::ObjectKey;

/// What was applied last, and the object's version after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) digest: u64,
    pub(super) version: String,
    pub(super) at: Instant,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Apply(Apply),
    Delete(Delete),
}

/// An object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Apply {
    pub(super) id: ObjectId,
    pub(super) object: Value,
    pub(super) digest: u64,
    /// Whether to check first that no object of that name was made for something else.
    pub(super) claim: bool,
}

/// An object to be deleted, because its Gateway does not need it any more.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delete {
    pub(super) id: ObjectId,
    pub(super) uid: String,
}

/// The steps for one Gateway, in order, or what prevents them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) gateway: GatewayId,
    /// The Gateway's UID.
    pub(super) uid: String,
    pub(super) steps: Result<Vec<Step>, String>,
}

/// Plans the work for every Gateway that needs steps, or for which they are prevented.
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
            check_owner(kind, &key, seen, &of.uid)?;
        }
        // The watch may not show yet what was just applied.
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

/// Returns an error if the object was not made for the Gateway.
pub(super) fn check_owner(
    kind: Kind,
    key: &ObjectKey,
    seen: &ObservedObject,
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
        "{kind} {key} exists and was not made for this Gateway, so it is not changed: delete or \
         rename it, or give the Gateway another name"
    ))
}

/// Returns the objects of Gateways whose class has changed since. `classes` are by the Gateways'
/// UIDs.
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
