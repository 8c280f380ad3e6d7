//! Flags and environment variables of the two commands. Each flag of `webhook` can also be set by
//! its environment variable, as the chart does.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::TypedValueParser as _;
use clap::{Args, Parser, Subcommand};
use weft_injector::redirect::Redirect;
use weft_injector::settings::{
    AccessLog, LogFilter, LogFormat, Mtls, MtlsOutbound, PROXY_UID, Ports, ProbeSources,
    PullPolicy, Ranges, Resources, Settings, Workers,
};
use weft_injector::webhook::{Clients, Names, Options};

const SYSTEM: &str = "kube-system";

#[derive(Debug, Parser)]
#[command(name = "weft-injector", version, about = "Injects proxies into pods")]
pub(crate) struct Cli {
    /// Log filter, as `info` or `weft_injector=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    /// Log format, json or text; of injected proxies too.
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "json", global = true)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Install the redirect rules in this network namespace.
    Redirect(RedirectArgs),
    /// Serve the mutating webhook.
    Webhook(Box<WebhookArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct RedirectArgs {
    /// The user whose connections are not redirected: the proxy's.
    #[arg(long, default_value_t = PROXY_UID as u32)]
    proxy_uid: u32,
    #[arg(long, default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    #[arg(long, default_value_t = 15006, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// Destination ports of outgoing connections that are not redirected, as `25,3306`.
    #[arg(long, default_value = "")]
    exclude_outbound_ports: Ports,
    /// Ports of this pod whose incoming connections are not redirected.
    #[arg(long, default_value = "")]
    exclude_inbound_ports: Ports,
    /// The nft program.
    #[arg(long, default_value = "nft")]
    pub(crate) nft: PathBuf,
}

impl RedirectArgs {
    pub(crate) fn redirect(&self) -> Redirect {
        Redirect {
            proxy_uid: self.proxy_uid,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            exclude_outbound: self.exclude_outbound_ports.clone(),
            exclude_inbound: self.exclude_inbound_ports.clone(),
            ..Redirect::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WebhookArgs {
    #[arg(long, env = "WEFT_LISTEN", default_value_t = any(15017))]
    listen: SocketAddr,
    #[arg(long, env = "WEFT_METRICS", default_value_t = any(15020))]
    metrics: SocketAddr,
    #[arg(long, env = "WEFT_READY", default_value_t = any(15021))]
    ready: SocketAddr,
    /// The node's address: connections from it are never rejected on `--metrics` and `--ready`.
    #[arg(long, env = "HOST_IP")]
    host_ip: Option<IpAddr>,
    /// Namespace of the Service and the Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    namespace: String,
    /// Service by which the API server reaches the webhook.
    #[arg(long, env = "WEFT_SERVICE", default_value = "weft-injector")]
    service: String,
    /// Secret of the webhook's certificate; created when absent.
    #[arg(long, env = "WEFT_SECRET", default_value = "weft-injector-tls")]
    secret: String,
    /// MutatingWebhookConfiguration whose caBundle is kept up to date.
    #[arg(long, env = "WEFT_WEBHOOK", default_value = "weft-injector")]
    webhook: String,
    /// Lifetime of the webhook's certificate in seconds; it is renewed at 70 %.
    #[arg(long = "certificate-seconds", env = "WEFT_CERTIFICATE_SECONDS", default_value = "7776000",
          value_parser = clap::value_parser!(u64).range(60..=315_360_000).map(Duration::from_secs))]
    certificate_lifetime: Duration,
    /// File of the CA bundle that signs the certificates of API servers, PEM. Clients without such
    /// a certificate are refused. Empty: every client is accepted.
    #[arg(long, env = "WEFT_CLIENT_CA_PATH", default_value = "")]
    client_ca_path: String,
    /// Common names or DNS names, of which the certificate of an API server must have one, as
    /// `a,b`; with `--client-ca-path`.
    #[arg(long, env = "WEFT_CLIENT_SUBJECT_NAMES", value_delimiter = ',')]
    client_subject_names: Vec<String>,
    /// Namespaces in which no pod is injected, beside kube-system and the injector's own, as `a,b`.
    #[arg(long, env = "WEFT_SYSTEM_NAMESPACES", value_delimiter = ',')]
    system_namespaces: Vec<String>,
    /// Labelled namespaces whose pods can neither opt out of the mesh nor exclude ports from the
    /// proxy, as `a,b`.
    #[arg(long, env = "WEFT_ENFORCED_NAMESPACES", value_delimiter = ',')]
    enforced_namespaces: Vec<String>,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Settings of injected proxies that annotations of the pod or its namespace do not override.
#[derive(Debug, Args)]
struct ProxyArgs {
    #[arg(long, env = "WEFT_PROXY_IMAGE")]
    proxy_image: String,
    /// Image of the init container, with this program and nft.
    #[arg(long, env = "WEFT_INIT_IMAGE")]
    init_image: String,
    #[arg(long, env = "WEFT_PROXY_PULL_POLICY", default_value = "IfNotPresent")]
    proxy_pull_policy: PullPolicy,
    #[arg(
        long,
        env = "WEFT_CONTROLLER",
        default_value = "https://weft-controller.weft-system.svc:15012"
    )]
    controller: String,
    /// SPIFFE ID of the controller.
    #[arg(
        long,
        env = "WEFT_CONTROLLER_IDENTITY",
        default_value = "spiffe://cluster.local/ns/weft-system/sa/weft-controller"
    )]
    controller_identity: String,
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    #[arg(long, env = "WEFT_PROXY_ACCESS_LOG", default_value = "errors")]
    proxy_access_log: AccessLog,
    #[arg(long, env = "WEFT_PROXY_LOG", default_value = "info")]
    proxy_log: LogFilter,
    #[arg(long, env = "WEFT_PROXY_WORKERS", default_value = "1")]
    proxy_workers: Workers,
    #[arg(long, env = "WEFT_PROXY_MTLS_OUTBOUND", default_value = "permissive")]
    proxy_mtls_outbound: MtlsOutbound,
    /// Address ranges of pods and Services.
    #[arg(long, env = "WEFT_CLUSTER_RANGES", default_value = "")]
    cluster_ranges: Ranges,
    #[arg(long, env = "WEFT_PROXY_PROBE_SOURCES", default_value = "any")]
    proxy_probe_sources: ProbeSources,
    /// Networks whose probes strict pods serve beside the node's.
    #[arg(long, env = "WEFT_PROXY_PROBE_NETWORKS", default_value = "")]
    proxy_probe_networks: Ranges,
    /// Resources of the proxy's container, as `{"requests":{"cpu":"10m"},"limits":{}}`.
    #[arg(
        long,
        env = "WEFT_PROXY_RESOURCES",
        default_value = r#"{"requests":{"cpu":"10m","memory":"16Mi"}}"#
    )]
    proxy_resources: Resources,
    /// Resources of the init container; those that are absent are as of the proxy's container.
    #[arg(long, env = "WEFT_INIT_RESOURCES", default_value = "{}")]
    init_resources: Resources,
    /// Image pull Secrets, which must be in the pods' namespaces, as `a,b`.
    #[arg(long, env = "WEFT_PROXY_PULL_SECRETS", value_delimiter = ',')]
    proxy_pull_secrets: Vec<String>,
    /// The controller's setting: whether pods accept plain text from clients outside the mesh.
    #[arg(long, env = "WEFT_MTLS", default_value = "permissive")]
    mtls: Mtls,
    /// The controller's setting: the least strict mode that annotations can select.
    #[arg(long, env = "WEFT_MTLS_FLOOR", default_value = "permissive")]
    mtls_floor: Mtls,
}

impl WebhookArgs {
    /// Returns an error if values do not fit together, or if an address is not valid.
    pub(crate) fn options(self, log_format: LogFormat) -> anyhow::Result<Options> {
        let mut settings = self.proxy.settings(log_format)?;
        settings.system_namespaces = named(self.system_namespaces).collect();
        let own = [SYSTEM.to_owned(), self.namespace.clone()];
        settings.system_namespaces.extend(own);
        settings.enforced_namespaces = named(self.enforced_namespaces).collect();
        let clients = clients(&self.client_ca_path, self.client_subject_names)?;
        Ok(Options {
            listen: self.listen,
            metrics: self.metrics,
            ready: self.ready,
            host_ip: self.host_ip,
            names: Names {
                namespace: self.namespace,
                service: self.service,
                secret: self.secret,
                configuration: self.webhook,
            },
            certificate_lifetime: self.certificate_lifetime,
            clients,
            settings,
        })
    }
}

impl ProxyArgs {
    /// Returns the settings that apply to every namespace.
    fn settings(self, log_format: LogFormat) -> anyhow::Result<Settings> {
        for (flag, image) in [
            ("--proxy-image", &self.proxy_image),
            ("--init-image", &self.init_image),
        ] {
            anyhow::ensure!(
                !image.trim().is_empty(),
                "{flag} is empty; it must name an image"
            );
        }
        let controller: http::Uri = self
            .controller
            .parse()
            .context("--controller is not a URL")?;
        anyhow::ensure!(
            controller.scheme_str() == Some("https") && controller.host().is_some(),
            "--controller must be an address such as https://weft-controller.weft-system.svc:15012"
        );
        let prefix = format!("spiffe://{}/", self.trust_domain);
        anyhow::ensure!(
            self.controller_identity.starts_with(&prefix),
            "--controller-identity {:?} is not in the trust domain {:?}",
            self.controller_identity,
            self.trust_domain
        );
        Ok(Settings {
            proxy_image: self.proxy_image,
            init_image: self.init_image,
            pull_policy: self.proxy_pull_policy,
            controller: self.controller,
            controller_identity: self.controller_identity,
            trust_domain: self.trust_domain,
            access_log: self.proxy_access_log,
            log: self.proxy_log,
            log_format,
            workers: self.proxy_workers,
            mtls_outbound: self.proxy_mtls_outbound,
            cluster_ranges: self.cluster_ranges,
            probe_sources: self.proxy_probe_sources,
            probe_networks: self.proxy_probe_networks,
            resources: self.proxy_resources,
            init_resources: self.init_resources,
            pull_secrets: named(self.proxy_pull_secrets).collect(),
            mtls: self.mtls,
            mtls_floor: self.mtls_floor,
            system_namespaces: BTreeSet::new(),
            enforced_namespaces: BTreeSet::new(),
        })
    }
}

/// Returns an error if there are names without a bundle: they would protect from nobody.
fn clients(bundle: &str, names: Vec<String>) -> anyhow::Result<Option<Clients>> {
    let names: Vec<_> = named(names).collect();
    if bundle.is_empty() {
        anyhow::ensure!(
            names.is_empty(),
            "--client-subject-names needs --client-ca-path"
        );
        return Ok(None);
    }
    Ok(Some(Clients {
        bundle: bundle.into(),
        names,
    }))
}

/// Removes empty names: an empty list is parsed as one.
fn named(names: Vec<String>) -> impl Iterator<Item = String> {
    names.into_iter().filter(|name| !name.is_empty())
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
