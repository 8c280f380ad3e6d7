//! Whether a caller is the pod that it says it is, as the cluster shows that pod.
//!
//! A token or a certificate that was stolen is worth nothing elsewhere: both work from the pod's own addresses alone. The
//! proxy may be faster than the watch, so what does not fit yet is waited for a little.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use weft_ir::Identity;
use weft_translate::Mesh;

use crate::snapshot::Snapshots;

/// Who a caller says it is, and what is known of it.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    /// Of its token, where that names them.
    pub uid: Option<&'a str>,
    pub node: Option<&'a str>,
    /// Of its certificate: a pod of the mesh under this account.
    pub account: Option<&'a Identity>,
    /// Where it calls from.
    pub address: IpAddr,
}

/// Why a caller is not taken for the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("the controller has not seen the whole cluster yet: try again")]
    NotReady,
    #[error("pod {0} is not known here (yet), or has ended")]
    Unknown(String),
    #[error("pod {0} has no weft-proxy container")]
    NotInMesh(String),
    #[error("the certificate of {certificate} does not speak for pod {pod}")]
    OtherAccount {
        certificate: Box<Identity>,
        pod: String,
    },
    #[error("pod {0} has no address in the Kubernetes API yet: try again")]
    NoAddress(String),
    #[error(
        "the call comes from {address}, which is no address of pod {pod}; where addresses of pods are rewritten on the \
         way to the controller, set controller.verifyPodAddress=false"
    )]
    OtherAddress { address: IpAddr, pod: String },
    #[error("the token is of an earlier pod of the name {0}")]
    OtherPod(String),
    #[error("the token is of node {token}, and pod {pod} is on node {node}")]
    OtherNode {
        token: String,
        pod: String,
        node: String,
    },
    #[error("pod {0} is on its node's network, which is not in the mesh")]
    OnHost(String),
}

impl Doubt {
    pub fn code(&self) -> Code {
        match self {
            Self::NotReady | Self::Unknown(_) | Self::NoAddress(_) => Code::Unavailable,
            Self::NotInMesh(_) => Code::NotFound,
            Self::OtherAccount { .. }
            | Self::OtherAddress { .. }
            | Self::OtherPod(_)
            | Self::OtherNode { .. }
            | Self::OnHost(_) => Code::PermissionDenied,
        }
    }

    /// A word for the metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotReady | Self::Unknown(_) => "unknown_pod",
            Self::NotInMesh(_) => "not_in_mesh",
            Self::OtherAccount { .. } => "other_account",
            Self::NoAddress(_) => "no_address",
            Self::OtherAddress { .. } => "other_address",
            Self::OtherPod(_) => "other_pod",
            Self::OtherNode { .. } => "other_node",
            Self::OnHost(_) => "host_network",
        }
    }
}

/// Compares callers with the pods of the cluster.
#[derive(Clone, Debug)]
pub struct PodCheck {
    pub snapshots: Snapshots,
    /// Whether the caller's address must be one of the pod's.
    pub address: bool,
    /// How long the watch may be behind.
    pub patience: Duration,
}

impl PodCheck {
    /// The pod's UID. Waits a little for what is not seen yet.
    pub async fn confirm(&self, claim: &Claim<'_>) -> Result<Arc<str>, Doubt> {
        let mut snapshots = self.snapshots.clone();
        let mut last = Err(Doubt::NotReady);
        let waited = timeout(self.patience, async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    last = compare(snapshot.encoder.mesh(), claim, self.address);
                }
                // Without a publisher there is nothing more to come.
                if last.is_ok() || snapshots.changed().await.is_err() {
                    return;
                }
            }
        });
        drop(waited.await);
        last
    }
}

/// The certificate of `account` does not speak for `pod`.
pub fn other_account(account: &Identity, pod: String) -> Doubt {
    Doubt::OtherAccount {
        certificate: Box::new(account.clone()),
        pod,
    }
}

fn compare(mesh: &Mesh, claim: &Claim<'_>, check_address: bool) -> Result<Arc<str>, Doubt> {
    let name = || format!("{}/{}", claim.namespace, claim.pod);
    let Some(pod) = mesh.pod(claim.namespace, claim.pod) else {
        return Err(Doubt::Unknown(name()));
    };
    if claim.uid.is_some_and(|uid| uid != &**pod.uid) {
        return Err(Doubt::OtherPod(name()));
    }
    if let Some(node) = claim.node
        && node != pod.node
    {
        return Err(Doubt::OtherNode {
            token: node.to_owned(),
            pod: name(),
            node: pod.node.to_owned(),
        });
    }
    if let Some(account) = claim.account {
        match mesh.workload(claim.namespace, claim.pod) {
            None => return Err(Doubt::NotInMesh(name())),
            Some(workload) if workload.identity != *account => {
                return Err(other_account(account, name()));
            }
            Some(_) => {}
        }
    }
    if check_address {
        let address = claim.address.to_canonical();
        if pod.on_host {
            return Err(Doubt::OnHost(name()));
        }
        if pod.addresses.is_empty() {
            return Err(Doubt::NoAddress(name()));
        }
        if !pod.addresses.contains(&address) {
            let pod = name();
            return Err(Doubt::OtherAddress { address, pod });
        }
    }
    Ok(Arc::clone(pod.uid))
}

#[cfg(test)]
#[path = "tests/pod.rs"]
pub(crate) mod tests;
