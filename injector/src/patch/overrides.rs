//! What a pod or its namespace changes about its own proxy by annotations. A pod's wrong value refuses the pod,
//! as its author is there to read why. A namespace's wrong value is ignored with a warning: it must not stop
//! every pod of the namespace.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::annotations;
use crate::settings::{
    AccessLog, LogFilter, LogFormat, Misfit, Mtls, MtlsOutbound, OutsideGrace, Ports, RESOURCES,
    Resources, Settings, Workers,
};

/// Annotations for each of [`RESOURCES`]: of the request, of the limit.
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
pub(super) const EXCLUDE_OUTBOUND: &str = "weft.dev/exclude-outbound-ports";
pub(super) const EXCLUDE_INBOUND: &str = "weft.dev/exclude-inbound-ports";

/// `None` and empty lists leave the setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub access_log: Option<AccessLog>,
    pub log: Option<LogFilter>,
    pub log_format: Option<LogFormat>,
    pub workers: Option<Workers>,
    pub outside_grace: Option<OutsideGrace>,
    /// The controller obeys it, also when it changes later; here its author is told of a wrong value.
    pub mtls: Option<Mtls>,
    pub mtls_outbound: Option<MtlsOutbound>,
    pub resources: Resources,
    pub init_resources: Resources,
    /// Destination ports of outgoing connections that pass by the proxy.
    pub exclude_outbound: Ports,
    /// Ports of the pod whose incoming connections pass by the proxy.
    pub exclude_inbound: Ports,
}

/// An annotation of the pod cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    #[error("annotation {name}: {cause}")]
    Unfit { name: &'static str, cause: String },
    #[error(
        "annotation {MTLS}: the pod is permissive, and the mesh demands strict (chart: mtlsFloor)"
    )]
    BelowFloor,
}

type Annotations = BTreeMap<String, String>;

impl Overrides {
    /// The pod's annotations win over the namespace's.
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
            mtls_outbound: from.either("weft.dev/mtls-outbound")?,
            resources: from.resources(&PROXY_RESOURCES)?,
            init_resources: from.resources(&INIT_RESOURCES)?,
            // What passes by the proxy depends on the program, so a namespace cannot say it for all.
            exclude_outbound: from.pod(EXCLUDE_OUTBOUND)?.unwrap_or_default(),
            exclude_inbound: from.pod(EXCLUDE_INBOUND)?.unwrap_or_default(),
        })
    }

    /// What the proxy asks for, and the init container. That one has what the proxy has, unless something else is said of it: it
    /// ends before the proxy begins, so it adds nothing to what the pod needs, and what a quota or a LimitRange lets pass of the
    /// one it lets pass of the other.
    pub(super) fn resources(&self, settings: &Settings) -> Result<(Resources, Resources), String> {
        let proxy = self.resources.or(&settings.resources);
        let init = self.init_resources.or(&settings.init_resources).or(&proxy);
        let misfit = |of: &str, error: Misfit| {
            format!(
                "{error} of {of}; set both by annotations of the pod (weft.dev/{}-...) or its namespace, or in the chart",
                of.trim_start_matches("weft-")
            )
        };
        proxy.fit().map_err(|e| misfit("weft-proxy", e))?;
        init.fit().map_err(|e| misfit("weft-init", e))?;
        Ok((proxy, init))
    }

    /// Whether the pod refuses plain text as it begins.
    pub(super) fn strict(&self, settings: &Settings) -> bool {
        self.mtls.unwrap_or(settings.mtls).max(settings.mtls_floor) == Mtls::Strict
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
            .map_err(|error: T::Err| OverrideError::Unfit {
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
            Some(Err(unfit)) => {
                let warning = format!("annotation {name} of the namespace is ignored: {unfit}");
                self.warnings.push(warning);
                Ok(None)
            }
        }
    }

    /// The pod's own word below the floor refuses it; that of a namespace is raised, as the controller does.
    fn mtls(&mut self, floor: Mtls) -> Result<Option<Mtls>, OverrideError> {
        if self.pod(MTLS)?.is_some_and(|own: Mtls| own < floor) {
            return Err(OverrideError::BelowFloor);
        }
        let said: Option<Mtls> = self.either(MTLS)?;
        if said.is_some_and(|said| said < floor) {
            let warning =
                format!("annotation {MTLS} of the namespace is ignored: the mesh demands strict");
            self.warnings.push(warning);
        }
        Ok(said.map(|said| said.max(floor)))
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
