//! A TrafficPolicy by itself: its targets as they are written, its sections, and its faults.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use weft_ir::{EjectionTime, OutlierDetection, Percent, RetryBudget, TrafficPolicy};
use weft_policy::{TrafficSections, TrafficTarget};

use super::merge::{Directive, Strength};
use crate::objects::{self, ParentRef, ProtectiveSpec};
use crate::output::TrafficPolicyId;
use crate::routes::duration;

/// Number of targets of a policy, and of ancestors of its status.
const MAX_TARGETS: usize = 16;
/// The object that stands for the mesh: its group, its kind and its name.
const MESH: (&str, &str, &str) = ("gateway.networking.x-k8s.io", "XMesh", "weft");

/// A policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) id: TrafficPolicyId,
    pub(super) generation: i64,
    creation: String,
    pub(super) targets: Vec<TargetSpec>,
    /// What it says, or what is wrong with it.
    pub(super) directive: Result<Directive, String>,
}

/// A target, and the object that the status reports it for.
#[derive(Debug)]
pub(super) struct TargetSpec {
    pub(super) ancestor: ParentRef,
    /// Or why it cannot be a target.
    pub(super) scope: Result<Scope, String>,
}

/// What a policy applies to.
#[derive(Debug)]
pub(super) enum Scope {
    Mesh,
    /// All Services of the policy's namespace.
    Namespace,
    /// A Service of the policy's namespace.
    Service {
        name: String,
        /// Name or number of a port.
        port: Option<String>,
    },
}

impl Policy {
    /// `control_plane`: the namespace in which policies can target the mesh.
    pub(super) fn new(of: &objects::TrafficPolicy, control_plane: &str) -> Self {
        let objects::TrafficPolicy { metadata, spec } = of;
        let namespace = metadata.namespace.as_str();
        let (directive, refs) = match spec {
            ProtectiveSpec::Valid(spec) => {
                let directive = directive(spec.defaults.as_ref(), spec.overrides.as_ref());
                (directive, Some(&spec.target_refs))
            }
            ProtectiveSpec::Unreadable(spec) => {
                let why = format!(
                    "spec: {}; correct it, or upgrade Weft if its definitions are newer",
                    spec.reason
                );
                (Err(why), spec.targets.as_ref())
            }
        };
        let refs = refs.map_or(&[][..], Vec::as_slice);
        let too_many = (refs.len() > MAX_TARGETS).then(|| {
            let count = refs.len();
            format!("targetRefs: the policy has {count} targets, and the limit is {MAX_TARGETS}")
        });
        let (directive, targets) = match refs {
            [] => {
                let why = "targetRefs: at least one is required".to_owned();
                let nothing = TargetSpec {
                    ancestor: ParentRef::to("", "Namespace", None, namespace),
                    scope: Err(why.clone()),
                };
                (directive.and(Err(why)), vec![nothing])
            }
            refs => {
                let targets = refs.iter().enumerate();
                let targets =
                    targets.map(|(place, of)| target(of, place, namespace, control_plane));
                (too_many.map_or(directive, Err), targets.collect())
            }
        };
        Self {
            id: TrafficPolicyId {
                namespace: namespace.into(),
                name: Arc::from(&*metadata.name),
            },
            generation: metadata.generation,
            creation: metadata.creation_timestamp.clone(),
            targets,
            directive,
        }
    }

    /// The oldest first, then by name.
    pub(super) fn order(&self) -> (&str, &TrafficPolicyId) {
        (&self.creation, &self.id)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.id.namespace
    }
}

fn target(of: &TrafficTarget, place: usize, namespace: &str, control_plane: &str) -> TargetSpec {
    let TrafficTarget {
        group,
        kind,
        name,
        section_name,
    } = of;
    let at = format!("targetRefs[{place}]");
    let section = section_name.clone().filter(|name| !name.is_empty());
    let is_service = (&**group, &**kind) == ("", "Service");
    let scope = match (&**group, &**kind) {
        _ if section.is_some() && !is_service => {
            Err(format!("{at}.sectionName: only a Service has one"))
        }
        ("", "Service") => Ok(Scope::Service {
            name: name.clone(),
            port: section,
        }),
        ("", "Namespace") if name == namespace => Ok(Scope::Namespace),
        ("", "Namespace") => Err(format!(
            "{at}.name: a policy can target its own Namespace {namespace:?} only"
        )),
        (group, kind) if (group, kind) == (MESH.0, MESH.1) => match (namespace, &**name) {
            (own, name) if own == control_plane && name == MESH.2 => Ok(Scope::Mesh),
            (own, _) if own == control_plane => {
                Err(format!("{at}.name: the XMesh of Weft is {:?}", MESH.2))
            }
            _ => Err(format!(
                "{at}: only a policy in the namespace {control_plane} can target the XMesh"
            )),
        },
        _ => Err(format!(
            "{at}: kind {kind:?} of group {group:?} cannot be a target; targets are Service and \
             Namespace of group \"\", and XMesh of group {}",
            MESH.0
        )),
    };
    let of_namespace = is_service.then_some(namespace);
    TargetSpec {
        ancestor: ParentRef {
            section_name: section_name.clone(),
            ..ParentRef::to(group, kind, of_namespace, name)
        },
        scope,
    }
}

fn directive(
    defaults: Option<&TrafficSections>,
    overrides: Option<&TrafficSections>,
) -> Result<Directive, String> {
    let (strength, at, of) = match (defaults, overrides) {
        (Some(of), None) => (Strength::Defaults, "defaults", of),
        (None, Some(of)) => (Strength::Overrides, "overrides", of),
        _ => return Err("spec: exactly one of defaults and overrides is required".to_owned()),
    };
    let TrafficSections {
        outlier_detection,
        retry_budget,
    } = of;
    let outliers = outlier_detection.as_ref();
    let outliers = outliers.map(|of| outlier_detection_of(of, &format!("{at}.outlierDetection")));
    let budget = retry_budget.as_ref();
    let budget = budget.map(|of| retry_budget_of(of, &format!("{at}.retryBudget")));
    let sections = TrafficPolicy {
        outlier_detection: outliers.transpose()?,
        retry_budget: budget.transpose()?,
    };
    match sections.is_empty() {
        true => Err(format!("{at}: at least one section is required")),
        false => Ok(Directive { strength, sections }),
    }
}

fn outlier_detection_of(
    of: &weft_policy::OutlierDetection,
    at: &str,
) -> Result<OutlierDetection, String> {
    let weft_policy::OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        panic_threshold,
    } = of;
    if consecutive_5xx.is_none() && consecutive_gateway_errors.is_none() {
        return Err(format!(
            "{at}: consecutive5xx or consecutiveGatewayErrors is required"
        ));
    }
    let base = time(base_ejection_time, at, "baseEjectionTime")?;
    let base = base.unwrap_or(Duration::from_secs(30));
    let max = time(max_ejection_time, at, "maxEjectionTime")?;
    let max = max.unwrap_or(base.max(Duration::from_secs(300)));
    let ejection_time = EjectionTime::new(base, max).ok_or_else(|| {
        format!(
            "{at}: baseEjectionTime is {base:?} and maxEjectionTime {max:?}; at least {:?}, the \
             first at most the second, and at most {:?}",
            EjectionTime::LEAST,
            EjectionTime::MOST
        )
    })?;
    Ok(OutlierDetection {
        consecutive_5xx: count(*consecutive_5xx, at, "consecutive5xx")?,
        consecutive_gateway_errors: count(
            *consecutive_gateway_errors,
            at,
            "consecutiveGatewayErrors",
        )?,
        ejection_time,
        max_ejection_percent: percent(
            max_ejection_percent.unwrap_or(50),
            1,
            at,
            "maxEjectionPercent",
        )?,
        panic_threshold: percent(panic_threshold.unwrap_or(0), 0, at, "panicThreshold")?,
    })
}

fn retry_budget_of(of: &weft_policy::RetryBudget, at: &str) -> Result<RetryBudget, String> {
    const MOST: u16 = 1000;
    let weft_policy::RetryBudget {
        percent: share,
        min_per_second: rate,
    } = of;
    let without = RetryBudget::default();
    let rate = rate.unwrap_or(without.min_per_second.into());
    let valid = u16::try_from(rate).ok().filter(|rate| *rate <= MOST);
    let why = || format!("{at}.minPerSecond: {rate} is not from 0 to {MOST}");
    Ok(RetryBudget {
        percent: percent(
            share.unwrap_or(without.percent.get().into()),
            0,
            at,
            "percent",
        )?,
        min_per_second: valid.ok_or_else(why)?,
    })
}

fn count(number: Option<u32>, at: &str, field: &str) -> Result<Option<NonZeroU32>, String> {
    const MOST: u32 = 1000;
    let Some(number) = number else {
        return Ok(None);
    };
    let valid = NonZeroU32::new(number).filter(|number| number.get() <= MOST);
    let why = || format!("{at}.{field}: {number} is not from 1 to {MOST}");
    valid.map(Some).ok_or_else(why)
}

fn percent(number: u32, least: u32, at: &str, field: &str) -> Result<Percent, String> {
    let valid = Percent::new(number).filter(|_| number >= least);
    valid.ok_or_else(|| format!("{at}.{field}: {number} is not from {least} to 100"))
}

fn time(text: &Option<String>, at: &str, field: &str) -> Result<Option<Duration>, String> {
    let Some(text) = text else {
        return Ok(None);
    };
    let why = || format!("{at}.{field}: {text:?} is not a duration such as \"30s\"");
    duration(text).map(Some).ok_or_else(why)
}
