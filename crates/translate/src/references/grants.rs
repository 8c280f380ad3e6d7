//! ReferenceGrants: which objects may refer to which objects of another namespace.
//!
//! Source: `ReferenceGrantSpec`. A reference within a namespace needs no grant.

use std::collections::HashMap;
use std::sync::Arc;

use crate::objects::{GrantFrom, GrantTo, Lenient, ReferenceGrant, ReferenceGrantSpec};

/// All ReferenceGrants.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// By the grant's own namespace, which is that of the objects it permits references to.
    by_namespace: HashMap<String, Vec<Arc<ReferenceGrant>>>,
}

/// The object that refers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'a> {
    /// A kind of the group `gateway.networking.k8s.io`.
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// The object that is referred to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referent<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Grants {
    pub(crate) fn new(grants: &[Arc<ReferenceGrant>]) -> Self {
        let mut all = Self::default();
        for grant in grants {
            let namespace = grant.metadata.namespace.clone();
            let of_namespace = all.by_namespace.entry(namespace).or_default();
            of_namespace.push(Arc::clone(grant));
        }
        all
    }

    /// Returns true if EndpointSlices in the namespace `from` may name a pod in another namespace.
    pub(crate) fn permits_endpoint(&self, from: &str, namespace: &str, pod: &str) -> bool {
        let grants = self.by_namespace.get(namespace).into_iter().flatten();
        let mut specs = grants.filter_map(|grant| grant.spec.as_ref().ok());
        specs.any(|spec| {
            readable(&spec.from).any(|entry| {
                entry.group == "discovery.k8s.io"
                    && entry.kind == "EndpointSlice"
                    && entry.namespace == from
            }) && readable(&spec.to).any(|entry| {
                let named = entry.name.is_empty() || entry.name == pod;
                entry.group.is_empty() && entry.kind == "Pod" && named
            })
        })
    }

    /// Returns an error for a condition, with the grant to add, if the reference is not permitted.
    pub(crate) fn check(&self, from: Referrer<'_>, to: Referent<'_>) -> Result<(), String> {
        if from.namespace == to.namespace {
            return Ok(());
        }
        let grants = self.by_namespace.get(to.namespace);
        if grants
            .into_iter()
            .flatten()
            .filter_map(|grant| grant.spec.as_ref().ok())
            .any(|spec| permits(spec, from, to))
        {
            return Ok(());
        }
        let Referent {
            group,
            kind,
            namespace,
            name,
        } = to;
        let group = format!("group {group:?}");
        Err(format!(
            "{kind} {namespace}/{name} is in another namespace, and no ReferenceGrant in \
             namespace {namespace} permits the reference; add one from group \
             \"gateway.networking.k8s.io\", kind {}, namespace {} to {group}, kind {kind}, name \
             {name}",
            from.kind, from.namespace
        ))
    }
}

fn permits(spec: &ReferenceGrantSpec, from: Referrer<'_>, to: Referent<'_>) -> bool {
    let ReferenceGrantSpec {
        from: froms,
        to: tos,
    } = spec;
    let from_fits = |entry: &GrantFrom| {
        let GrantFrom {
            group,
            kind,
            namespace,
        } = entry;
        group == crate::names::GROUP && kind == from.kind && namespace == from.namespace
    };
    let to_fits = |entry: &GrantTo| {
        let GrantTo { group, kind, name } = entry;
        group == to.group && kind == to.kind && (name.is_empty() || name == to.name)
    };
    readable(froms).any(from_fits) && readable(tos).any(to_fits)
}

fn readable<T>(entries: &[Lenient<T>]) -> impl Iterator<Item = &T> {
    entries.iter().filter_map(|entry| entry.as_ref().ok())
}
