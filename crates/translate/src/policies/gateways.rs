//! What the proxies of each Gateway enforce, at its listeners and at routes.
//!
//! The result of a Gateway is kept for as long as its configuration and the policies that apply to
//! it are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{
    Authorization, AuthorizationPolicy, Authorizations, GatewayId, HttpListener, RouteId,
    RouteKind, RouteSection, Rule, Serving, StreamListener, TlsListener, TlsServing, VirtualHost,
};

use super::compose::{Composer, Ports, Room};
use super::pods::{Hit, Lookups, in_namespace};
use super::policy::Policy;
use super::targets::Target;
use crate::gateways::GatewayView;
use crate::memo::{self, ByIdentity};
use crate::objects;
use crate::selectors::selects;

/// The Gateways by namespace and name.
pub(super) type GatewayObjects<'a> = HashMap<(&'a str, &'a str), &'a Arc<objects::Gateway>>;

/// The routes that a Gateway applies, each with the names of its rules.
pub(super) type AppliedRoutes = BTreeMap<RouteId, BTreeSet<Arc<str>>>;

/// The last state of all Gateways.
#[derive(Debug, Default)]
pub(super) struct GatewayAuthorizations(HashMap<GatewayId, GatewayCache>);

#[derive(Debug)]
struct GatewayCache {
    view: ByIdentity<GatewayView>,
    routes: Arc<AppliedRoutes>,
    /// The policies that apply, each with the positions of its targets.
    relevant: Vec<(ByIdentity<Policy>, Vec<usize>)>,
    outcome: Arc<GatewayOutcome>,
}

/// What the proxies of a Gateway enforce.
#[derive(Debug, PartialEq)]
pub(super) struct GatewayOutcome {
    pub(super) enforced: Arc<Authorizations>,
    pub(super) hits: BTreeSet<Hit>,
    /// Policies that are closed there, since the proxies have no room for them.
    pub(super) crowded: BTreeSet<weft_ir::PolicyId>,
}

/// The configuration of each Gateway.
pub(crate) type Views = HashMap<GatewayId, Arc<GatewayView>>;

impl GatewayAuthorizations {
    /// `policies` are in their order of precedence.
    pub(super) fn update(
        &mut self,
        policies: &[Arc<Policy>],
        views: &Views,
        objects: &GatewayObjects<'_>,
        lookups: Lookups<'_>,
        composer: &mut Composer,
    ) -> HashMap<GatewayId, Arc<GatewayOutcome>> {
        let mut before = std::mem::take(&mut self.0);
        let policies: Vec<&Arc<Policy>> = policies
            .iter()
            .filter(|of| {
                of.effect.is_some() && of.targets.iter().any(|of| is_north_south(&of.target))
            })
            .collect();
        for (id, view) in views {
            let known = before.remove(id);
            let view = ByIdentity::of(view);
            let same_view = known.as_ref().filter(|of| of.view == view);
            let routes = same_view.map_or_else(
                || Arc::new(applied_routes(&view)),
                |known| Arc::clone(&known.routes),
            );
            let gateway = objects.get(&(&*id.namespace, &*id.name));
            let relevant = policies.iter().filter_map(|policy| {
                let places = policy.targets.iter().enumerate();
                let places = places.filter(|(_, of)| {
                    let applies = Applies {
                        policy,
                        id,
                        gateway: gateway.map(|of| of.as_ref()),
                        routes: &routes,
                        lookups,
                    };
                    applies.at_all(&of.target)
                });
                let places: Vec<usize> = places.map(|(place, _)| place).collect();
                (!places.is_empty()).then(|| (ByIdentity::of(policy), places))
            });
            let relevant: Vec<_> = relevant.collect();
            let cache = match known {
                Some(known) if known.view == view && known.relevant == relevant => known,
                known => GatewayCache {
                    outcome: outcome(&view, &routes, &relevant, known.as_ref(), composer),
                    view,
                    routes,
                    relevant,
                },
            };
            self.0.insert(id.clone(), cache);
        }
        let all = self.0.iter();
        all.map(|(id, of)| (id.clone(), Arc::clone(&of.outcome)))
            .collect()
    }

    /// Returns true if a Gateway applies the route.
    pub(super) fn apply(&self, route: &RouteId) -> bool {
        self.0.values().any(|of| of.routes.contains_key(route))
    }
}

fn is_north_south(target: &Target) -> bool {
    matches!(
        target,
        Target::Gateway { .. }
            | Target::Gateways { .. }
            | Target::Route { .. }
            | Target::Everything
    )
}

/// Whether the targets of a policy apply to a Gateway.
struct Applies<'a> {
    policy: &'a Policy,
    id: &'a GatewayId,
    gateway: Option<&'a objects::Gateway>,
    routes: &'a AppliedRoutes,
    lookups: Lookups<'a>,
}

impl Applies<'_> {
    fn at_all(&self, target: &Target) -> bool {
        let own = self.policy.namespace();
        let in_own = own.is_none_or(|own| own == &*self.id.namespace);
        match target {
            Target::Gateway { name, .. } => in_own && **name == *self.id.name,
            Target::Gateways {
                namespaces,
                gateways,
            } => {
                let labels = self.lookups.namespaces.get(&*self.id.namespace).copied();
                let object = self.gateway.map(|of| &of.metadata.labels);
                in_namespace(Some(namespaces), labels)
                    && object.is_some_and(|labels| selects(gateways, labels))
            }
            Target::Everything => {
                in_own || self.routes.keys().any(|of| own == Some(&*of.namespace))
            }
            Target::Route { kind, name, .. } => {
                let is = |of: &RouteId| is_route(of, own, *kind, name);
                self.routes.keys().any(is)
            }
            Target::Pods { .. }
            | Target::Service { .. }
            | Target::Unsupported(_)
            | Target::Conflicted(_) => false,
        }
    }
}

fn is_route(of: &RouteId, namespace: Option<&str>, kind: RouteKind, name: &str) -> bool {
    of.kind == kind && &*of.name == name && namespace == Some(&*of.namespace)
}

/// The policies of a place, as far as they have room.
struct Compose<'a> {
    composer: &'a mut Composer,
    room: Room,
    crowded: Vec<Arc<Policy>>,
    relevant: &'a [(ByIdentity<Policy>, Vec<usize>)],
}

impl Compose<'_> {
    /// Returns the policies with a target that `applies`.
    fn policies(
        &mut self,
        applies: impl Fn(&Policy, &Target) -> bool,
        hits: &mut BTreeSet<Hit>,
    ) -> Vec<Arc<AuthorizationPolicy>> {
        let mut made = Vec::new();
        for (ByIdentity(policy), places) in self.relevant {
            let targets = places
                .iter()
                .filter(|place| applies(policy, &policy.targets[**place].target));
            let here: Vec<usize> = targets.copied().collect();
            hits.extend(here.iter().map(|place| (policy.id.clone(), *place)));
            if !here.is_empty() {
                let (room, crowded) = (&mut self.room, &mut self.crowded);
                made.extend(self.composer.policy(policy, Ports::new(), room, crowded));
            }
        }
        made
    }
}

fn outcome(
    view: &GatewayView,
    routes: &AppliedRoutes,
    relevant: &[(ByIdentity<Policy>, Vec<usize>)],
    before: Option<&GatewayCache>,
    composer: &mut Composer,
) -> Arc<GatewayOutcome> {
    let id = &view.gateway.id;
    let mut compose = Compose {
        composer,
        room: Room::default(),
        crowded: Vec::new(),
        relevant,
    };
    let mut hits = BTreeSet::new();
    let mut enforced = Authorizations::default();
    for (port, listener) in listeners(view) {
        let at_listener = |policy: &Policy, target: &Target| match target {
            Target::Gateway {
                listener: wanted, ..
            } => wanted.as_ref().is_none_or(|wanted| **wanted == *listener),
            Target::Gateways { .. } => true,
            Target::Everything => policy.namespace().is_none_or(|own| own == &*id.namespace),
            _ => false,
        };
        let policies = compose.policies(at_listener, &mut hits);
        if !policies.is_empty() {
            let key = (port, listener.to_string());
            enforced.listeners.push((key, open(policies)));
        }
    }
    for (route, rules) in routes {
        let at_route = |policy: &Policy, target: &Target, section: Option<&Arc<str>>| {
            let own = policy.namespace();
            match target {
                Target::Route { kind, name, rule } => {
                    let in_section = match (rule, section) {
                        (None, _) => true,
                        (Some(wanted), Some(section)) => **wanted == **section,
                        (Some(_), None) => false,
                    };
                    is_route(route, own, *kind, name) && in_section
                }
                Target::Everything => own == Some(&*route.namespace),
                _ => false,
            }
        };
        let whole = compose.policies(|policy, target| at_route(policy, target, None), &mut hits);
        // A rule with policies of its own has those of the route as well.
        for rule in rules {
            let all = |policy: &Policy, target: &Target| at_route(policy, target, Some(rule));
            let policies = compose.policies(all, &mut hits);
            if policies != whole {
                let section = section(route, Some(rule));
                enforced.routes.push((section, open(policies)));
            }
        }
        if !whole.is_empty() {
            enforced.routes.push((section(route, None), open(whole)));
        }
    }
    let crowded = compose.crowded.iter().map(|of| of.id.clone()).collect();
    let known = before.map(|of| &of.outcome);
    let outcome = GatewayOutcome {
        enforced: memo::intern(enforced, known.map(|of| &of.enforced)),
        hits,
        crowded,
    };
    memo::intern(outcome, known)
}

/// Listeners and routes are open to clients outside the mesh.
fn open(policies: Vec<Arc<AuthorizationPolicy>>) -> Authorization {
    Authorization {
        policies,
        default: weft_ir::DefaultAuthorization::Allow,
    }
}

fn section(route: &RouteId, rule: Option<&Arc<str>>) -> RouteSection {
    RouteSection {
        route: route.clone(),
        rule: rule.map(|rule| rule.to_string()),
    }
}

/// Returns port and name of every listener.
pub(super) fn listeners(view: &GatewayView) -> Vec<(u16, Arc<str>)> {
    let mut all = Vec::new();
    for port in &view.ports {
        let mut add = |name: &Arc<str>| all.push((port.port, Arc::clone(name)));
        match &port.serving {
            Serving::Http(listeners) => {
                listeners.iter().for_each(|of: &HttpListener| add(&of.name))
            }
            Serving::Tls(listeners) => listeners.iter().for_each(|of: &TlsListener| add(&of.name)),
            Serving::Tcp(StreamListener { name, .. })
            | Serving::Udp(StreamListener { name, .. }) => add(name),
        }
    }
    all
}

fn applied_routes(view: &GatewayView) -> AppliedRoutes {
    let mut routes = AppliedRoutes::new();
    let mut add = |hosts: &[VirtualHost]| {
        for rule in hosts.iter().flat_map(|host| &host.rules) {
            let Rule { route, name, .. } = rule.as_ref();
            let names = match routes.get_mut(route) {
                Some(names) => names,
                None => routes.entry(route.clone()).or_default(),
            };
            names.extend(name.clone().filter(|name| !name.is_empty()));
        }
    };
    for port in &view.ports {
        match &port.serving {
            Serving::Http(listeners) => listeners.iter().for_each(|of| add(&of.hosts)),
            Serving::Tls(listeners) => {
                for listener in listeners {
                    if let TlsServing::Http { hosts, .. } = &listener.serving {
                        add(hosts);
                    }
                }
            }
            Serving::Tcp(_) | Serving::Udp(_) => {}
        }
    }
    routes
}
