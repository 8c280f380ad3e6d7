//! Gateways: which are ours, what they listen on and where that leads, what is to be created for them, and what is said
//! of them.

mod addresses;
mod attach;
mod certificates;
mod classes;
mod composed;
mod conflicts;
mod frontend;
mod grants;
mod hosts;
mod listeners;
mod parameters;
mod pem;
mod plans;
mod policies;
pub(crate) mod provision;
mod routes;
mod scopes;
mod serving;
pub(crate) mod status;
mod statuses;
mod verdicts;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{Gateway, GatewayId, ServicePort};

use crate::Objects;
use crate::endpoints::Endpoints;
use crate::routes::{GatewayRules, Resolver};
use crate::services::Services;
use crate::status::Placed;
use certificates::Data;
use classes::{Class, Owned};
use composed::Composed;
use plans::{Sources, plans};
use provision::Provision;
use scopes::Namespaces;
use status::{GatewayClassStatus, GatewayStatus, ListenerSetStatus, PolicyStatus};
use verdicts::Infrastructure;

pub(crate) use classes::{Accounts, accounts, classes, gateways};
pub(crate) use grants::{Grants, Referent, Referrer};
pub(crate) use policies::Policies;
pub use view::GatewayView;

type Classes<'a> = BTreeMap<&'a str, Class<'a>>;
type Gateways<'a> = BTreeMap<GatewayId, Owned<'a>>;

/// All that there is to know of Gateways.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) views: HashMap<GatewayId, Arc<GatewayView>>,
    /// Those that differ from what the mesh sees.
    pub(crate) endpoints: Endpoints,
    pub(crate) routes: Vec<Placed>,
    pub(crate) classes: Vec<GatewayClassStatus>,
    pub(crate) gateways: Vec<GatewayStatus>,
    pub(crate) listener_sets: Vec<ListenerSetStatus>,
    pub(crate) policies: Vec<PolicyStatus>,
    pub(crate) provisions: Vec<Provision>,
    pub(crate) warnings: BTreeSet<String>,
}

/// `tcp` and `udp`: what is known of endpoints.
pub(crate) fn translate(
    objects: &Objects,
    (classes, gateways): (&Classes<'_>, &Gateways<'_>),
    services: &Services,
    (tcp, udp): (&Endpoints, Endpoints),
) -> Outcome {
    if classes.is_empty() {
        return Outcome::default();
    }
    let data = Data::new(&objects.secrets, &objects.config_maps);
    let grants = Grants::new(&objects.reference_grants);
    let namespaces = Namespaces::new(&objects.namespaces);
    let sources = Sources {
        data: &data,
        grants: &grants,
        namespaces: &namespaces,
    };
    let plans = plans(gateways, &objects.listener_sets, sources);
    let policies = Policies::new(&objects.backend_tls_policies, &data);
    // A number that is a port of TCP too means that one's endpoints.
    let mut endpoints: Endpoints = udp;
    endpoints.retain(|id, _| !tcp.contains_key(id));
    endpoints.extend(policies.endpoints(services, tcp));
    let known = Known {
        tcp,
        own: &endpoints,
    };
    let resolver = Resolver {
        services,
        gateway: Some(GatewayRules {
            grants: &grants,
            policies: &policies,
            endpoints: known,
        }),
    };
    let routes = routes::attached(objects, &plans, &namespaces, resolver);
    let composed = Composed::new(objects, resolver);
    let by_listener = serving::by_listener(&routes);
    let counts = statuses::counts(&routes);
    let parameters = verdicts::class_parameters(classes, &data);
    let mut outcome = Outcome {
        routes: routes::statuses(&routes),
        policies: policies.statuses(services, &routes::targets(&routes, &composed)),
        classes: verdicts::class_statuses(classes, &parameters),
        ..Outcome::default()
    };
    let infrastructure = Infrastructure::new(objects);
    for (id, plan) in &plans {
        let class = &parameters[plan.owned.class];
        let (own, broken) = verdicts::parameters(plan, class, &data);
        let decided = verdicts::provision(plan, &own, broken);
        let verdict = verdicts::judge(plan, decided.as_ref(), &own, &infrastructure);
        outcome
            .gateways
            .push(statuses::gateway(plan, &verdict, &counts));
        let sets = statuses::listener_sets(plan, &verdict, &counts);
        outcome.listener_sets.extend(sets);
        let view = GatewayView {
            gateway: Arc::new(Gateway {
                id: id.clone(),
                client_certificate: plan.client_certificate.clone().ok().flatten(),
                trusted_hops: own.trusted_hops(),
                proxy_protocol: own.proxy_protocol(),
            }),
            ports: serving::ports(plan, &by_listener, &composed),
        };
        outcome.views.insert(id.clone(), Arc::new(view));
        outcome
            .provisions
            .extend(decided.ok().map(|(provision, _)| provision));
    }
    outcome
        .listener_sets
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    outcome.endpoints = endpoints;
    outcome.warnings = composed.warnings;
    outcome
}

/// What gateways know of endpoints.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    tcp: &'a Endpoints,
    own: &'a Endpoints,
}

impl Known<'_> {
    /// Whether the port has endpoints, and none is ready.
    pub(crate) fn is_idle(&self, port: &ServicePort) -> bool {
        let set = self.own.get(port).or_else(|| self.tcp.get(port));
        set.is_some_and(|set| set.endpoints.is_empty())
    }
}
