//! What is said of Gateways, ListenerSets and their listeners.
//!
//! Source: the comments of `GatewayConditionType`, `ListenerConditionType`, `ListenerSetConditionType` and their reasons.

use std::collections::{BTreeSet, HashMap};

use weft_ir::RouteKind;

use super::attach::{Attached, ListenerId};
use super::listeners::Bound;
use super::plans::{Listeners, Plan, Set};
use crate::conditions::Fault;
use crate::conditions::{condition, join};
use crate::names::GROUP;
use crate::output::{
    Address, Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, RouteGroupKind,
};
use crate::routes::status::works;

/// Accepted routes by listener.
pub(crate) type Counts = HashMap<ListenerId, u32>;

pub(crate) fn counts(routes: &[Attached]) -> Counts {
    let mut counts = Counts::new();
    for (route, attachments) in routes {
        if works(route).is_err() {
            continue;
        }
        let listeners = attachments
            .iter()
            .filter_map(|of| of.listeners.as_ref().ok());
        let listeners: BTreeSet<&ListenerId> = listeners.flatten().map(|(id, _)| id).collect();
        for id in listeners {
            *counts.entry(id.clone()).or_default() += 1;
        }
    }
    counts
}

/// What is decided of a Gateway elsewhere.
pub(crate) struct Verdict {
    /// Errors decide about Accepted.
    pub(crate) accepted: Result<(), Fault>,
    /// Keys of `spec.infrastructure` that its pods do not get.
    pub(crate) kept_off_pods: Vec<String>,
    /// Errors decide about Programmed, where the Gateway is accepted.
    pub(crate) programmed: Result<(), Fault>,
    /// The condition AddressesAssigned; `None`: there is nothing to say yet.
    pub(crate) assigned: Option<Result<(), Fault>>,
    pub(crate) addresses: BTreeSet<Address>,
}

/// Whether the Gateway's own listeners let it be accepted.
pub(crate) fn some_listener(plan: &Plan<'_>) -> Result<(), Fault> {
    if plan.own.all.iter().any(|of| of.accepted().is_ok()) {
        return Ok(());
    }
    Err(Fault {
        reason: "ListenersNotValid",
        text: format!("no listener is valid: {}", invalid_listeners(&plan.own)),
    })
}

/// Those that are not accepted, with their reasons.
fn invalid_listeners(listeners: &Listeners<'_>) -> String {
    let refused = listeners.all.iter().filter_map(|of| {
        let fault = of.accepted().err()?;
        Some(format!("{}: {}", of.spec.name, fault.text))
    });
    let all: Vec<String> = refused
        .chain(listeners.unreadable.iter().cloned())
        .collect();
    if all.is_empty() {
        "there is none".to_owned()
    } else {
        all.join("; ")
    }
}

fn all_valid(listeners: &Listeners<'_>) -> bool {
    listeners.unreadable.is_empty() && listeners.all.iter().all(|of| of.accepted().is_ok())
}

fn kept_off_pods(verdict: &Verdict) -> String {
    match verdict.kept_off_pods.as_slice() {
        [] => String::new(),
        keys => format!(
            "; its pods do not get {} of spec.infrastructure: podMetadataDomains of the class's parameters may permit \
             the domain",
            keys.join(", ")
        ),
    }
}

pub(crate) fn gateway(plan: &Plan<'_>, verdict: &Verdict, counts: &Counts) -> GatewayStatus {
    let accepted = &verdict.accepted;
    let mut conditions = vec![match accepted {
        Err(fault) => condition("Accepted", false, fault.reason, fault.text.clone()),
        Ok(()) if all_valid(&plan.own) => {
            let message = format!("the Gateway is in force{}", kept_off_pods(verdict));
            condition("Accepted", true, "Accepted", message)
        }
        Ok(()) => {
            let why = invalid_listeners(&plan.own);
            let message = format!(
                "in force but for listeners that are not valid: {why}{}",
                kept_off_pods(verdict)
            );
            condition("Accepted", true, "ListenersNotValid", message)
        }
    }];
    conditions.push(match (accepted, &verdict.programmed) {
        (Err(fault), _) => {
            let why = format!("the Gateway is not accepted: {}", fault.text);
            condition("Programmed", false, "Invalid", why)
        }
        (Ok(()), Err(fault)) => condition("Programmed", false, fault.reason, fault.text.clone()),
        (Ok(()), Ok(())) => {
            let message = "an address is assigned, and a proxy is ready".to_owned();
            condition("Programmed", true, "Programmed", message)
        }
    });
    conditions.push(resolved_refs(plan));
    if let Some(assigned) = &verdict.assigned {
        const KIND: &str = "AddressesAssigned";
        conditions.push(match assigned {
            Ok(()) => condition(KIND, true, KIND, "every address is assigned".to_owned()),
            Err(fault) => condition(KIND, false, fault.reason, fault.text.clone()),
        });
    }
    if plan.insecure {
        let message = "spec.tls.frontend lets in clients whose certificates do not hold, or that have none \
                       (AllowInsecureFallback); set AllowValidOnly outside of tests";
        conditions.push(condition(
            "InsecureFrontendValidationMode",
            true,
            "ConfigurationChanged",
            message.to_owned(),
        ));
    }
    let attached = plan
        .sets
        .iter()
        .filter(|set| set_accepted(set, accepted).is_ok());
    GatewayStatus {
        id: plan.owned.id.clone(),
        generation: plan.owned.meta.generation,
        conditions,
        addresses: verdict.addresses.iter().cloned().collect(),
        attached_listener_sets: u32::try_from(attached.count()).unwrap_or(u32::MAX),
        listeners: listeners(plan, None, &plan.own, accepted, counts),
    }
}

fn resolved_refs(plan: &Plan<'_>) -> Condition {
    let client = plan.client_certificate.as_ref().err();
    if let Some(fault) = client.or(plan.client_gone.as_ref()) {
        return condition("ResolvedRefs", false, fault.reason, fault.text.clone());
    }
    let unresolved = plan.own.all.iter().filter(|of| !of.unresolved.is_empty());
    let names: Vec<&str> = unresolved.map(|of| of.spec.name.as_str()).collect();
    if names.is_empty() {
        let message = "every reference was resolved".to_owned();
        return condition("ResolvedRefs", true, "ResolvedRefs", message);
    }
    let why = format!("see the listeners {}", names.join(", "));
    condition("ResolvedRefs", false, "ListenersNotResolved", why)
}

fn set_accepted(set: &Set<'_>, gateway: &Result<(), Fault>) -> Result<(), Fault> {
    if let Some(fault) = &set.refused {
        return Err(fault.clone());
    }
    if let Err(fault) = gateway {
        return Err(Fault {
            reason: "ParentNotAccepted",
            text: format!("its Gateway is not accepted: {}", fault.text),
        });
    }
    if set.listeners.all.iter().any(|of| of.usable().is_ok()) {
        return Ok(());
    }
    let reasons = set.listeners.all.iter().filter_map(|of| {
        let fault = of.usable().err()?;
        Some(format!("{}: {}", of.spec.name, fault.text))
    });
    let reasons: Vec<String> = reasons
        .chain(set.listeners.unreadable.iter().cloned())
        .collect();
    Err(Fault {
        reason: "ListenersNotValid",
        text: format!("no listener is valid: {}", reasons.join("; ")),
    })
}

pub(crate) fn listener_sets(
    plan: &Plan<'_>,
    verdict: &Verdict,
    counts: &Counts,
) -> Vec<ListenerSetStatus> {
    let sets = plan.sets.iter().enumerate();
    sets.map(|(place, set)| {
        let accepted = set_accepted(set, &verdict.accepted);
        let programmed = match (&accepted, &verdict.programmed) {
            (Err(fault), _) => condition("Programmed", false, fault.reason, fault.text.clone()),
            (Ok(()), Err(fault)) => {
                let why = format!("its Gateway is not programmed: {}", fault.text);
                condition("Programmed", false, "ParentNotProgrammed", why)
            }
            (Ok(()), Ok(())) => {
                let message = "its Gateway is programmed".to_owned();
                condition("Programmed", true, "Programmed", message)
            }
        };
        let accepted = match &accepted {
            Err(fault) => condition("Accepted", false, fault.reason, fault.text.clone()),
            Ok(()) if all_valid(&set.listeners) => {
                let message = format!("the listeners are in force on Gateway {}", plan.owned.id);
                condition("Accepted", true, "Accepted", message)
            }
            Ok(()) => {
                let why = invalid_listeners(&set.listeners);
                let message = format!("in force but for listeners that are not valid: {why}");
                condition("Accepted", true, "ListenersNotValid", message)
            }
        };
        ListenerSetStatus {
            namespace: set.meta.namespace.clone(),
            name: set.meta.name.clone(),
            gateway: plan.owned.id.clone(),
            generation: set.meta.generation,
            conditions: vec![accepted, programmed],
            listeners: listeners(plan, Some(place), &set.listeners, &verdict.accepted, counts),
        }
    })
    .collect()
}

fn listeners(
    plan: &Plan<'_>,
    set: Option<usize>,
    of: &Listeners<'_>,
    gateway: &Result<(), Fault>,
    counts: &Counts,
) -> Vec<ListenerStatus> {
    let all = of.all.iter().enumerate();
    all.map(|(place, bound)| {
        let id = ListenerId {
            gateway: plan.owned.id.clone(),
            set,
            place,
        };
        ListenerStatus {
            name: bound.spec.name.clone(),
            socket: match (bound.usable(), gateway) {
                (Ok(socket), Ok(())) => Some((socket.speaks.transport(), socket.port)),
                _ => None,
            },
            supported_kinds: bound.kinds.iter().map(group_kind).collect(),
            attached_routes: counts.get(&id).copied().unwrap_or(0),
            conditions: conditions(bound, gateway),
        }
    })
    .collect()
}

fn group_kind(kind: &RouteKind) -> RouteGroupKind {
    RouteGroupKind {
        group: GROUP.to_owned(),
        kind: kind.to_string(),
    }
}

fn conditions(bound: &Bound<'_>, gateway: &Result<(), Fault>) -> Vec<Condition> {
    let say = |kind, fault: &Fault| condition(kind, false, fault.reason, fault.text.clone());
    let accepted = match bound.accepted() {
        Ok(_) => condition(
            "Accepted",
            true,
            "Accepted",
            "the listener is valid".to_owned(),
        ),
        Err(fault) => say("Accepted", fault),
    };
    let programmed = match (bound.usable(), gateway) {
        (Err(fault), _) => say("Programmed", &fault),
        (Ok(_), Err(fault)) => {
            let why = format!("the Gateway is not accepted: {}", fault.text);
            condition("Programmed", false, "Pending", why)
        }
        (Ok(_), Ok(())) => {
            let message = "the listener is handed to the proxies".to_owned();
            condition("Programmed", true, "Programmed", message)
        }
    };
    let resolved = match bound.unresolved.first() {
        None => {
            let message = "every reference was resolved".to_owned();
            condition("ResolvedRefs", true, "ResolvedRefs", message)
        }
        Some(first) => {
            let why = join(bound.unresolved.iter());
            condition("ResolvedRefs", false, first.reason, why)
        }
    };
    let conflicted = match &bound.conflict {
        Some(fault) => condition("Conflicted", true, fault.reason, fault.text.clone()),
        None => {
            let message = "no other listener has its place".to_owned();
            condition("Conflicted", false, "NoConflicts", message)
        }
    };
    let mut conditions = vec![accepted, programmed, resolved, conflicted];
    if let Some(others) = &bound.overlapping {
        let message = format!(
            "hosts of this listener are hosts of {others} too, on the same port: clients use one connection for both, and \
             what comes on a connection of the other is answered with 421"
        );
        conditions.push(condition(
            "OverlappingTLSConfig",
            true,
            "OverlappingHostnames",
            message,
        ));
    }
    conditions
}
