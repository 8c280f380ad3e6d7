//! Every Gateway of ours with all that it listens on: its own listeners and those of its ListenerSets.
//!
//! Source: `ListenerSetSpec`, `AllowedListeners`; GEP-1713.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::{GatewayId, KeyPair};

use super::classes::Owned;
use super::conflicts::Taken;
use super::frontend::Frontend;
use super::listener_budget::Room;
use super::listeners::{Bound, Owner, bind};
use super::overlaps;
use super::scopes::{Namespaces, Scope};
use crate::conditions::Fault;
use crate::names::gateway_named;
use crate::objects::{self, GatewayTls, Lenient, Listener, ListenerSetSpec, Meta};
use crate::references::certificates::{CLIENT_CERTIFICATE, Data, Reader};
use crate::references::grants::{Grants, Referrer};

/// What listeners are read with.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) data: &'a Data<'a>,
    pub(crate) grants: &'a Grants,
    pub(crate) namespaces: &'a Namespaces<'a>,
}

#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) owned: &'a Owned<'a>,
    /// The Gateway's own.
    pub(crate) own: Listeners<'a>,
    /// The oldest first.
    pub(crate) sets: Vec<Set<'a>>,
    pub(crate) client_certificate: Result<Option<KeyPair>, Fault>,
    /// What is to be said of the client certificate, though it is used.
    pub(crate) client_gone: Option<Fault>,
    /// Clients whose certificates do not hold are let in somewhere.
    pub(crate) insecure: bool,
    /// What is wrong with the Gateway apart from its listeners.
    pub(crate) invalid: Vec<String>,
}

/// The listeners of one object.
#[derive(Debug, Default)]
pub(crate) struct Listeners<'a> {
    pub(crate) all: Vec<Bound<'a>>,
    /// What cannot be read, so that not even its name is known.
    pub(crate) unreadable: Vec<String>,
}

/// A ListenerSet whose Gateway is ours.
#[derive(Debug)]
pub(crate) struct Set<'a> {
    pub(crate) meta: &'a Meta,
    /// Empty where it is not let in.
    pub(crate) listeners: Listeners<'a>,
    pub(crate) refused: Option<Fault>,
}

impl<'a> Plan<'a> {
    /// The Gateway's, and those of its sets.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Bound<'a>> {
        let sets = self.sets.iter().flat_map(|set| &set.listeners.all);
        self.own.all.iter().chain(sets)
    }
}

/// By the name of the Gateway.
pub(crate) fn plans<'a>(
    gateways: &'a BTreeMap<GatewayId, Owned<'a>>,
    sets: &'a [Arc<objects::ListenerSet>],
    sources: Sources<'a>,
) -> BTreeMap<GatewayId, Plan<'a>> {
    let mut by_gateway: HashMap<GatewayId, Vec<(&Meta, &ListenerSetSpec)>> = HashMap::new();
    for set in sets {
        let objects::ListenerSet { metadata, spec } = set.as_ref();
        let Ok(spec) = spec.as_ref() else { continue };
        if let Ok(Some(parent)) = spec.parent_ref.as_ref()
            && let Some(id) = gateway_named(parent, &metadata.namespace)
        {
            by_gateway.entry(id).or_default().push((metadata, spec));
        }
    }
    let plans = gateways.iter().map(|(id, owned)| {
        let mut sets = by_gateway.remove(id).unwrap_or_default();
        sets.sort_by_key(|(meta, _)| (&meta.creation_timestamp, &meta.namespace, &meta.name));
        (id.clone(), plan(owned, &sets, sources))
    });
    plans.collect()
}

fn plan<'a>(
    owned: &'a Owned<'a>,
    sets: &[(&'a Meta, &'a ListenerSetSpec)],
    sources: Sources<'a>,
) -> Plan<'a> {
    let mut invalid = Vec::new();
    let spec = owned.spec;
    let reader = Reader {
        data: sources.data,
        grants: sources.grants,
        from: Referrer {
            kind: "Gateway",
            namespace: &owned.meta.namespace,
        },
    };
    let tls = readable(&spec.tls, "spec.tls", &mut invalid);
    let frontend = match spec.tls.as_ref() {
        Ok(_) => {
            let spec = tls.and_then(|tls: &GatewayTls| tls.frontend.as_ref());
            Ok(Frontend::new(spec, reader))
        }
        Err(why) => Err(Fault::value("spec.tls of the Gateway", why)),
    };
    let frontend = frontend.as_ref();
    let owner = Owner {
        namespace: &owned.meta.namespace,
        set: None,
        reader,
        frontend,
    };
    let mut own = read(&spec.listeners, owner);
    let mut taken = Taken::default();
    taken.add(&mut own.all);
    let mut room = Room::default();
    room.take(&mut own.all);
    let allowed = readable(
        &spec.allowed_listeners,
        "spec.allowedListeners",
        &mut invalid,
    );
    let scope = Scope::new(
        allowed.and_then(|spec| spec.namespaces.as_ref()),
        Scope::None,
        "spec.allowedListeners.namespaces",
    );
    let scope = scope.unwrap_or_else(|why| {
        invalid.push(why);
        Scope::None
    });
    let sets = sets.iter().map(|(meta, spec)| {
        if !scope.takes(&owned.meta.namespace, &meta.namespace, sources.namespaces) {
            return refused(meta, owned, &scope);
        }
        let reader = Reader {
            from: Referrer {
                kind: "ListenerSet",
                namespace: &meta.namespace,
            },
            ..reader
        };
        let owner = Owner {
            namespace: &meta.namespace,
            set: Some(&meta.name),
            reader,
            frontend,
        };
        let mut listeners = read(&spec.listeners, owner);
        taken.add(&mut listeners.all);
        room.take(&mut listeners.all);
        Set {
            meta,
            listeners,
            refused: None,
        }
    });
    let mut sets: Vec<Set<'_>> = sets.collect();
    let of_sets = sets.iter_mut().flat_map(|set| &mut set.listeners.all);
    overlaps::mark(own.all.iter_mut().chain(of_sets));
    let client = tls.and_then(|tls| tls.backend.as_ref()?.client_certificate_ref.clone());
    let client_certificate = client.map(|spec| {
        let at = "spec.tls.backend.clientCertificateRef";
        reader.key_pair(&Lenient::Valid(spec), at, CLIENT_CERTIFICATE)
    });
    Plan {
        owned,
        own,
        sets,
        client_gone: match &client_certificate {
            Some(Ok((_, gone))) => gone.clone(),
            _ => None,
        },
        client_certificate: client_certificate
            .map(|read| read.map(|(pair, _)| pair))
            .transpose(),
        insecure: frontend.is_ok_and(Frontend::insecure),
        invalid,
    }
}

fn readable<'a, T>(
    field: &'a Lenient<Option<T>>,
    at: &str,
    invalid: &mut Vec<String>,
) -> Option<&'a T> {
    match field.as_ref() {
        Ok(value) => value.as_ref(),
        Err(why) => {
            invalid.push(format!("{at}: {why}"));
            None
        }
    }
}

fn read<'a>(specs: &'a [Lenient<Listener>], owner: Owner<'_>) -> Listeners<'a> {
    let mut listeners = Listeners::default();
    for (place, entry) in specs.iter().enumerate() {
        match entry.as_ref() {
            Ok(spec) => listeners.all.push(bind(spec, owner)),
            Err(why) => {
                let why = format!("spec.listeners[{place}]: {why}");
                listeners.unreadable.push(why);
            }
        }
    }
    listeners
}

fn refused<'a>(meta: &'a Meta, owned: &Owned<'_>, scope: &Scope<'_>) -> Set<'a> {
    let text = format!(
        "Gateway {} takes ListenerSets {}; its spec.allowedListeners.namespaces would have to let in namespace {}",
        owned.id,
        scope.describe(&owned.meta.namespace),
        meta.namespace
    );
    Set {
        meta,
        listeners: Listeners::default(),
        refused: Some(Fault {
            reason: "NotAllowed",
            text,
        }),
    }
}
