//! Discovers the versions in which the cluster serves the kinds of the Gateway API, those of Weft,
//! ServiceImport and ClusterTrustBundle, and follows the installation and removal of their
//! definitions.

use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use kube::error::DiscoveryError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ir::RouteKind;

/// The interval of discovery.
const ROUND: Duration = Duration::from_secs(10);

/// Whether the cluster serves a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Not discovered yet.
    Unknown,
    /// Not served, or in no supported version.
    Absent,
    As(ApiResource),
}

/// A kind to be discovered, and the supported versions, best first.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub group: &'static str,
    pub kind: &'static str,
    pub versions: &'static [&'static str],
}

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

pub const GATEWAY_CLASS: Wanted = standard("GatewayClass", &["v1", "v1beta1"]);
pub const GATEWAY: Wanted = standard("Gateway", &["v1", "v1beta1"]);
pub const LISTENER_SET: Wanted = standard("ListenerSet", &["v1"]);
pub const HTTP_ROUTE: Wanted = standard("HTTPRoute", &["v1", "v1beta1"]);
pub const GRPC_ROUTE: Wanted = standard("GRPCRoute", &["v1", "v1alpha2"]);
pub const TLS_ROUTE: Wanted = standard("TLSRoute", &["v1", "v1alpha3", "v1alpha2"]);
pub const TCP_ROUTE: Wanted = standard("TCPRoute", &["v1", "v1alpha2"]);
pub const UDP_ROUTE: Wanted = standard("UDPRoute", &["v1", "v1alpha2"]);
pub const REFERENCE_GRANT: Wanted = standard("ReferenceGrant", &["v1", "v1beta1"]);
pub const BACKEND_TLS_POLICY: Wanted = standard("BackendTLSPolicy", &["v1", "v1alpha3"]);
pub const SERVICE_IMPORT: Wanted = Wanted {
    group: "multicluster.x-k8s.io",
    kind: "ServiceImport",
    versions: &["v1beta1", "v1alpha1"],
};
pub const CLUSTER_TRUST_BUNDLE: Wanted = Wanted {
    group: "certificates.k8s.io",
    kind: "ClusterTrustBundle",
    versions: &["v1", "v1beta1", "v1alpha1"],
};
pub const AUTHORIZATION_POLICY: Wanted = own("AuthorizationPolicy");
pub const CLUSTER_AUTHORIZATION_POLICY: Wanted = own("ClusterAuthorizationPolicy");
pub const AUTHENTICATION_POLICY: Wanted = own("AuthenticationPolicy");
pub const TRAFFIC_POLICY: Wanted = own("TrafficPolicy");
pub const FAULT_FILTER: Wanted = own("FaultFilter");
pub const BACKEND_TRAFFIC_POLICY: Wanted = experimental("XBackendTrafficPolicy");
pub const MESH: Wanted = experimental("XMesh");

const fn standard(kind: &'static str, versions: &'static [&'static str]) -> Wanted {
    Wanted {
        group: GATEWAY_GROUP,
        kind,
        versions,
    }
}

const fn experimental(kind: &'static str) -> Wanted {
    Wanted {
        group: "gateway.networking.x-k8s.io",
        kind,
        versions: &["v1alpha1"],
    }
}

const fn own(kind: &'static str) -> Wanted {
    Wanted {
        group: weft_policy::GROUP,
        kind,
        versions: &["v1alpha1"],
    }
}

/// The kinds whose statuses are written and that the cluster may not serve, as last discovered.
#[derive(Clone, Debug)]
pub struct Kinds {
    pub gateway_class: watch::Receiver<Served>,
    pub gateway: watch::Receiver<Served>,
    pub listener_set: watch::Receiver<Served>,
    pub http_route: watch::Receiver<Served>,
    pub grpc_route: watch::Receiver<Served>,
    pub tls_route: watch::Receiver<Served>,
    pub tcp_route: watch::Receiver<Served>,
    pub udp_route: watch::Receiver<Served>,
    pub backend_tls_policy: watch::Receiver<Served>,
    pub authorization_policy: watch::Receiver<Served>,
    pub cluster_authorization_policy: watch::Receiver<Served>,
    pub authentication_policy: watch::Receiver<Served>,
    pub traffic_policy: watch::Receiver<Served>,
    pub backend_traffic_policy: watch::Receiver<Served>,
    pub mesh: watch::Receiver<Served>,
}

impl Kinds {
    pub fn route(&self, kind: RouteKind) -> &watch::Receiver<Served> {
        match kind {
            RouteKind::Http => &self.http_route,
            RouteKind::Grpc => &self.grpc_route,
            RouteKind::Tls => &self.tls_route,
            RouteKind::Tcp => &self.tcp_route,
            RouteKind::Udp => &self.udp_route,
        }
    }
}

/// Discovers the kinds at an interval until `stop`. The last result stays while the API server does
/// not answer.
pub async fn discover(
    client: Client,
    found: Vec<(Wanted, watch::Sender<Served>)>,
    stop: CancellationToken,
) {
    loop {
        for (group, of_group) in by_group(&found) {
            match served_resources(&client, group).await {
                Ok(resources) => of_group.iter().for_each(|(wanted, tell)| {
                    announce(wanted, pick(wanted, &resources), tell);
                }),
                Err(error) => tracing::warn!(
                    group,
                    %error,
                    "discovery of the kinds of this group failed: keeping the last result; check \
                     that the API server answers and that the account of this process may read \
                     /apis"
                ),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = stop.cancelled() => return,
        }
    }
}

type Telling = (Wanted, watch::Sender<Served>);

fn by_group(found: &[Telling]) -> Vec<(&'static str, Vec<&Telling>)> {
    let mut groups: Vec<(&'static str, Vec<&Telling>)> = Vec::new();
    for telling in found {
        match groups
            .iter_mut()
            .find(|(group, _)| *group == telling.0.group)
        {
            Some((_, of_group)) => of_group.push(telling),
            None => groups.push((telling.0.group, vec![telling])),
        }
    }
    groups
}

/// Returns every resource of a group in every version; empty if the cluster does not serve the
/// group.
async fn served_resources(client: &Client, group: &str) -> Result<Vec<ApiResource>, kube::Error> {
    match kube::discovery::group(client, group).await {
        Ok(group) => Ok(group
            .versions()
            .flat_map(|version| group.versioned_resources(version))
            .map(|(resource, _)| resource)
            .collect()),
        Err(kube::Error::Discovery(
            DiscoveryError::MissingApiGroup(_) | DiscoveryError::EmptyApiGroup(_),
        )) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Returns the best supported version of a kind among the served ones.
fn pick(wanted: &Wanted, served: &[ApiResource]) -> Served {
    let best = wanted.versions.iter().find_map(|version| {
        served
            .iter()
            .find(|resource| resource.kind == wanted.kind && resource.version == *version)
    });
    best.map_or(Served::Absent, |resource| Served::As(resource.clone()))
}

fn announce(wanted: &Wanted, now: Served, tell: &watch::Sender<Served>) {
    tell.send_if_modified(|known| {
        if *known == now {
            return false;
        }
        match &now {
            Served::As(resource) => {
                tracing::info!(
                    kind = wanted.kind,
                    version = resource.version,
                    "the cluster serves this kind"
                );
            }
            _ => tracing::info!(
                kind = wanted.kind,
                group = wanted.group,
                versions = ?wanted.versions,
                "the cluster does not serve this kind in a supported version: continuing without it"
            ),
        }
        *known = now;
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::GroupVersionKind;

    fn served(kinds: &[(&str, &str)]) -> Vec<ApiResource> {
        kinds
            .iter()
            .map(|(kind, version)| {
                let kind = GroupVersionKind::gvk(GATEWAY_GROUP, version, kind);
                ApiResource::from_gvk(&kind)
            })
            .collect()
    }

    fn version(of: &Served) -> Option<&str> {
        match of {
            Served::As(resource) => Some(&resource.version),
            Served::Unknown | Served::Absent => None,
        }
    }

    #[test]
    fn best_supported_version_is_picked() {
        let all = served(&[
            ("HTTPRoute", "v2"),
            ("HTTPRoute", "v1beta1"),
            ("GRPCRoute", "v1alpha2"),
            ("HTTPRoute", "v1"),
        ]);
        assert_eq!(version(&pick(&HTTP_ROUTE, &all)), Some("v1"));
        assert_eq!(version(&pick(&GRPC_ROUTE, &all)), Some("v1alpha2"));
    }

    #[test]
    fn older_version_is_picked_if_it_is_the_only_one() {
        let old = served(&[("HTTPRoute", "v1beta1")]);
        assert_eq!(version(&pick(&HTTP_ROUTE, &old)), Some("v1beta1"));
        assert_eq!(pick(&GRPC_ROUTE, &old), Served::Absent);
        let old = served(&[
            ("TLSRoute", "v1alpha2"),
            ("TLSRoute", "v1alpha3"),
            ("TCPRoute", "v1alpha2"),
        ]);
        assert_eq!(version(&pick(&TLS_ROUTE, &old)), Some("v1alpha3"));
        assert_eq!(version(&pick(&TCP_ROUTE, &old)), Some("v1alpha2"));
    }

    #[test]
    fn unsupported_version_counts_as_absent() {
        let new = served(&[("HTTPRoute", "v3")]);
        assert_eq!(pick(&HTTP_ROUTE, &new), Served::Absent);
        assert_eq!(pick(&HTTP_ROUTE, &[]), Served::Absent);
    }
}
