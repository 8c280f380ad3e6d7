//! What the proxy of each pod limits: for each port of the pod, the limits of the Service ports
//! that lead there. Of several the strictest number of each field applies.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weft_ir::{RequestLimit, Workload};

use crate::cluster::endpoints::TrafficPolicies;
use crate::cluster::pods::{PodInfo, Pods};
use crate::cluster::service_pods::service_ports;
use crate::cluster::services::Services;
use crate::cluster::slices::Slices;
use crate::memo::{ByIdentity, Memo, intern};

/// The configuration of pods that have a limit, by namespace and name.
pub(crate) type LimitedWorkloads = HashMap<Arc<str>, HashMap<Arc<str>, Arc<Workload>>>;

/// The limits of a pod, by its port.
type PodLimits = BTreeMap<u16, RequestLimit>;

/// The pods that have a limit, by namespace and name, each with its configuration without limits.
type LimitedPods<'a> = HashMap<(&'a Arc<str>, &'a Arc<str>), (&'a Workload, PodLimits)>;

/// The last configuration of all pods that have a limit.
#[derive(Debug, Default)]
pub(crate) struct ServerLimits {
    inputs: Memo<Inputs, ()>,
    made: Arc<LimitedWorkloads>,
}

type Inputs = (
    ByIdentity<TrafficPolicies>,
    ByIdentity<Services>,
    ByIdentity<Slices>,
    ByIdentity<Pods>,
);

impl ServerLimits {
    pub(crate) fn update(
        &mut self,
        policies: &ByIdentity<TrafficPolicies>,
        services: &ByIdentity<Services>,
        slices: &ByIdentity<Slices>,
        pods: &ByIdentity<Pods>,
    ) -> Arc<LimitedWorkloads> {
        let from = (
            policies.clone(),
            services.clone(),
            slices.clone(),
            pods.clone(),
        );
        let made = &mut self.made;
        self.inputs.get(from, || {
            *made = intern(
                workloads(policies, services, slices, pods, made),
                Some(made),
            );
        });
        Arc::clone(made)
    }
}

/// Returns the configuration of all pods that have a limit. What is equal to that of `before` keeps
/// its identity.
fn workloads(
    policies: &TrafficPolicies,
    services: &Services,
    slices: &Slices,
    pods: &Pods,
    before: &LimitedWorkloads,
) -> LimitedWorkloads {
    let mut limits = LimitedPods::new();
    for (port, policy) in policies {
        let server = policy.limits.as_ref().and_then(|of| of.server);
        let (Some(limit), Some(service)) = (server, services.get(&port.service)) else {
            continue;
        };
        let section = port.port.to_string();
        let of_namespace = pods.of_namespace(&port.service.namespace);
        for pod in of_namespace.into_iter().flat_map(HashMap::values) {
            let Some(workload) = served(pod) else {
                continue;
            };
            let ports = service_ports(service, Some(&section), pod, slices);
            for number in ports.into_iter().flatten() {
                let key = (&pod.namespace, &pod.name);
                let (_, of_pod) = limits
                    .entry(key)
                    .or_insert_with(|| (workload, PodLimits::new()));
                let known = of_pod.get(&number).map_or(limit, |of| of.strictest(limit));
                of_pod.insert(number, known);
            }
        }
    }
    let mut made = LimitedWorkloads::new();
    for ((namespace, name), (workload, limits)) in limits {
        let limited = Workload {
            limits,
            ..workload.clone()
        };
        let before = before.get(namespace).and_then(|of| of.get(name));
        let of_namespace = made.entry(Arc::clone(namespace)).or_default();
        of_namespace.insert(Arc::clone(name), intern(limited, before));
    }
    made
}

/// Returns the configuration of a pod whose proxy accepts connections for it.
fn served(pod: &PodInfo) -> Option<&Workload> {
    pod.workload.as_deref().filter(|_| pod.has_server())
}
