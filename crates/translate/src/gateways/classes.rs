//! The GatewayClasses and Gateways managed by this controller, and the names of the objects
//! generated for a Gateway.
//!
//! Source: `GatewayClassSpec.controllerName`; GEP-1762: objects are named `<gateway>-<class>`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::GatewayId;

use crate::cluster::pods::GatewayAccounts;
use crate::objects::{self, GatewayClassSpec, GatewaySpec, Meta};

/// Length limit of the name of a Service and of the value of a label.
pub(crate) const NAME_LIMIT: usize = 63;

/// A class managed by this controller.
#[derive(Debug)]
pub(crate) struct ManagedClass<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) spec: &'a GatewayClassSpec,
}

/// A Gateway of a managed class.
#[derive(Debug)]
pub(crate) struct ManagedGateway<'a> {
    pub(crate) id: GatewayId,
    pub(crate) class: &'a str,
    pub(crate) meta: &'a Meta,
    pub(crate) spec: &'a GatewaySpec,
    /// Name of the objects generated for it, or why it cannot have any.
    pub(crate) name: Result<String, String>,
}

/// Returns the managed classes by name.
pub(crate) fn classes<'a>(
    classes: &'a [Arc<objects::GatewayClass>],
    controller: &str,
) -> BTreeMap<&'a str, ManagedClass<'a>> {
    let ours = classes.iter().filter_map(|class| {
        let objects::GatewayClass { metadata, spec } = class.as_ref();
        let spec = spec.as_ref().ok()?;
        let ours = spec.controller_name == controller;
        let class = ManagedClass {
            meta: metadata,
            spec,
        };
        ours.then_some((metadata.name.as_str(), class))
    });
    ours.collect()
}

/// Returns the Gateways of these classes.
pub(crate) fn gateways<'a>(
    gateways: &'a [Arc<objects::Gateway>],
    classes: &BTreeMap<&'a str, ManagedClass<'a>>,
) -> BTreeMap<GatewayId, ManagedGateway<'a>> {
    let mut ours: Vec<ManagedGateway<'a>> = gateways
        .iter()
        .filter_map(|gateway| {
            let objects::Gateway { metadata, spec } = gateway.as_ref();
            let spec = spec.as_ref().ok()?;
            let (class, _) = classes.get_key_value(spec.gateway_class_name.as_str())?;
            Some(ManagedGateway {
                id: GatewayId::new(&*metadata.namespace, &*metadata.name),
                class,
                meta: metadata,
                spec,
                name: object_name(&metadata.name, class),
            })
        })
        .collect();
    ours.sort_by(|a, b| age(a).cmp(&age(b)));
    refuse_name_collisions(&mut ours);
    ours.into_iter().map(|of| (of.id.clone(), of)).collect()
}

fn age<'a>(of: &'a ManagedGateway<'_>) -> (&'a str, &'a GatewayId) {
    (&of.meta.creation_timestamp, &of.id)
}

fn object_name(gateway: &str, class: &str) -> Result<String, String> {
    let name = format!("{gateway}-{class}");
    if name.len() <= NAME_LIMIT {
        return Ok(name);
    }
    Err(format!(
        "its generated objects would be named {name}, which exceeds the {NAME_LIMIT} characters \
         allowed for a Service; give the Gateway a shorter name"
    ))
}

/// `a-b` of class `c` and `a` of class `b-c` would share their objects: the oldest Gateway gets the
/// name.
fn refuse_name_collisions(oldest_first: &mut [ManagedGateway<'_>]) {
    let mut taken: HashMap<(String, String), GatewayId> = HashMap::new();
    for of in oldest_first {
        let Ok(name) = &of.name else { continue };
        let key = (of.id.namespace.to_string(), name.clone());
        match taken.get(&key) {
            None => drop(taken.insert(key, of.id.clone())),
            Some(other) => {
                let why = format!(
                    "its generated objects would be named {name}, the same as those of Gateway \
                     {other}; rename the Gateway"
                );
                of.name = Err(why);
            }
        }
    }
}

/// Returns the Gateways by the service accounts of their proxies.
pub(crate) fn accounts(gateways: &BTreeMap<GatewayId, ManagedGateway<'_>>) -> GatewayAccounts {
    let named = gateways.values().filter_map(|of| {
        let account = of.name.as_ref().ok()?.clone();
        Some(((of.id.namespace.to_string(), account), of.id.clone()))
    });
    named.collect()
}
