//! The statuses of Gateways, ListenerSets and their listeners.
//!
//! Source: the comments of `GatewayConditionType`, `ListenerConditionType`,
//! `ListenerSetConditionType` and their reasons.

use std::collections::{BTreeSet, HashMap};

use weft_ir::RouteKind;

use super::attach::{GatewayRoute, ListenerId};
use super::listeners::BoundListener;
use super::plans::{GatewayPlan, ListenerSetPlan, Listeners};
use crate::conditions::Fault;
use crate::conditions::{condition, join};
use crate::names::GROUP;
use crate::output::{
    Address, Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, RouteGroupKind,
};
use crate::routes::status::check_usable;

/// Number of accepted routes by listener.
pub(crate) type Counts = HashMap<ListenerId, u32>;

pub(crate) fn counts(routes: &[GatewayRoute]) -> Counts {
    let mut counts = Counts::new();
    for (route, attachments) in routes {
        if check_usable(route).is_err() {
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

/// The state of a Gateway that its conditions report.
pub(crate) struct GatewayState {
    /// Errors are the reason and message of Accepted=False.
    pub(crate) accepted: Result<(), Fault>,
    /// Keys of `spec.infrastructure` that its pods do not get.
    pub(crate) kept_off_pods: Vec<String>,
    /// Errors are the reason and message of Programmed=False, if the Gateway is accepted.
    pub(crate) programmed: Result<(), Fault>,
    /// The condition AddressesAssigned; `None` if there is nothing to report yet.
    pub(crate) assigned: Option<Result<(), Fault>>,
    pub(crate) addresses: BTreeSet<Address>,
}

/// Returns a fault if none of the Gateway's own listeners is valid.
pub(crate) fn require_valid_listener(plan: &GatewayPlan<'_>) -> Result<(), Fault> {
    if plan.own.all.iter().any(|of| of.accepted().is_ok()) {
        return Ok(());
    }
    Err(Fault {
        reason: "ListenersNotValid",
        text: format!("no listener is valid: {}", invalid_listeners(&plan.own)),
    })
}

/// Describes the listeners that are not accepted, with their faults.
fn invalid_listeners(listeners: &Listeners<'_>) -> String {
    let refused = listeners.all.iter().filter_map(|of| {
        let fault = of.accepted().err()?;
        Some(format!("{}: {}", of.spec.name, fault.text))
    });
    let all: Vec<String> = refused
        .chain(listeners.unreadable.iter().cloned())
        .collect();
    if all.is_empty() {
        "it has none".to_owned()
    } else {
        all.join("; ")
    }
}

fn all_valid(listeners: &Listeners<'_>) -> bool {
    listeners.unreadable.is_empty() && listeners.all.iter().all(|of| of.accepted().is_ok())
}

fn kept_off_pods(state: &GatewayState) -> String {
    match state.kept_off_pods.as_slice() {
        [] => String::new(),
        keys => format!(
            "; its pods do not get {} from spec.infrastructure; podMetadataDomains in the \
             parameters of the class can permit the domain",
            keys.join(", ")
        ),
    }
}

pub(crate) fn gateway(
    plan: &GatewayPlan<'_>,
    state: &GatewayState,
    counts: &Counts,
) -> GatewayStatus {
    let accepted = &state.accepted;
    let mut conditions = vec![match accepted {
        Err(fault) => condition("Accepted", false, fault.reason, fault.text.clone()),
        Ok(()) if all_valid(&plan.own) => {
            let message = format!("the Gateway is in effect{}", kept_off_pods(state));
            condition("Accepted", true, "Accepted", message)
        }
        Ok(()) => {
            let why = invalid_listeners(&plan.own);
            let message = format!(
                "in effect except for invalid listeners: {why}{}",
                kept_off_pods(state)
            );
            condition("Accepted", true, "ListenersNotValid", message)
        }
    }];
    conditions.push(match (accepted, &state.programmed) {
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
    if let Some(assigned) = &state.assigned {
        const KIND: &str = "AddressesAssigned";
        conditions.push(match assigned {
            Ok(()) => condition(KIND, true, KIND, "every address is assigned".to_owned()),
            Err(fault) => condition(KIND, false, fault.reason, fault.text.clone()),
        });
    }
    if plan.insecure {
        let message = "spec.tls.frontend accepts clients without a valid certificate (AllowInsecureFallback); \
         use AllowValidOnly outside of tests";
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
        addresses: state.addresses.iter().cloned().collect(),
        attached_listener_sets: u32::try_from(attached.count()).unwrap_or(u32::MAX),
        listeners: listeners(plan, None, &plan.own, accepted, counts),
    }
}

fn resolved_refs(plan: &GatewayPlan<'_>) -> Condition {
    let client = plan.client_certificate.as_ref().err();
    if let Some(fault) = client.or(plan.client_gone.as_ref()) {
        return condition("ResolvedRefs", false, fault.reason, fault.text.clone());
    }
    let unresolved = plan.own.all.iter().filter(|of| !of.unresolved.is_empty());
    let names: Vec<&str> = unresolved.map(|of| of.spec.name.as_str()).collect();
    if names.is_empty() {
        let message = "all references are resolved".to_owned();
        return condition("ResolvedRefs", true, "ResolvedRefs", message);
    }
    let why = format!("unresolved references in listeners {}", names.join(", "));
    condition("ResolvedRefs", false, "ListenersNotResolved", why)
}

fn set_accepted(set: &ListenerSetPlan<'_>, gateway: &Result<(), Fault>) -> Result<(), Fault> {
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
    plan: &GatewayPlan<'_>,
    state: &GatewayState,
    counts: &Counts,
) -> Vec<ListenerSetStatus> {
    let sets = plan.sets.iter().enumerate();
    sets.map(|(position, set)| {
        let accepted = set_accepted(set, &state.accepted);
        let programmed = match (&accepted, &state.programmed) {
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
                let message = format!("the listeners are in effect on Gateway {}", plan.owned.id);
                condition("Accepted", true, "Accepted", message)
            }
            Ok(()) => {
                let why = invalid_listeners(&set.listeners);
                let message = format!("in effect except for invalid listeners: {why}");
                condition("Accepted", true, "ListenersNotValid", message)
            }
        };
        ListenerSetStatus {
            namespace: set.meta.namespace.clone(),
            name: set.meta.name.clone(),
            gateway: plan.owned.id.clone(),
            generation: set.meta.generation,
            conditions: vec![accepted, programmed],
            listeners: listeners(
                plan,
                Some(position),
                &set.listeners,
                &state.accepted,
                counts,
            ),
        }
    })
    .collect()
}

fn listeners(
    plan: &GatewayPlan<'_>,
    set: Option<usize>,
    of: &Listeners<'_>,
    gateway: &Result<(), Fault>,
    counts: &Counts,
) -> Vec<ListenerStatus> {
    let all = of.all.iter().enumerate();
    all.map(|(position, bound)| {
        let id = ListenerId {
            gateway: plan.owned.id.clone(),
            set,
            position,
        };
        ListenerStatus {
            name: bound.spec.name.clone(),
            socket: match (bound.usable(), gateway) {
                (Ok(socket), Ok(())) => Some((socket.protocol.transport(), socket.port)),
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

fn conditions(bound: &BoundListener<'_>, gateway: &Result<(), Fault>) -> Vec<Condition> {
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
            let message = "the listener is configured on the proxies".to_owned();
            condition("Programmed", true, "Programmed", message)
        }
    };
    let resolved = match bound.unresolved.first() {
        None => {
            let message = "all references are resolved".to_owned();
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
            let message = "no other listener conflicts with it".to_owned();
            condition("Conflicted", false, "NoConflicts", message)
        }
    };
    let mut conditions = vec![accepted, programmed, resolved, conflicted];
    if let Some(others) = &bound.overlapping {
        let message = format!(
            "its hostnames overlap with {others} on the same port: clients may reuse one \
             connection for both, and requests on a connection of the other listener get 421"
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
