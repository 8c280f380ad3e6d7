//! Whether classes and Gateways are accepted and programmed, and the infrastructure that Gateways
//! get.
//!
//! Source: the comments of `GatewayClassConditionType` and `GatewayConditionType`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_ir::{ServiceId, Transport};

use super::addresses::{RequestedAddresses, assign, belongs_to, requested, service_addresses};
use super::classes::{ManagedClass, NAME_LIMIT};
use super::metadata::{MetadataKind, split_for_pods};
use super::parameters::Parameters;
use super::plans::GatewayPlan;
use super::statuses::{GatewayState, require_valid_listener};
use crate::cluster::services::Services;
use crate::cluster::slices::{EndpointState, Slices};
use crate::conditions::Fault;
use crate::conditions::condition;
use crate::names::{CLASS_LABEL, GATEWAY_LABEL};
use crate::objects::{self, Service};
use crate::output::{Address, GatewayClassStatus};
use crate::output::{Provision, ProvisionPort, ServiceProvision, ServiceType};
use crate::references::certificates::ReferencedObjects;

/// The parameters of a class, and why they are invalid.
type ClassParameters = (Parameters, Result<(), String>);

pub(crate) fn class_parameters<'a>(
    classes: &BTreeMap<&'a str, ManagedClass<'_>>,
    data: &ReferencedObjects<'_>,
) -> BTreeMap<&'a str, ClassParameters> {
    let read = |class: &ManagedClass<'_>| match class.spec.parameters_ref.as_ref() {
        Err(why) => (
            Parameters::default(),
            Err(format!("spec.parametersRef: {why}")),
        ),
        Ok(None) => (Parameters::default(), Ok(())),
        Ok(Some(reference)) => Parameters::read(reference, "", data),
    };
    let all = classes.iter().map(|(name, class)| (*name, read(class)));
    all.collect()
}

pub(crate) fn class_statuses(
    classes: &BTreeMap<&str, ManagedClass<'_>>,
    parameters: &BTreeMap<&str, ClassParameters>,
) -> Vec<GatewayClassStatus> {
    let statuses = classes.iter().map(|(name, class)| {
        let accepted = match parameters.get(name).map(|(_, state)| state) {
            Some(Err(why)) => condition("Accepted", false, "InvalidParameters", why.clone()),
            _ => {
                let message = "Gateways of this class are managed by this controller".to_owned();
                condition("Accepted", true, "Accepted", message)
            }
        };
        GatewayClassStatus {
            name: (*name).to_owned(),
            generation: class.meta.generation,
            conditions: vec![accepted],
        }
    });
    statuses.collect()
}

/// Returns the Gateway's own parameters merged with those of its class, and an error if either is
/// invalid.
pub(crate) fn parameters(
    plan: &GatewayPlan<'_>,
    (class, class_result): &ClassParameters,
    data: &ReferencedObjects<'_>,
) -> (Parameters, Result<(), String>) {
    let namespace = &plan.owned.meta.namespace;
    let infrastructure = plan.owned.spec.infrastructure.as_ref();
    let (own, own_result) = match infrastructure {
        Err(why) => (
            Parameters::default(),
            Err(format!("spec.infrastructure: {why}")),
        ),
        Ok(infrastructure) => {
            let reference = infrastructure
                .as_ref()
                .and_then(|of| of.parameters_ref.as_ref());
            let read = |reference| Parameters::read(reference, namespace, data);
            reference.map_or_else(|| (Parameters::default(), Ok(())), read)
        }
    };
    let state = own_result.and_then(|()| {
        let class_name = plan.owned.class;
        let of_class = |why: &String| format!("GatewayClass {class_name}: {why}");
        class_result.as_ref().copied().map_err(of_class)
    });
    let state = state.and_then(|()| own.within(class));
    (own.over(class), state)
}

/// Errors are the reason and message of Accepted=False.
pub(crate) fn provision(
    plan: &GatewayPlan<'_>,
    parameters: &Parameters,
    validity: Result<(), String>,
) -> Result<(Provision, RequestedAddresses), Fault> {
    let refuse = |reason| move |text| Fault { reason, text };
    let owned = plan.owned;
    let name = owned.name.clone().map_err(refuse("Invalid"))?;
    if !plan.invalid.is_empty() {
        return Err(refuse("Invalid")(plan.invalid.join("; ")));
    }
    validity.map_err(refuse("InvalidParameters"))?;
    let requested = requested(&owned.spec.addresses)?;
    require_valid_listener(plan)?;
    let infrastructure = owned
        .spec
        .infrastructure
        .as_ref()
        .ok()
        .and_then(Option::as_ref);
    let asked = |of: fn(&objects::Infrastructure) -> &BTreeMap<String, String>| {
        infrastructure.map(of).cloned().unwrap_or_default()
    };
    let mut labels = asked(|of| &of.labels);
    let annotations = asked(|of| &of.annotations);
    let (mut pod_labels, mut kept_off_pods) =
        split_for_pods(MetadataKind::Label, &labels, parameters.pod_metadata());
    let (pod_annotations, kept_off) = split_for_pods(
        MetadataKind::Annotation,
        &annotations,
        parameters.pod_metadata(),
    );
    kept_off_pods.extend(kept_off);
    for labels in [&mut labels, &mut pod_labels] {
        labels.insert(GATEWAY_LABEL.to_owned(), owned.meta.name.clone());
        if owned.class.len() <= NAME_LIMIT {
            labels.insert(CLASS_LABEL.to_owned(), owned.class.to_owned());
        }
    }
    kept_off_pods.retain(|key| key != GATEWAY_LABEL && key != CLASS_LABEL);
    let provision = Provision {
        gateway: owned.id.clone(),
        uid: owned.meta.uid.clone(),
        class: owned.class.to_owned(),
        name,
        labels,
        annotations,
        pod_labels,
        pod_annotations,
        kept_off_pods,
        service: ServiceProvision {
            kind: requested.service_type(parameters.service_type()),
            ports: ports(plan),
            addresses: requested.of_load_balancer(),
            cluster_ip: requested.cluster_ip(),
            external_traffic_policy: parameters.traffic_policy(),
            annotations: parameters.service_annotations.clone(),
            load_balancer_class: parameters.load_balancer_class.clone(),
        },
        scaling: parameters.scaling(),
        resources: parameters.resources.clone(),
        outside_grace: parameters.outside_grace(),
    };
    Ok((provision, requested))
}

/// Ports of every accepted listener, even if its certificates do not exist yet.
fn ports(plan: &GatewayPlan<'_>) -> Vec<ProvisionPort> {
    let sockets = plan.listeners().filter_map(|of| of.accepted().ok());
    let ports: BTreeSet<(Transport, u16)> = sockets
        .map(|socket| (socket.protocol.transport(), socket.port))
        .collect();
    let ports = ports.into_iter().map(|(transport, port)| ProvisionPort {
        port,
        transport,
        name: format!("{transport}-{port}"),
    });
    ports.collect()
}

/// The objects that exist in the cluster for Gateways.
pub(crate) struct Infrastructure<'a> {
    pub(crate) all: &'a [Arc<Service>],
    pub(crate) services: &'a Services,
    pub(crate) slices: &'a Slices,
}

impl Infrastructure<'_> {
    /// Returns a Service that was created for a Gateway, and whether it has a ready endpoint.
    fn service(&self, namespace: &str, name: &str) -> Option<(&Service, bool)> {
        let id = ServiceId::new(namespace, name);
        let service = self.services.get(&id)?.of_gateway()?;
        let mut endpoints = self.slices.of(&id).iter().flat_map(|of| &of.endpoints);
        Some((
            service,
            endpoints.any(|of| of.state == EndpointState::Ready),
        ))
    }

    /// Returns the Service that has the address. Only used for addresses that a Gateway cannot get.
    fn holder(&self, address: &Address) -> Option<&Service> {
        let mut all = self.all.iter().map(Arc::as_ref);
        all.find(|service| belongs_to(address, service))
    }
}

/// Evaluates the conditions of a Gateway.
pub(crate) fn evaluate(
    plan: &GatewayPlan<'_>,
    decided: Result<&(Provision, RequestedAddresses), &Fault>,
    parameters: &Parameters,
    infrastructure: &Infrastructure<'_>,
) -> GatewayState {
    let name = plan.owned.name.as_deref().unwrap_or_default();
    let namespace = &plan.owned.meta.namespace;
    let service = infrastructure.service(namespace, name);
    let none = RequestedAddresses::default();
    let requested = decided.map_or(&none, |(_, requested)| requested);
    let shown = |kind| service.map(|(service, _)| service_addresses(service, kind));
    let kind = requested.service_type(parameters.service_type());
    let has = shown(kind).unwrap_or_default();
    let inside = shown(ServiceType::ClusterIp).unwrap_or_default();
    let assigned = assign(requested, &has, &inside, |of| infrastructure.holder(of));
    let programmed = || {
        assigned.usable()?;
        if service.is_some_and(|(_, ready)| ready) {
            return Ok(());
        }
        Err(Fault {
            reason: "Pending",
            text: format!(
                "no proxy of the Gateway is ready yet; check the pods of Deployment \
                 {namespace}/{name}"
            ),
        })
    };
    GatewayState {
        accepted: decided.map(|_| ()).map_err(Fault::clone),
        kept_off_pods: decided.map_or_else(|_| Vec::new(), |(of, _)| of.kept_off_pods.clone()),
        programmed: decided.map_or(Ok(()), |_| programmed()),
        // Without a Service there is nothing to report yet.
        assigned: (decided.is_ok() && service.is_some()).then(|| assigned.complete()),
        addresses: assigned.addresses,
    }
}
