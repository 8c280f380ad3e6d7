//! Which version of the kinds of the Gateway API, of ServiceImport and of ClusterTrustBundle the cluster serves, kept current
//! while definitions come and go.

use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use kube::error::DiscoveryError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ir::RouteKind;

/// How long a definition that was just installed, upgraded or removed may go unnoticed.
const ROUND: Duration = Duration::from_secs(10);

/// Whether the cluster has a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Not asked yet: nothing may be concluded.
    Unknown,
    /// No definition, or none in a version that we read.
    Absent,
    As(ApiResource),
}

/// A kind that is found by discovery, and the versions in which we read it, best first.
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
pub const MESH: Wanted = Wanted {
    group: "gateway.networking.x-k8s.io",
    kind: "XMesh",
    versions: &["v1alpha1"],
};

const fn standard(kind: &'static str, versions: &'static [&'static str]) -> Wanted {
    Wanted {
        group: GATEWAY_GROUP,
        kind,
        versions,
    }
}

/// The kinds whose statuses are written and that may be absent, each as last seen.
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

/// Asks for the kinds every few seconds until `stop`. What was known stays while the API server does not answer.
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
                    "the kinds of this group could not be asked for: going on with what was known; check that the \
                     API server answers and that the controller may read /apis"
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

/// Every resource of a group in every version; empty when the cluster does not have the group.
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

/// The best version of a kind among those that are served.
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
                tracing::info!(kind = wanted.kind, version = resource.version, "kind found");
            }
            _ => tracing::info!(
                kind = wanted.kind,
                group = wanted.group,
                versions = ?wanted.versions,
                "the cluster does not serve this kind in a version that is known here: going on without it"
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
    fn the_best_known_version_is_picked_wherever_it_stands() {
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
    fn an_older_cluster_is_read_in_its_own_version() {
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
    fn a_version_that_nobody_here_knows_counts_as_absent() {
        let new = served(&[("HTTPRoute", "v3")]);
        assert_eq!(pick(&HTTP_ROUTE, &new), Served::Absent);
        assert_eq!(pick(&HTTP_ROUTE, &[]), Served::Absent);
    }
}
