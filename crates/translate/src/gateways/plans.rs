//! The listeners of every managed Gateway: its own and those of its ListenerSets.
//!
//! Source: `ListenerSetSpec`, `AllowedListeners`; GEP-1713.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::{GatewayId, KeyPair};

use super::classes::ManagedGateway;
use super::conflicts::ClaimedSockets;
use super::frontend::FrontendValidations;
use super::listener_budgets::ListenerBudgets;
use super::listeners::{BoundListener, ListenerOwner, bind};
use super::overlaps;
use super::scopes::{NamespaceScope, Namespaces};
use crate::conditions::Fault;
use crate::names::gateway_named;
use crate::objects::{self, GatewayTls, Lenient, Listener, ListenerSetSpec, Meta};
use crate::references::certificates::{CLIENT_CERTIFICATE, CertificateReader, ReferencedObjects};
use crate::references::grants::{Grants, Referrer};
use crate::routes::Resolver;

/// The objects that listeners refer to.
#[derive(Clone, Copy)]
pub(crate) struct ListenerLookups<'a> {
    pub(crate) data: &'a ReferencedObjects<'a>,
    pub(crate) grants: &'a Grants,
    pub(crate) namespaces: &'a Namespaces<'a>,
    /// `None` if only the listeners' sockets are wanted.
    pub(crate) backends: Option<&'a Resolver>,
}

/// A managed Gateway with its listeners.
#[derive(Debug)]
pub(crate) struct GatewayPlan<'a> {
    pub(crate) owned: &'a ManagedGateway<'a>,
    /// The Gateway's own listeners.
    pub(crate) own: Listeners<'a>,
    /// The oldest first.
    pub(crate) sets: Vec<ListenerSetPlan<'a>>,
    pub(crate) client_certificate: Result<Option<KeyPair>, Fault>,
    /// A fault of the client certificate that is reported although the certificate is used.
    pub(crate) client_gone: Option<Fault>,
    /// Clients without a valid certificate are accepted on some port.
    pub(crate) insecure: bool,
    /// Faults of the Gateway apart from its listeners.
    pub(crate) invalid: Vec<String>,
}

/// The listeners of one object.
#[derive(Debug, Default)]
pub(crate) struct Listeners<'a> {
    pub(crate) all: Vec<BoundListener<'a>>,
    /// Faults of entries of which not even the name can be read.
    pub(crate) unreadable: Vec<String>,
}

/// A ListenerSet of a managed Gateway.
#[derive(Debug)]
pub(crate) struct ListenerSetPlan<'a> {
    pub(crate) meta: &'a Meta,
    /// Empty if the set is not allowed.
    pub(crate) listeners: Listeners<'a>,
    pub(crate) refused: Option<Fault>,
}

impl<'a> GatewayPlan<'a> {
    /// Returns the listeners of the Gateway and of its sets.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &BoundListener<'a>> {
        let sets = self.sets.iter().flat_map(|set| &set.listeners.all);
        self.own.all.iter().chain(sets)
    }
}

/// Plans all managed Gateways.
pub(crate) fn plans<'a>(
    gateways: &'a BTreeMap<GatewayId, ManagedGateway<'a>>,
    sets: &'a [Arc<objects::ListenerSet>],
    lookups: ListenerLookups<'a>,
) -> BTreeMap<GatewayId, GatewayPlan<'a>> {
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
        (id.clone(), plan(owned, &sets, lookups))
    });
    plans.collect()
}

fn plan<'a>(
    owned: &'a ManagedGateway<'a>,
    sets: &[(&'a Meta, &'a ListenerSetSpec)],
    lookups: ListenerLookups<'a>,
) -> GatewayPlan<'a> {
    let spec = owned.spec;
    let reader = CertificateReader {
        data: lookups.data,
        grants: lookups.grants,
        from: Referrer {
            kind: "Gateway",
            namespace: &owned.meta.namespace,
        },
    };
    let tls = spec.tls.as_ref().map(Option::as_ref);
    let frontend = tls.map(|tls: Option<&GatewayTls>| {
        FrontendValidations::new(tls.and_then(|tls| tls.frontend.as_ref()), reader)
    });
    let frontend = frontend.map_err(|why| Fault::value("spec.tls of the Gateway", why));
    let frontend = frontend.as_ref();
    let owner = ListenerOwner {
        namespace: &owned.meta.namespace,
        set: None,
        reader,
        backends: lookups.backends,
        frontend,
    };
    let mut own = read(&spec.listeners, owner);
    let mut taken = ClaimedSockets::default();
    taken.claim(&mut own.all);
    let mut room = ListenerBudgets::default();
    room.take(&mut own.all);
    let allowed = spec.allowed_listeners.as_ref().map(Option::as_ref);
    let scope = NamespaceScope::new(
        allowed
            .ok()
            .flatten()
            .and_then(|spec| spec.namespaces.as_ref()),
        NamespaceScope::None,
        "spec.allowedListeners.namespaces",
    );
    let unreadable = |at: &str, why: &str| format!("{at}: {why}");
    let invalid = [
        tls.err().map(|why| unreadable("spec.tls", why)),
        allowed
            .err()
            .map(|why| unreadable("spec.allowedListeners", why)),
        scope.as_ref().err().cloned(),
    ];
    let scope = scope.unwrap_or(NamespaceScope::None);
    let sets = sets.iter().map(|(meta, spec)| {
        if !scope.admits(&owned.meta.namespace, &meta.namespace, lookups.namespaces) {
            return refused(meta, owned, &scope);
        }
        let reader = CertificateReader {
            from: Referrer {
                kind: "ListenerSet",
                namespace: &meta.namespace,
            },
            ..reader
        };
        let owner = ListenerOwner {
            namespace: &meta.namespace,
            set: Some(&meta.name),
            reader,
            backends: lookups.backends,
            frontend,
        };
        let mut listeners = read(&spec.listeners, owner);
        taken.claim(&mut listeners.all);
        room.take(&mut listeners.all);
        ListenerSetPlan {
            meta,
            listeners,
            refused: None,
        }
    });
    let mut sets: Vec<ListenerSetPlan<'_>> = sets.collect();
    let of_sets = sets.iter_mut().flat_map(|set| &mut set.listeners.all);
    overlaps::mark_overlaps(own.all.iter_mut().chain(of_sets));
    let tls = tls.ok().flatten();
    let client = tls.and_then(|tls| tls.backend.as_ref()?.client_certificate_ref.clone());
    let client_certificate = client.map(|spec| {
        let at = "spec.tls.backend.clientCertificateRef";
        reader.key_pair(&Lenient::Valid(spec), at, CLIENT_CERTIFICATE)
    });
    GatewayPlan {
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
        insecure: frontend.is_ok_and(FrontendValidations::insecure),
        invalid: invalid.into_iter().flatten().collect(),
    }
}

fn read<'a>(specs: &'a [Lenient<Listener>], owner: ListenerOwner<'_>) -> Listeners<'a> {
    let mut listeners = Listeners::default();
    for (position, entry) in specs.iter().enumerate() {
        match entry.as_ref() {
            Ok(spec) => listeners.all.push(bind(spec, owner)),
            Err(why) => {
                let why = format!("spec.listeners[{position}]: {why}");
                listeners.unreadable.push(why);
            }
        }
    }
    listeners
}

fn refused<'a>(
    meta: &'a Meta,
    owned: &ManagedGateway<'_>,
    scope: &NamespaceScope<'_>,
) -> ListenerSetPlan<'a> {
    let text = format!(
        "Gateway {} allows ListenerSets {}, not from namespace {}; change its \
         spec.allowedListeners.namespaces",
        owned.id,
        scope.describe(&owned.meta.namespace),
        meta.namespace
    );
    ListenerSetPlan {
        meta,
        listeners: Listeners::default(),
        refused: Some(Fault {
            reason: "NotAllowed",
            text,
        }),
    }
}
