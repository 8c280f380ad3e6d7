//! The commands and their flags; each flag can be given in the environment instead.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weft_ir::{DefaultAuthorization, Mode, TrustDomain};
pub use weft_process::log::Format as LogFormat;
use weft_translate::EndpointRules;

use crate::provision::ProxyResources;

/// Weft's control plane.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-controller", version)]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Configures proxies, signs their certificates and writes statuses.
    Serve(ServeOptions),
    /// Creates and updates the objects that Gateways run on.
    Provision(ProvisionOptions),
}

impl Command {
    pub fn process(&self) -> &ProcessOptions {
        match self {
            Self::Serve(options) => &options.process,
            Self::Provision(options) => &options.process,
        }
    }
}

/// What both commands take.
#[derive(Clone, Debug, Args)]
pub struct ProcessOptions {
    /// Where /metrics is served.
    #[arg(long, env = "WEFT_ADMIN", default_value = "[::]:15020")]
    pub admin: SocketAddr,

    /// Where /ready is served.
    #[arg(long, env = "WEFT_READY", default_value = "[::]:15021")]
    pub ready: SocketAddr,

    /// The node's address: connections from it are never rejected on `--admin` and `--ready`.
    #[arg(long, env = "HOST_IP")]
    pub host_ip: Option<IpAddr>,

    /// The trust domain of the mesh's identities.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,

    /// The namespace of the control plane: of its Leases and of the Secret with the mesh's root.
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    pub namespace: String,

    /// The name of this replica in the Lease: in a pod, the pod's name.
    #[arg(long, env = "POD_NAME", default_value_t = process_name())]
    pub name: String,

    /// Log filter, as `info` or `info,weft_controller=debug`. The default leaves out the lines of
    /// the watch library, whose errors the controller logs itself.
    #[arg(long, env = "WEFT_LOG", default_value = "info,kube_runtime=error")]
    pub log: String,

    /// Log format, json or text; with `provision`, of the proxies of Gateways too.
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    #[command(flatten)]
    pub process: ProcessOptions,

    /// Where proxies connect (gRPC over TLS).
    #[arg(long, env = "WEFT_LISTEN", default_value = "[::]:15012")]
    pub listen: SocketAddr,

    /// Whether pods of the mesh accept plain text from clients outside the mesh.
    #[arg(long, env = "WEFT_MTLS", value_enum, default_value_t = MtlsMode::Permissive)]
    pub mtls: MtlsMode,

    /// With strict, neither pods nor namespaces can choose to be permissive.
    #[arg(long, env = "WEFT_MTLS_FLOOR", value_enum, default_value_t = MtlsMode::Permissive)]
    pub mtls_floor: MtlsMode,

    /// Who may call pods to which no `ALLOW` policy applies.
    #[arg(long, env = "WEFT_AUTHORIZATION_DEFAULT", value_enum, default_value_t = AuthorizationDefault::Allow)]
    pub authorization_default: AuthorizationDefault,

    /// The least strict default that a namespace can choose.
    #[arg(long, env = "WEFT_AUTHORIZATION_FLOOR", value_enum, default_value_t = AuthorizationDefault::Allow)]
    pub authorization_floor: AuthorizationDefault,

    /// Lifetime of a proxy's certificate in seconds, a day at most: none is revoked before it
    /// expires. It is renewed at 70 %.
    #[arg(
        long,
        env = "WEFT_CERTIFICATE_LIFETIME",
        default_value = "86400",
        value_parser = clap::value_parser!(u64).range(60..=86_400).map(Duration::from_secs)
    )]
    pub certificate_lifetime: Duration,

    /// Whether a proxy's token and certificate are accepted from its own pod's addresses alone.
    /// Disable it only where the addresses of pods are rewritten on their way to the controller.
    #[arg(long, env = "WEFT_VERIFY_POD_ADDRESS", default_value_t = true, action = clap::ArgAction::Set)]
    pub verify_pod_address: bool,

    /// How many seconds a new root is distributed before it signs, at least: the kubelet updates
    /// files of ConfigMaps within two minutes.
    #[arg(long, env = "WEFT_ROTATION_SETTLE", default_value = "120", value_parser = seconds())]
    pub rotation_settle: Duration,

    /// How many seconds a rotation waits for a proxy that does not acknowledge the new root.
    #[arg(long, env = "WEFT_ROTATION_PHASE_TIMEOUT", default_value = "600", value_parser = seconds())]
    pub rotation_phase_timeout: Duration,

    /// Whether Gateways are served; without, neither they nor Secrets and ConfigMaps are watched.
    #[arg(long, env = "WEFT_GATEWAYS", default_value_t = true, action = clap::ArgAction::Set)]
    pub gateways: bool,

    /// Networks that no endpoint may be in, whatever EndpointSlices contain: by default the
    /// metadata services of clouds.
    #[arg(
        long,
        env = "WEFT_DENIED_ENDPOINTS",
        value_delimiter = ',',
        default_values = EndpointRules::METADATA
    )]
    pub denied_endpoints: Vec<IpNet>,

    /// Whether Gateways send to endpoints outside the cluster, of Services without a selector.
    #[arg(long, env = "WEFT_GATEWAY_EXTERNAL_ENDPOINTS", default_value_t = false, action = clap::ArgAction::Set)]
    pub gateway_external_endpoints: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ProvisionOptions {
    #[command(flatten)]
    pub process: ProcessOptions,

    #[command(flatten)]
    pub gateway: GatewayOptions,
}

/// Settings of the proxies of all Gateways.
#[derive(Clone, Debug, Args)]
pub struct GatewayOptions {
    /// The proxy's image.
    #[arg(long, env = "WEFT_GATEWAY_IMAGE", default_value_t = format!("weft/proxy:{}", env!("CARGO_PKG_VERSION")))]
    pub gateway_image: String,

    #[arg(
        long,
        env = "WEFT_GATEWAY_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub gateway_image_pull_policy: String,

    /// Image pull Secrets, which must be in the namespaces of the Gateways.
    #[arg(long, env = "WEFT_GATEWAY_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub gateway_image_pull_secrets: Vec<String>,

    /// Which requests the proxy logs: off, errors or all.
    #[arg(long, env = "WEFT_GATEWAY_ACCESS_LOG", default_value = "errors")]
    pub gateway_access_log: String,

    /// The proxy's log filter.
    #[arg(long, env = "WEFT_GATEWAY_LOG", default_value = "info")]
    pub gateway_log: String,

    /// The proxy's worker threads.
    #[arg(
        long,
        env = "WEFT_GATEWAY_WORKERS",
        default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub gateway_workers: u16,

    /// The resources of the proxy's container where a Gateway's parameters set none, as JSON:
    /// `{"requests":{"cpu":"100m"},"limits":{}}`.
    #[arg(
        long,
        env = "WEFT_GATEWAY_RESOURCES",
        default_value = "{}",
        value_parser = resources
    )]
    pub gateway_resources: ProxyResources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MtlsMode {
    /// Plain text from outside the mesh is served too.
    Permissive,
    /// Only clients of the mesh are served.
    Strict,
}

impl From<MtlsMode> for Mode {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Strict => Self::Strict,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthorizationDefault {
    /// Every client.
    Allow,
    /// Clients of the mesh.
    Mesh,
    /// Nobody.
    Deny,
}

impl From<AuthorizationDefault> for DefaultAuthorization {
    fn from(default: AuthorizationDefault) -> Self {
        match default {
            AuthorizationDefault::Allow => Self::Allow,
            AuthorizationDefault::Mesh => Self::Mesh,
            AuthorizationDefault::Deny => Self::Deny,
        }
    }
}

/// A unique name, for a process that runs outside of a pod.
fn process_name() -> String {
    format!("process-{}-{:08x}", std::process::id(), fastrand::u32(..))
}

fn seconds() -> impl TypedValueParser<Value = Duration> {
    clap::value_parser!(u64).map(Duration::from_secs)
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

fn resources(text: &str) -> Result<ProxyResources, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn denied_endpoints_are_networks_with_a_default() {
        let parse = |args: &[&str]| {
            let args = ["weft-controller", "serve"].iter().chain(args);
            Options::try_parse_from(args).map(|options| match options.command {
                Command::Serve(options) => options.denied_endpoints,
                Command::Provision(_) => Vec::new(),
            })
        };
        assert_eq!(parse(&[]).unwrap(), EndpointRules::default().denied);
        let own = parse(&["--denied-endpoints", "10.0.0.0/8,fd00::/8"]).unwrap();
        assert_eq!(own.len(), 2);
        assert!(parse(&["--denied-endpoints", "10.0.0.300/8"]).is_err());
    }

    /// A typo must not open the mesh.
    #[test]
    fn authorization_defaults_are_parsed_strictly() {
        let parse = |args: &[&str]| {
            let args = ["weft-controller", "serve"].iter().chain(args);
            Options::try_parse_from(args).map(|options| match options.command {
                Command::Serve(options) => {
                    (options.authorization_default, options.authorization_floor)
                }
                Command::Provision(_) => panic!("another command"),
            })
        };
        use AuthorizationDefault::{Allow, Deny, Mesh};
        assert_eq!(parse(&[]).unwrap(), (Allow, Allow));
        let both = ["--authorization-default=deny", "--authorization-floor=mesh"];
        assert_eq!(parse(&both).unwrap(), (Deny, Mesh));
        for wrong in [
            "--authorization-default=Deny",
            "--authorization-floor=",
            "--authorization-floor=strict",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_invalid_trust_domain_is_refused_and_the_flag_named() {
        let args = [
            "weft-controller",
            "provision",
            "--trust-domain",
            "Upper_case!",
        ];
        let error = Options::try_parse_from(args);
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("--trust-domain") && message.contains("lower-case"),
            "{message}"
        );
    }
}
