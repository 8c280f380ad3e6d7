//! Flags and environment of the proxy, parsed into types that cannot be wrong.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use weft_ir::{Identity, IdentityError, IpNet, TrustDomain};
pub use weft_process::log::Format as LogFormat;

/// The data plane of the Weft service mesh.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-proxy", version)]
pub struct Options {
    /// What the proxy is.
    #[arg(long, env = "WEFT_MODE", value_enum, default_value = "sidecar")]
    pub mode: RunMode,

    /// Where the controller is.
    #[arg(
        long,
        env = "WEFT_CONTROLLER",
        default_value = "https://weft-controller.weft-system.svc:15012"
    )]
    pub controller: http::Uri,

    /// File of the controller's addresses, one a line, for where its name leads nowhere: a pod's
    /// own DNS may know nothing of the cluster. It need not exist.
    #[arg(
        long,
        env = "WEFT_CONTROLLER_ADDRESSES",
        default_value = "/var/run/weft/controller"
    )]
    pub controller_addresses: PathBuf,

    /// The SPIFFE id that the controller must prove.
    #[arg(
        long,
        env = "WEFT_CONTROLLER_IDENTITY",
        default_value = "spiffe://cluster.local/ns/weft-system/sa/weft-controller"
    )]
    pub controller_identity: Identity,

    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_parser = TrustDomain::new)]
    pub trust_domain: TrustDomain,

    /// File of the projected service-account token.
    #[arg(long, env = "WEFT_TOKEN", default_value = "/var/run/weft/token")]
    pub token: PathBuf,

    /// File of the roots that the mesh trusts, PEM.
    #[arg(long, env = "WEFT_ROOTS", default_value = "/var/run/weft/ca.crt")]
    pub roots: PathBuf,

    #[arg(long, env = "POD_NAME")]
    pub pod: String,

    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// The pod's own addresses.
    #[arg(long, env = "POD_IPS", value_delimiter = ',', default_value = "")]
    #[arg(value_parser = parse_ip)]
    pub pod_ips: Vec<Option<IpAddr>>,

    /// The node's address: its kubelet always finds a place on `--admin` and `--ready`.
    #[arg(long, env = "HOST_IP")]
    pub host_ip: Option<IpAddr>,

    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    pub service_account: String,

    /// Whether what the pod opens may go out in plain text while it is not known what is there.
    #[arg(
        long,
        env = "WEFT_MTLS_OUTBOUND",
        value_enum,
        default_value = "permissive"
    )]
    pub mtls_outbound: MtlsOutbound,

    /// The cluster's own ranges, of pods and of Services, as `10.244.0.0/16,10.96.0.0/12`; of use
    /// with `--mtls-outbound required`.
    #[arg(long, env = "WEFT_CLUSTER_RANGES", value_delimiter = ',')]
    pub cluster_ranges: Vec<IpNet>,

    /// Ports of the application that `/probe/tcp/<port>` may be asked about.
    #[arg(long, env = "WEFT_PROBE_PORTS", value_delimiter = ',')]
    pub probe_ports: Vec<u16>,

    /// From where a strict pod takes the kubelet's probes in plain text.
    #[arg(long, env = "WEFT_PROBE_SOURCES", value_enum, default_value = "any")]
    pub probe_sources: ProbeSources,

    /// Networks from which it takes them beside the node; of use with `--probe-sources node`.
    #[arg(long, env = "WEFT_PROBE_NETWORKS", value_delimiter = ',')]
    pub probe_networks: Vec<IpNet>,

    /// Which requests are logged.
    #[arg(long, env = "WEFT_ACCESS_LOG", value_enum, default_value = "errors")]
    pub access_log: AccessLogLevel,

    /// Worker threads.
    #[arg(long, env = "WEFT_WORKERS", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,

    /// Filter of the proxy's own log, as `info` or `weft_proxy=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub log: String,

    /// How log lines are written, of the access log too: json or text.
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,

    /// Listen address of redirected outbound connections.
    #[arg(long, env = "WEFT_OUTBOUND", default_value = "[::]:15001")]
    pub outbound: SocketAddr,

    /// Listen address of redirected inbound connections.
    #[arg(long, env = "WEFT_INBOUND", default_value = "[::]:15006")]
    pub inbound: SocketAddr,

    /// Listen address of `/metrics`.
    #[arg(long, env = "WEFT_ADMIN", default_value = "[::]:15020")]
    pub admin: SocketAddr,

    /// Listen address of `/ready`.
    #[arg(long, env = "WEFT_READY", default_value = "[::]:15021")]
    pub ready: SocketAddr,

    /// How long open connections may take to end after SIGTERM, in seconds.
    #[arg(long, env = "WEFT_DRAIN_SECONDS", default_value = "25", value_parser = parse_seconds)]
    pub drain: Duration,

    /// How long `/drain` may hold back the signal to the pod's containers, in seconds.
    #[arg(long, env = "WEFT_WITHDRAW_SECONDS", default_value = "8", value_parser = parse_seconds)]
    pub withdraw: Duration,

    /// How long, once the pod is being deleted, clients outside the mesh have to learn it, in
    /// seconds; no longer than `--withdraw`.
    #[arg(long, env = "WEFT_OUTSIDE_GRACE_SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub outside_grace: Duration,

    /// How long an exchange may go on without a byte of its answer once a client of HTTP/1.1 has
    /// ended its side, in seconds.
    #[arg(long, env = "WEFT_HALF_CLOSE_SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub half_close: Duration,

    /// Memory that the process may use, in bytes, from which its bounds follow. Without: that of
    /// its container, if that is limited.
    #[arg(long, env = "WEFT_MEMORY_LIMIT_BYTES")]
    pub memory_limit: Option<u64>,

    /// Requests under way to one endpoint, at a gateway. 0: no limit.
    #[arg(long, env = "WEFT_ENDPOINT_REQUESTS", default_value = "1024")]
    pub endpoint_requests: u32,

    /// How long a gateway waits for more of a request's body while there is no answer, in seconds.
    /// 0: no limit.
    #[arg(long, env = "WEFT_BODY_IDLE_SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub body_idle: Duration,

    /// How long a gateway's client may take nothing of an answer that is there for it, in seconds.
    /// 0: no limit.
    #[arg(long, env = "WEFT_ANSWER_IDLE_SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub answer_idle: Duration,

    /// After how long without a byte either way a gateway closes a connection that it passes on as
    /// bytes, in seconds, or up to twice as long. 0: no limit.
    #[arg(long, env = "WEFT_BYTES_IDLE_SECONDS", default_value = "3600", value_parser = parse_seconds)]
    pub bytes_idle: Duration,

    /// How long a connection to an unknown address waits for the controller, in milliseconds.
    #[arg(long, env = "WEFT_LOOKUP_MILLIS", default_value = "1000", value_parser = parse_millis)]
    pub lookup: Duration,

    /// After how long without a connection a destination is forgotten, in seconds.
    #[arg(long, env = "WEFT_IDLE_SECONDS", default_value = "600", value_parser = parse_seconds)]
    pub idle: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunMode {
    /// Beside a pod's application.
    Sidecar,
    /// A Gateway's own, for clients outside the mesh.
    Gateway,
}

/// What becomes of a connection of the pod's to an address of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MtlsOutbound {
    /// It is passed on unchanged, in plain text.
    Permissive,
    /// It is closed: while the controller cannot say what is there, and where the address is the
    /// cluster's own.
    Required,
}

/// The sources of the kubelet's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbeSources {
    /// The pod's node: its addresses, and the gateways of the pod.
    Node,
    /// All.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogLevel {
    Off,
    /// Requests answered with 4xx, 5xx or a gRPC error.
    Errors,
    All,
}

impl Options {
    /// Who this proxy is. Errors when namespace or account are no names of Kubernetes.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::new(
            self.trust_domain.clone(),
            &self.namespace,
            &self.service_account,
        )
    }

    /// The pod's own addresses.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.pod_ips.iter().flatten().copied().collect()
    }
}

/// An empty element is no address: `POD_IPS` is empty where a runtime does not fill it in.
fn parse_ip(text: &str) -> Result<Option<IpAddr>, std::net::AddrParseError> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse::<u32>().map(|s| Duration::from_secs(s.into()))
}

fn parse_millis(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse::<u32>()
        .map(|ms| Duration::from_millis(ms.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Options, clap::Error> {
        let pod = ["weft-proxy", "--pod", "front-0", "--namespace", "shop"];
        Options::try_parse_from(pod.iter().chain(more))
    }

    #[test]
    fn pod_ips_may_be_an_empty_list() {
        let ips = |text| parse(&["--pod-ips", text]).unwrap().own_addresses();
        assert_eq!(ips(""), [] as [IpAddr; 0]);
        assert_eq!(ips("10.0.0.1").len(), 1);
        assert_eq!(
            ips("10.0.0.1,fd00::1")[1],
            "fd00::1".parse::<IpAddr>().unwrap()
        );
        assert!(parse(&[]).unwrap().own_addresses().is_empty());
    }

    #[test]
    fn invalid_option_error_names_its_flag() {
        for (flag, value) in [
            ("--pod-ips", "10.0.0.1,front"),
            ("--trust-domain", "Cluster Local"),
            ("--controller-identity", "weft-controller"),
            ("--access-log", "some"),
            ("--workers", "0"),
            ("--outbound", "15001"),
            ("--drain", "soon"),
            ("--mode", "toaster"),
            ("--probe-sources", "kubelet"),
            ("--probe-networks", "10.0.0.0/8,10.0.0.1"),
        ] {
            let error = parse(&[flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
        let odd = Options::try_parse_from(["weft-proxy", "--pod", "p", "--namespace", "Shop_1"]);
        assert!(odd.unwrap().identity().is_err());
    }
}
