//! What the operator of the mesh chose for every injected proxy, parsed into types that cannot be wrong.
//! What a single pod or namespace overrides is `patch::overrides`' business.

mod resources;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

pub use resources::{Misfit, Quantity, RESOURCES, Resources, ResourcesError};
pub use weft_process::log::Format as LogFormat;

/// The user and group id of the proxy; the redirect rules leave its traffic alone.
pub const PROXY_UID: i64 = 2460;

/// The same for every pod that one injector patches.
#[derive(Clone, Debug)]
pub struct Settings {
    pub proxy_image: String,
    pub init_image: String,
    pub pull_policy: PullPolicy,
    /// Address of the controller, as `https://weft-controller.weft-system.svc:15012`.
    pub controller: String,
    /// SPIFFE id that the proxy expects of the controller.
    pub controller_identity: String,
    pub trust_domain: String,
    pub access_log: AccessLog,
    /// `tracing` filter of the proxy's own log.
    pub log: LogFilter,
    /// Of all containers of Weft.
    pub log_format: LogFormat,
    pub workers: Workers,
    pub mtls_outbound: MtlsOutbound,
    /// Of pods and of Services.
    pub cluster_ranges: Ranges,
    /// Of the proxy, and of the init container where `init_resources` has nothing.
    pub resources: Resources,
    pub init_resources: Resources,
    /// Secrets for the images, in the pods' namespaces.
    pub pull_secrets: Vec<String>,
    pub mtls: Mtls,
    /// Below which no annotation goes.
    pub mtls_floor: Mtls,
    /// Namespaces in which no pod is ever changed.
    pub system_namespaces: BTreeSet<String>,
    /// Namespaces whose pods cannot choose to be outside the mesh, or to pass by the proxy.
    pub enforced_namespaces: BTreeSet<String>,
}

/// Text that does not fit the type that was asked for; the message says what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct Unfit {
    given: String,
    expected: Cow<'static, str>,
}

impl Unfit {
    /// Keeps at most 64 characters of `given`: it may come from anybody and is shown to others.
    pub(crate) fn new(given: &str, expected: impl Into<Cow<'static, str>>) -> Self {
        Self {
            given: given.chars().take(64).collect(),
            expected: expected.into(),
        }
    }
}

/// When a container's image is pulled; the names are Kubernetes'.
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
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        [Self::Always, Self::IfNotPresent, Self::Never]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| Unfit::new(text, "Always, IfNotPresent or Never"))
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
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        [Self::Off, Self::Errors, Self::All]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| Unfit::new(text, "off, errors or all"))
    }
}

/// Whether a pod serves plain text to clients outside the mesh. The greater is the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtls {
    Permissive,
    Strict,
}

impl FromStr for Mtls {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text {
            "strict" => Ok(Self::Strict),
            "permissive" => Ok(Self::Permissive),
            _ => Err(Unfit::new(text, "strict or permissive")),
        }
    }
}

/// What becomes of connections that a pod opens to addresses of which nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsOutbound {
    #[default]
    Permissive,
    Required,
}

impl FromStr for MtlsOutbound {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text {
            "permissive" => Ok(Self::Permissive),
            "required" => Ok(Self::Required),
            _ => Err(Unfit::new(text, "permissive or required")),
        }
    }
}

/// Ranges of addresses, as `10.96.0.0/12,fd00::/48`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(String);

impl Ranges {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ranges {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let is_range = |text: &str| {
            text.split_once('/').is_some_and(|(first, bits)| {
                let most = first
                    .parse()
                    .map(|first: IpAddr| if first.is_ipv4() { 32 } else { 128 });
                let bits: Result<u8, _> = bits.parse();
                matches!((most, bits), (Ok(most), Ok(bits)) if bits <= most)
            })
        };
        if text.is_empty() || text.split(',').all(is_range) {
            return Ok(Self(text.to_owned()));
        }
        Err(Unfit::new(
            text,
            "ranges of addresses, as 10.96.0.0/12,fd00::/48",
        ))
    }
}

/// A `tracing` filter such as `info,weft_proxy=debug` that the proxy can read, of 1 to 200 characters of letters, digits and
/// `_ - , = : .`, so that nothing in it can be taken for a reference to another variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(weft_process::log::Filter);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for LogFilter {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        const EXPECTED: &str = "a log filter such as info,weft_proxy=debug";
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-,=:.".contains(&b);
        if text.len() > 200 || !text.bytes().all(legal) {
            return Err(Unfit::new(text, EXPECTED));
        }
        let filter = text.parse();
        filter
            .map(Self)
            .map_err(|error| Unfit::new(text, format!("{EXPECTED}: {error}")))
    }
}

/// Worker threads of a proxy, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers(u8);

impl Workers {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Workers {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text.parse() {
            Ok(count @ 1..=64) => Ok(Self(count)),
            _ => Err(Unfit::new(text, "a number of workers from 1 to 64")),
        }
    }
}

/// Seconds that clients outside the mesh are given to learn that a pod ends, 0 to 120.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideGrace(u8);

impl OutsideGrace {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for OutsideGrace {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        match text.parse() {
            Ok(seconds @ 0..=120) => Ok(Self(seconds)),
            _ => Err(Unfit::new(text, "a number of seconds from 0 to 120")),
        }
    }
}

/// TCP ports that the redirect rules leave alone, written as `80,9000`: at most 64, each from 1 to 65535.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(BTreeSet<u16>);

impl Ports {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        Self(ports.into_iter().collect())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, port) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{port}")?;
        }
        Ok(())
    }
}

impl FromStr for Ports {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = || Unfit::new(text, "a list of at most 64 ports such as 80,9000");
        let mut ports = BTreeSet::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.parse::<u16>() {
                Ok(port) if port > 0 => ports.insert(port),
                _ => return Err(unfit()),
            };
        }
        if ports.len() > 64 {
            return Err(unfit());
        }
        Ok(Self(ports))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the chart's defaults come to.
    pub(crate) fn settings() -> Settings {
        Settings {
            proxy_image: "weft/proxy:test".to_owned(),
            init_image: "weft/injector:test".to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            controller: "https://weft-controller.weft-system.svc:15012".to_owned(),
            controller_identity: "spiffe://cluster.local/ns/weft-system/sa/weft-controller"
                .to_owned(),
            trust_domain: "cluster.local".to_owned(),
            access_log: AccessLog::Errors,
            log: "info".parse().unwrap(),
            log_format: LogFormat::Json,
            workers: Workers(1),
            mtls_outbound: MtlsOutbound::Permissive,
            cluster_ranges: Ranges::default(),
            resources: r#"{"requests":{"cpu":"10m","memory":"16Mi"}}"#.parse().unwrap(),
            init_resources: Resources::default(),
            pull_secrets: Vec::new(),
            mtls: Mtls::Permissive,
            mtls_floor: Mtls::Permissive,
            enforced_namespaces: ["bank".to_owned()].into(),
            system_namespaces: ["kube-system", "weft-system"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn ranges_of_addresses() {
        for text in ["", "10.96.0.0/12", "10.96.0.0/12,fd00::/48"] {
            assert_eq!(
                text.parse::<Ranges>().map(|ranges| ranges.0),
                Ok(text.to_owned())
            );
        }
        for text in ["10.96.0.0", "10.96.0.0/33", "a/8", "10.96.0.0/12,"] {
            assert!(text.parse::<Ranges>().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_of_ports() {
        assert_eq!(
            "9000, 80,80".parse::<Ports>().unwrap().to_string(),
            "80,9000"
        );
        assert!("".parse::<Ports>().unwrap().is_empty());
        for bad in ["0", "65536", "http", "1-5", "80;drop", "80 90"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad:?} was taken");
        }
        let many: Vec<String> = (1..=65).map(|port: u16| port.to_string()).collect();
        assert!(many.join(",").parse::<Ports>().is_err());
    }

    #[test]
    fn a_log_filter_holds_no_reference() {
        assert!(
            "info,weft_proxy::inbound=debug"
                .parse::<LogFilter>()
                .is_ok()
        );
        for bad in ["", "$(TOKEN)", "info\nX=1", &"x".repeat(201)] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad:?} was taken");
        }
        let error = "warning".parse::<LogFilter>().unwrap_err().to_string();
        assert!(error.contains("no level"), "{error}");
    }

    #[test]
    fn a_message_shows_no_more_than_64_characters_of_what_was_given() {
        let error = "é".repeat(5000).parse::<Workers>().unwrap_err().to_string();
        assert!(error.chars().count() < 120, "{error}");
    }
}
