//! Settings with a fixed list of values.

use std::str::FromStr;

use super::InvalidValue;

/// When a container's image is pulled, by Kubernetes' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

impl FromStr for PullPolicy {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| InvalidValue::new(text, "Always, IfNotPresent or Never"))
    }
}

/// Which requests the proxy logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Errors,
    All,
}

impl AccessLog {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Errors => "errors",
            Self::All => "all",
        }
    }
}

impl FromStr for AccessLog {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        [Self::Off, Self::Errors, Self::All]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| InvalidValue::new(text, "off, errors or all"))
    }
}

/// Whether a pod accepts plain text from clients outside the mesh. The greater value is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtls {
    Permissive,
    Strict,
}

impl FromStr for Mtls {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "strict" => Ok(Self::Strict),
            "permissive" => Ok(Self::Permissive),
            _ => Err(InvalidValue::new(text, "strict or permissive")),
        }
    }
}

/// How the proxy handles connections of the pod to unknown destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsOutbound {
    #[default]
    Permissive,
    Required,
}

impl FromStr for MtlsOutbound {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "permissive" => Ok(Self::Permissive),
            "required" => Ok(Self::Required),
            _ => Err(InvalidValue::new(text, "permissive or required")),
        }
    }
}

/// The sources of the kubelet's probes that strict pods serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeSources {
    #[default]
    Any,
    Node,
}

impl FromStr for ProbeSources {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "any" => Ok(Self::Any),
            "node" => Ok(Self::Node),
            _ => Err(InvalidValue::new(text, "any or node")),
        }
    }
}
