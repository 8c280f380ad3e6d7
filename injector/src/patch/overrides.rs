//! What a pod or its namespace changes about its own proxy by annotations. A pod's wrong value refuses the pod,
//! as its author is there to read why. A namespace's wrong value is ignored with a warning: it must not stop
//! every pod of the namespace.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::settings::{AccessLog, LogFilter, Mtls, OutsideGrace, Ports, Quantity, Unfit, Workers};

/// `None` and empty lists leave the setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub access_log: Option<AccessLog>,
    pub log: Option<LogFilter>,
    pub workers: Option<Workers>,
    pub outside_grace: Option<OutsideGrace>,
    /// The controller obeys it, also when it changes later; here its author is told of a wrong value.
    pub mtls: Option<Mtls>,
    pub cpu: Option<Quantity>,
    pub memory: Option<Quantity>,
    pub cpu_limit: Option<Quantity>,
    pub memory_limit: Option<Quantity>,
    /// Destination ports of outgoing connections that pass by the proxy.
    pub exclude_outbound: Ports,
    /// Ports of the pod whose incoming connections pass by the proxy.
    pub exclude_inbound: Ports,
}

/// An annotation of the pod cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("annotation {name}: {source}")]
pub struct OverrideError {
    name: &'static str,
    source: Unfit,
}

type Annotations = BTreeMap<String, String>;

impl Overrides {
    /// The pod's annotations win over the namespace's.
    pub fn read(
        pod: &Annotations,
        namespace: &Annotations,
        warnings: &mut Vec<String>,
    ) -> Result<Self, OverrideError> {
        let mut from = Sources {
            pod,
            namespace,
            warnings,
        };
        Ok(Self {
            access_log: from.either("weft.dev/access-log")?,
            log: from.either("weft.dev/proxy-log")?,
            workers: from.either("weft.dev/proxy-workers")?,
            outside_grace: from.either("weft.dev/outside-grace")?,
            mtls: from.either("weft.dev/mtls")?,
            cpu: from.either("weft.dev/proxy-cpu")?,
            memory: from.either("weft.dev/proxy-memory")?,
            cpu_limit: from.either("weft.dev/proxy-cpu-limit")?,
            memory_limit: from.either("weft.dev/proxy-memory-limit")?,
            // What passes by the proxy depends on the program, so a namespace cannot say it for all.
            exclude_outbound: from
                .pod("weft.dev/exclude-outbound-ports")?
                .unwrap_or_default(),
            exclude_inbound: from
                .pod("weft.dev/exclude-inbound-ports")?
                .unwrap_or_default(),
        })
    }
}

struct Sources<'a> {
    pod: &'a Annotations,
    namespace: &'a Annotations,
    warnings: &'a mut Vec<String>,
}

impl Sources<'_> {
    fn pod<T: FromStr<Err = Unfit>>(&self, name: &'static str) -> Result<Option<T>, OverrideError> {
        self.pod
            .get(name)
            .map(|text| text.parse())
            .transpose()
            .map_err(|source| OverrideError { name, source })
    }

    fn either<T: FromStr<Err = Unfit>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, OverrideError> {
        if let Some(value) = self.pod(name)? {
            return Ok(Some(value));
        }
        match self
            .namespace
            .get(name)
            .map(|text| text.parse())
            .transpose()
        {
            Ok(value) => Ok(value),
            Err(unfit) => {
                let warning = format!("annotation {name} of the namespace is ignored: {unfit}");
                self.warnings.push(warning);
                Ok(None)
            }
        }
    }
}
