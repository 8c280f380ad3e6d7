//! Which GatewayClasses and Gateways are ours, and the name under which a Gateway's objects are made.
//!
//! Source: `GatewayClassSpec.controllerName`; GEP-1762: objects are called `<gateway>-<class>`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::GatewayId;

use crate::cluster::pods::Accounts;
use crate::objects::{self, GatewayClassSpec, GatewaySpec, Meta};

/// Characters that a Service's name and a label's value may have.
pub(crate) const NAME_LIMIT: usize = 63;

/// A class that is ours.
#[derive(Debug)]
pub(crate) struct Class<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) spec: &'a GatewayClassSpec,
}

/// A Gateway whose class is ours.
#[derive(Debug)]
pub(crate) struct Owned<'a> {
    pub(crate) id: GatewayId,
    pub(crate) class: &'a str,
    pub(crate) meta: &'a Meta,
    pub(crate) spec: &'a GatewaySpec,
    /// Of the objects made for it, or why they can have none.
    pub(crate) name: Result<String, String>,
}

/// By name.
pub(crate) fn classes<'a>(
    classes: &'a [Arc<objects::GatewayClass>],
    controller: &str,
) -> BTreeMap<&'a str, Class<'a>> {
    let ours = classes.iter().filter_map(|class| {
        let objects::GatewayClass { metadata, spec } = class.as_ref();
        let spec = spec.as_ref().ok()?;
        let ours = spec.controller_name == controller;
        let class = Class {
            meta: metadata,
            spec,
        };
        ours.then_some((metadata.name.as_str(), class))
    });
    ours.collect()
}

/// The Gateways of these classes, by name.
pub(crate) fn gateways<'a>(
    gateways: &'a [Arc<objects::Gateway>],
    classes: &BTreeMap<&'a str, Class<'a>>,
) -> BTreeMap<GatewayId, Owned<'a>> {
    let mut ours: Vec<Owned<'a>> = gateways
        .iter()
        .filter_map(|gateway| {
            let objects::Gateway { metadata, spec } = gateway.as_ref();
            let spec = spec.as_ref().ok()?;
            let (class, _) = classes.get_key_value(spec.gateway_class_name.as_str())?;
            Some(Owned {
                id: GatewayId::new(&*metadata.namespace, &*metadata.name),
                class,
                meta: metadata,
                spec,
                name: object_name(&metadata.name, class),
            })
        })
        .collect();
    ours.sort_by(|a, b| age(a).cmp(&age(b)));
    refuse_namesakes(&mut ours);
    ours.into_iter().map(|of| (of.id.clone(), of)).collect()
}

fn age<'a>(of: &'a Owned<'_>) -> (&'a str, &'a GatewayId) {
    (&of.meta.creation_timestamp, &of.id)
}

fn object_name(gateway: &str, class: &str) -> Result<String, String> {
    let name = format!("{gateway}-{class}");
    if name.len() <= NAME_LIMIT {
        return Ok(name);
    }
    Err(format!(
        "the objects made for it would be called {name}, which is longer than the {NAME_LIMIT} characters that a Service \
         may have; give the Gateway a shorter name"
    ))
}

/// `a-b` of class `c` and `a` of class `b-c` would share their objects: the oldest has the name.
fn refuse_namesakes(oldest_first: &mut [Owned<'_>]) {
    let mut taken: HashMap<(String, String), GatewayId> = HashMap::new();
    for of in oldest_first {
        let Ok(name) = &of.name else { continue };
        let key = (of.id.namespace.to_string(), name.clone());
        match taken.get(&key) {
            None => drop(taken.insert(key, of.id.clone())),
            Some(other) => {
                let why = format!(
                    "the objects made for it would be called {name}, as those of Gateway {other} are; give it another name"
                );
                of.name = Err(why);
            }
        }
    }
}

pub(crate) fn accounts(gateways: &BTreeMap<GatewayId, Owned<'_>>) -> Accounts {
    let named = gateways.values().filter_map(|of| {
        let account = of.name.as_ref().ok()?.clone();
        Some(((of.id.namespace.to_string(), account), of.id.clone()))
    });
    named.collect()
}
