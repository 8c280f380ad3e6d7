//! The parameters of Gateways. The ConfigMap of the class provides defaults for that of the
//! Gateway.
//!
//! Source: `GatewayClassSpec.parametersRef`, `GatewayInfrastructure.parametersRef`; the keys are
//! specific to Weft.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_ir::{ForwardedHeader, ForwardedTrust, IpNet};

use super::metadata::domains;
use crate::objects::ParametersRef;
use crate::output::{ExternalTrafficPolicy, Resources, Scaling, ServiceType};
use crate::references::certificates::ReferencedObjects;

/// The parameters of a Gateway or a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parameters {
    replicas: Option<u32>,
    min_replicas: Option<u32>,
    max_replicas: Option<u32>,
    cpu_percent: Option<u32>,
    pub(crate) resources: Resources,
    service_type: Option<ServiceType>,
    traffic_policy: Option<ExternalTrafficPolicy>,
    pub(crate) load_balancer_class: Option<String>,
    pub(crate) service_annotations: BTreeMap<String, String>,
    trusted_hops: Option<u32>,
    trusted_header: Option<ForwardedHeader>,
    trusted_proxies: Option<Vec<IpNet>>,
    normalize_paths: Option<bool>,
    proxy_protocol: Option<bool>,
    outside_grace: Option<u32>,
    /// For classes: maximum number of replicas that Gateways can request.
    replicas_limit: Option<u32>,
    /// For classes: domains whose labels and annotations pods get.
    pod_metadata: Option<Vec<String>>,
}

const KEYS: &str = "replicas, minReplicas, maxReplicas, targetCPUPercent, cpuRequest, cpuLimit, memoryRequest, \
                    memoryLimit, serviceType, externalTrafficPolicy, loadBalancerClass, serviceAnnotations, \
                    trustedHops, trustedHeader, trustedProxies, normalizePaths, \
                    proxyProtocol, outsideGraceSeconds; for classes replicasLimit, podMetadataDomains";

/// Default CPU utilization, in percent, at which pods are added.
const CPU_PERCENT: u32 = 80;
/// Anything larger is probably a mistake.
const MAX_REPLICAS: u32 = 1000;
const MAX_HOPS: u32 = 64;
const MAX_NETWORKS: usize = 64;
/// Default of `outsideGraceSeconds`: longer than kube-proxy takes to update its rules. Slower load
/// balancers need the parameter.
const OUTSIDE_GRACE: u32 = 10;
const MAX_OUTSIDE_GRACE: u32 = 120;

impl Parameters {
    /// `namespace` applies if the reference has none. Valid keys take effect even if others are
    /// invalid.
    pub(crate) fn read(
        reference: &ParametersRef,
        namespace: &str,
        data: &ReferencedObjects<'_>,
    ) -> (Self, Result<(), String>) {
        let mut parameters = Self::default();
        let ParametersRef {
            group,
            kind,
            name,
            namespace: own,
        } = reference;
        if !matches!(group.as_str(), "" | "core") || kind != "ConfigMap" {
            let group = if group.is_empty() { "core" } else { group };
            let why = format!(
                "parametersRef: kind {kind} of group {group} is not supported; use a ConfigMap of \
                 the core group"
            );
            return (parameters, Err(why));
        }
        let namespace = if own.is_empty() { namespace } else { own };
        let Some(map) = data.config_map(namespace, name) else {
            let why = format!("parametersRef: ConfigMap {namespace}/{name} does not exist");
            return (parameters, Err(why));
        };
        let mut wrong = Vec::new();
        for (key, value) in &map.data {
            if let Err(why) = parameters.set(key, value.trim()) {
                wrong.push(format!("ConfigMap {namespace}/{name}: {key}: {why}"));
            }
        }
        if let (Some(min), Some(max)) = (parameters.min_replicas, parameters.max_replicas)
            && min > max
        {
            wrong.push(format!(
                "ConfigMap {namespace}/{name}: minReplicas: {min} is greater than maxReplicas"
            ));
        }
        let verdict = if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("; "))
        };
        (parameters, verdict)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "replicas" => self.replicas = Some(number(value, 0, MAX_REPLICAS)?),
            "minReplicas" => self.min_replicas = Some(number(value, 1, MAX_REPLICAS)?),
            "maxReplicas" => self.max_replicas = Some(number(value, 1, MAX_REPLICAS)?),
            "targetCPUPercent" => self.cpu_percent = Some(number(value, 1, 1000)?),
            "cpuRequest" => quantity(&mut self.resources.requests, "cpu", value)?,
            "cpuLimit" => quantity(&mut self.resources.limits, "cpu", value)?,
            "memoryRequest" => quantity(&mut self.resources.requests, "memory", value)?,
            "memoryLimit" => quantity(&mut self.resources.limits, "memory", value)?,
            "serviceType" => {
                self.service_type = Some(match value {
                    "LoadBalancer" => ServiceType::LoadBalancer,
                    "NodePort" => ServiceType::NodePort,
                    "ClusterIP" => ServiceType::ClusterIp,
                    _ => return Err(none_of(value, "LoadBalancer, NodePort, ClusterIP")),
                });
            }
            "externalTrafficPolicy" => {
                self.traffic_policy = Some(match value {
                    "Cluster" => ExternalTrafficPolicy::Cluster,
                    "Local" => ExternalTrafficPolicy::Local,
                    _ => return Err(none_of(value, "Cluster, Local")),
                });
            }
            "loadBalancerClass" if value.is_empty() => return Err("is empty".to_owned()),
            "loadBalancerClass" => self.load_balancer_class = Some(value.to_owned()),
            "serviceAnnotations" => self.service_annotations = annotations(value)?,
            "trustedHops" => self.trusted_hops = Some(number(value, 0, MAX_HOPS)?),
            "trustedHeader" => {
                self.trusted_header = Some(match value {
                    "X-Forwarded-For" => ForwardedHeader::XForwardedFor,
                    "Forwarded" => ForwardedHeader::Forwarded,
                    _ => return Err(none_of(value, "X-Forwarded-For, Forwarded")),
                });
            }
            "trustedProxies" => self.trusted_proxies = Some(networks(value)?),
            "normalizePaths" => self.normalize_paths = Some(boolean(value)?),
            "proxyProtocol" => self.proxy_protocol = Some(boolean(value)?),
            "outsideGraceSeconds" => {
                self.outside_grace = Some(number(value, 0, MAX_OUTSIDE_GRACE)?);
            }
            "replicasLimit" => self.replicas_limit = Some(number(value, 1, MAX_REPLICAS)?),
            "podMetadataDomains" => self.pod_metadata = Some(domains(value)?),
            _ => return Err(format!("unknown key; supported keys are {KEYS}")),
        }
        Ok(())
    }

    /// Checks that a Gateway may set these parameters, given those of its class.
    pub(crate) fn within(&self, class: &Self) -> Result<(), String> {
        let of_classes = [
            ("replicasLimit", self.replicas_limit.is_some()),
            ("podMetadataDomains", self.pod_metadata.is_some()),
        ];
        if let Some((key, _)) = of_classes.iter().find(|(_, is_set)| *is_set) {
            return Err(format!(
                "{key}: only allowed in the parameters of a GatewayClass"
            ));
        }
        let asked = [self.replicas, self.min_replicas, self.max_replicas];
        let asked = asked.into_iter().flatten().max();
        match (asked, class.replicas_limit) {
            (Some(asked), Some(limit)) if asked > limit => Err(format!(
                "{asked} replicas exceed the replicasLimit of its class, {limit}"
            )),
            _ => Ok(()),
        }
    }

    /// Merges these parameters over those of the class. Replicas and their bounds are taken
    /// together.
    pub(crate) fn over(self, class: &Self) -> Self {
        let scales = self.replicas.or(self.min_replicas).or(self.max_replicas);
        let scaling = if scales.is_some() { &self } else { class };
        let merged = |own: BTreeMap<String, String>, below: &BTreeMap<String, String>| {
            let mut all = below.clone();
            all.extend(own);
            all
        };
        Self {
            replicas: scaling.replicas,
            min_replicas: scaling.min_replicas,
            max_replicas: scaling.max_replicas,
            cpu_percent: self.cpu_percent.or(class.cpu_percent),
            service_type: self.service_type.or(class.service_type),
            traffic_policy: self.traffic_policy.or(class.traffic_policy),
            trusted_hops: self.trusted_hops.or(class.trusted_hops),
            trusted_header: self.trusted_header.or(class.trusted_header),
            trusted_proxies: self
                .trusted_proxies
                .or_else(|| class.trusted_proxies.clone()),
            normalize_paths: self.normalize_paths.or(class.normalize_paths),
            proxy_protocol: self.proxy_protocol.or(class.proxy_protocol),
            outside_grace: self.outside_grace.or(class.outside_grace),
            replicas_limit: class.replicas_limit,
            pod_metadata: class.pod_metadata.clone(),
            load_balancer_class: self
                .load_balancer_class
                .or_else(|| class.load_balancer_class.clone()),
            service_annotations: merged(self.service_annotations, &class.service_annotations),
            resources: Resources {
                requests: merged(self.resources.requests, &class.resources.requests),
                limits: merged(self.resources.limits, &class.resources.limits),
            },
        }
    }

    pub(crate) fn scaling(&self) -> Scaling {
        match (self.max_replicas, self.replicas) {
            (Some(max), _) => Scaling::Auto {
                min: self
                    .min_replicas
                    .or(self.replicas)
                    .unwrap_or(1)
                    .clamp(1, max),
                max,
                cpu_percent: self.cpu_percent.unwrap_or(CPU_PERCENT),
            },
            (None, replicas) => Scaling::Fixed(replicas.or(self.min_replicas).unwrap_or(1)),
        }
    }

    pub(crate) fn service_type(&self) -> ServiceType {
        self.service_type.unwrap_or_default()
    }

    pub(crate) fn traffic_policy(&self) -> ExternalTrafficPolicy {
        self.traffic_policy.unwrap_or_default()
    }

    pub(crate) fn forwarded(&self) -> ForwardedTrust {
        ForwardedTrust {
            hops: self.trusted_hops.unwrap_or(0),
            header: self.trusted_header.unwrap_or_default(),
            proxies: self.trusted_proxies.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn pod_metadata(&self) -> &[String] {
        self.pod_metadata.as_deref().unwrap_or_default()
    }

    pub(crate) fn normalize_paths(&self) -> bool {
        self.normalize_paths.unwrap_or(true)
    }

    pub(crate) fn proxy_protocol(&self) -> bool {
        self.proxy_protocol.unwrap_or(false)
    }

    pub(crate) fn outside_grace(&self) -> u32 {
        self.outside_grace.unwrap_or(OUTSIDE_GRACE)
    }
}

fn none_of(value: &str, known: &str) -> String {
    format!("{value:?} is not one of {known}")
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(none_of(value, "\"true\", \"false\"")),
    }
}

/// Parses CIDRs or addresses, separated by commas.
fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let entries = value.split(',').map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty());
    let networks = entries.map(|entry| {
        let address = || entry.parse::<IpAddr>().ok().map(IpNet::from);
        let network = entry.parse::<IpNet>().ok().or_else(address);
        network.ok_or_else(|| format!("{entry:?} is not a CIDR such as 10.0.0.0/8"))
    });
    let networks: Vec<IpNet> = networks.collect::<Result<_, _>>()?;
    match networks.len() {
        0 => Err("contains no network".to_owned()),
        many if many > MAX_NETWORKS => Err(format!("has more than {MAX_NETWORKS} networks")),
        _ => Ok(networks),
    }
}

fn number(value: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = value.parse::<u32>().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("{value:?} is not a number between {least} and {most}"))
}

/// Parses a Kubernetes quantity without sign: `500m`, `1.5`, `128Mi`.
fn quantity(of: &mut BTreeMap<String, String>, resource: &str, value: &str) -> Result<(), String> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &value[digits.len()..];
    let is_number = digits.parse::<f64>().is_ok_and(|number| number > 0.0)
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    if !is_number || !units.contains(&unit) {
        return Err(format!("{value:?} is not a quantity such as 500m or 128Mi"));
    }
    of.insert(resource.to_owned(), value.to_owned());
    Ok(())
}

/// Parses one annotation per line: `key: value`.
fn annotations(text: &str) -> Result<BTreeMap<String, String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pairs = lines.map(|line| {
        let (key, value) = line
            .split_once(':')
            .ok_or_else(|| format!("{line:?} is not of the form key: value"))?;
        let (key, value) = (key.trim(), value.trim());
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if key.is_empty() || !key.bytes().all(legal) {
            return Err(format!("{key:?} is not a valid annotation key"));
        }
        let bare = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        Ok((key.to_owned(), bare.unwrap_or(value).to_owned()))
    });
    pairs.collect()
}
