//! The annotations by which a pod or its namespace overrides settings of the proxy. An invalid
//! value on a pod denies the pod, as its author gets the message. An invalid value on a namespace
//! is ignored with a warning: it must not block every pod of the namespace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::annotations;
use crate::settings::{
    AccessLog, LimitBelowRequest, LogFilter, LogFormat, Mtls, MtlsOutbound, OutsideGrace,
    PortModes, Ports, RESOURCES, Resources, Settings, Workers,
};

/// The annotations of each of [`RESOURCES`]: for the request and for the limit.
pub(super) type ResourceNames = [(&'static str, &'static str); RESOURCES.len()];
pub(super) const PROXY_RESOURCES: ResourceNames = [
    ("weft.dev/proxy-cpu", "weft.dev/proxy-cpu-limit"),
    ("weft.dev/proxy-memory", "weft.dev/proxy-memory-limit"),
    (
        "weft.dev/proxy-ephemeral-storage",
        "weft.dev/proxy-ephemeral-storage-limit",
    ),
];
pub(super) const INIT_RESOURCES: ResourceNames = [
    ("weft.dev/init-cpu", "weft.dev/init-cpu-limit"),
    ("weft.dev/init-memory", "weft.dev/init-memory-limit"),
    (
        "weft.dev/init-ephemeral-storage",
        "weft.dev/init-ephemeral-storage-limit",
    ),
];
pub(super) const MTLS: &str = "weft.dev/mtls";
pub(super) const MTLS_PORTS: &str = "weft.dev/mtls-ports";
pub(super) const EXCLUDE_OUTBOUND: &str = "weft.dev/exclude-outbound-ports";
pub(super) const EXCLUDE_INBOUND: &str = "weft.dev/exclude-inbound-ports";

/// The overrides; `None` and empty lists keep the setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub access_log: Option<AccessLog>,
    pub log: Option<LogFilter>,
    pub log_format: Option<LogFormat>,
    pub workers: Option<Workers>,
    pub outside_grace: Option<OutsideGrace>,
    /// Only validated here: the controller applies it, also when it changes later.
    pub mtls: Option<Mtls>,
    /// Only validated here, as `mtls` is.
    pub mtls_ports: PortModes,
    pub mtls_outbound: Option<MtlsOutbound>,
    pub resources: Resources,
    pub init_resources: Resources,
    /// Destination ports of outgoing connections that bypass the proxy.
    pub exclude_outbound: Ports,
    /// Ports of the pod whose incoming connections bypass the proxy.
    pub exclude_inbound: Ports,
}

/// Why an annotation of the pod is invalid.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    #[error("annotation {name}: {cause}")]
    InvalidValue { name: &'static str, cause: String },
    #[error("annotation {0}: permissive is less strict than the mesh permits (chart: mtlsFloor)")]
    BelowFloor(&'static str),
}

type Annotations = BTreeMap<String, String>;

impl Overrides {
    /// Reads the annotations; those of the pod take precedence over the namespace's.
    pub fn read(
        pod: &Annotations,
        namespace: &Annotations,
        floor: Mtls,
        warnings: &mut Vec<String>,
    ) -> Result<Self, OverrideError> {
        warnings.extend(annotations::of_pod(pod));
        warnings.extend(annotations::of_namespace(namespace));
        let mut from = Sources {
            pod,
            namespace,
            warnings,
        };
        Ok(Self {
            access_log: from.either("weft.dev/access-log")?,
            log: from.either("weft.dev/proxy-log")?,
            log_format: from.either("weft.dev/log-format")?,
            workers: from.either("weft.dev/proxy-workers")?,
            outside_grace: from.either("weft.dev/outside-grace")?,
            mtls: from.mtls(floor)?,
            mtls_ports: from.mtls_ports(floor)?,
            mtls_outbound: from.either("weft.dev/mtls-outbound")?,
            resources: from.resources(&PROXY_RESOURCES)?,
            init_resources: from.resources(&INIT_RESOURCES)?,
            // Depends on the application, so a namespace cannot set it for all pods.
            exclude_outbound: from.pod(EXCLUDE_OUTBOUND)?.unwrap_or_default(),
            exclude_inbound: from.pod(EXCLUDE_INBOUND)?.unwrap_or_default(),
        })
    }

    /// Returns the resources of the proxy and of the init container. By default both have the same:
    /// the init container ends before the proxy starts, so it does not add to the pod's resources,
    /// and a quota or LimitRange that admits the one admits the other.
    pub(super) fn resources(&self, settings: &Settings) -> Result<(Resources, Resources), String> {
        let proxy = self.resources.or(&settings.resources);
        let init = self.init_resources.or(&settings.init_resources).or(&proxy);
        let mismatch = |of: &str, error: LimitBelowRequest| {
            format!(
                "{error} of {of}; set both by annotations of the pod (weft.dev/{}-...) or its \
                 namespace, or in the chart",
                of.trim_start_matches("weft-")
            )
        };
        proxy
            .check_limits()
            .map_err(|e| mismatch("weft-proxy", e))?;
        init.check_limits().map_err(|e| mismatch("weft-init", e))?;
        Ok((proxy, init))
    }

    /// Returns true if the pod rejects plain text to a port when it starts.
    pub(super) fn is_strict(&self, port: u16, settings: &Settings) -> bool {
        let of_port = self.mtls_ports.0.get(&port).copied();
        let mode = of_port.or(self.mtls).unwrap_or(settings.mtls);
        mode.max(settings.mtls_floor) == Mtls::Strict
    }
}

struct Sources<'a> {
    pod: &'a Annotations,
    namespace: &'a Annotations,
    warnings: &'a mut Vec<String>,
}

impl Sources<'_> {
    fn pod<T>(&self, name: &'static str) -> Result<Option<T>, OverrideError>
    where
        T: FromStr<Err: Display>,
    {
        let value = self.pod.get(name).map(|text| text.parse());
        value
            .transpose()
            .map_err(|error: T::Err| OverrideError::InvalidValue {
                name,
                cause: error.to_string(),
            })
    }

    fn either<T>(&mut self, name: &'static str) -> Result<Option<T>, OverrideError>
    where
        T: FromStr<Err: Display>,
    {
        if let Some(value) = self.pod(name)? {
            return Ok(Some(value));
        }
        match self.namespace.get(name).map(|text| text.parse()) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(invalid)) => {
                let warning = format!("annotation {name} of the namespace is ignored: {invalid}");
                self.warnings.push(warning);
                Ok(None)
            }
        }
    }

    /// A pod's value below the floor is an error; a namespace's is raised to the floor, as the
    /// controller does.
    fn mtls(&mut self, floor: Mtls) -> Result<Option<Mtls>, OverrideError> {
        if self.pod(MTLS)?.is_some_and(|own: Mtls| own < floor) {
            return Err(OverrideError::BelowFloor(MTLS));
        }
        let value: Option<Mtls> = self.either(MTLS)?;
        if value.is_some_and(|value| value < floor) {
            let warning =
                format!("annotation {MTLS} of the namespace is ignored: the mesh requires strict");
            self.warnings.push(warning);
        }
        Ok(value.map(|value| value.max(floor)))
    }

    fn mtls_ports(&mut self, floor: Mtls) -> Result<PortModes, OverrideError> {
        let modes: PortModes = self.pod(MTLS_PORTS)?.unwrap_or_default();
        match modes.0.values().all(|mode| *mode >= floor) {
            true => Ok(modes),
            false => Err(OverrideError::BelowFloor(MTLS_PORTS)),
        }
    }

    fn resources(&mut self, names: &ResourceNames) -> Result<Resources, OverrideError> {
        let mut resources = Resources::default();
        for (resource, (request, limit)) in RESOURCES.into_iter().zip(names) {
            let request = self.either(request)?;
            resources
                .requests
                .extend(request.map(|amount| (resource, amount)));
            let limit = self.either(limit)?;
            resources
                .limits
                .extend(limit.map(|amount| (resource, amount)));
        }
        Ok(resources)
    }
}
