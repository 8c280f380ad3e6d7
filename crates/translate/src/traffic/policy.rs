//! A TrafficPolicy by itself: its targets as they are written, its sections, and its faults.

use std::sync::Arc;

use weft_ir::{HealthCheck, Limits};
use weft_policy::TrafficTarget;

use super::merge::Directive;
use super::sections::directive;
use crate::objects::{self, ParentRef, ProtectiveSpec};
use crate::output::TrafficPolicyId;

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

    /// Returns the fields that concern connections of bytes, too.
    pub(super) fn of_connections(&self) -> Vec<&'static str> {
        let limits = self.limits();
        let limited = limits.is_some_and(|of| of.client.max_connections.is_some());
        let checks = self.directive.as_ref().ok();
        let checks = checks.and_then(|of| of.sections.health_checks.as_ref());
        let checked = checks.is_some_and(|of| of.check == HealthCheck::Tcp);
        let fields = [
            (limited, "limits.client.maxConnections"),
            (checked, "healthChecks.tcp"),
        ];
        let present = fields.into_iter().filter(|(present, _)| *present);
        present.map(|(_, field)| field).collect()
    }

    /// Returns true if a section concerns all clients of the pods, whatever address they use.
    pub(super) fn limits_servers(&self) -> bool {
        self.limits().is_some_and(|of| of.server.is_some())
    }

    fn limits(&self) -> Option<&Limits> {
        self.directive.as_ref().ok()?.sections.limits.as_ref()
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
