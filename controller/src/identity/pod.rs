//! Checks that a caller is the pod that it claims to be, by that pod's state in the cluster.
//!
//! A stolen token or certificate is useless elsewhere: both are accepted from the pod's own
//! addresses alone. The proxy may be ahead of the watch, so a claim that does not match yet is
//! checked again for a few seconds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use weft_ir::Identity;
use weft_translate::Mesh;

use crate::snapshot::Snapshots;

/// The pod that a caller claims to be, and what it proves of it.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    /// From the caller's token, where that has them.
    pub uid: Option<&'a str>,
    pub node: Option<&'a str>,
    /// From the caller's certificate: the pod must be in the mesh and run under this account.
    pub account: Option<&'a Identity>,
    /// The address that the call comes from.
    pub address: IpAddr,
}

/// Why a claim does not match the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodMismatch {
    #[error("the controller has not completed its initial lists yet: try again")]
    NotReady,
    #[error("pod {0} is not known to this controller yet, or has terminated")]
    Unknown(String),
    #[error("pod {0} has no weft-proxy container")]
    NotInMesh(String),
    #[error("pod {pod} does not run under {certificate}, the identity of the client certificate")]
    OtherAccount {
        certificate: Box<Identity>,
        pod: String,
    },
    #[error("pod {0} has no address in the Kubernetes API yet: try again")]
    NoAddress(String),
    #[error(
        "the call comes from {address}, which is not an address of pod {pod}; if the network \
         rewrites the addresses of pods on the way to the controller, set \
         controller.verifyPodAddress=false"
    )]
    OtherAddress { address: IpAddr, pod: String },
    #[error("the token belongs to an earlier pod with the name {0}")]
    OtherPod(String),
    #[error("the token is bound to node {token}, but pod {pod} runs on node {node}")]
    OtherNode {
        token: String,
        pod: String,
        node: String,
    },
    #[error("pod {0} uses the host network, which is not in the mesh")]
    HostNetwork(String),
}

impl PodMismatch {
    pub fn code(&self) -> Code {
        match self {
            Self::NotReady | Self::Unknown(_) | Self::NoAddress(_) => Code::Unavailable,
            Self::NotInMesh(_) => Code::NotFound,
            Self::OtherAccount { .. }
            | Self::OtherAddress { .. }
            | Self::OtherPod(_)
            | Self::OtherNode { .. }
            | Self::HostNetwork(_) => Code::PermissionDenied,
        }
    }

    /// The label `reason` of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReady | Self::Unknown(_) => "unknown_pod",
            Self::NotInMesh(_) => "not_in_mesh",
            Self::OtherAccount { .. } => "other_account",
            Self::NoAddress(_) => "no_address",
            Self::OtherAddress { .. } => "other_address",
            Self::OtherPod(_) => "other_pod",
            Self::OtherNode { .. } => "other_node",
            Self::HostNetwork(_) => "host_network",
        }
    }
}

/// Compares callers with the pods of the cluster.
#[derive(Clone, Debug)]
pub struct PodCheck {
    pub snapshots: Snapshots,
    /// Whether the caller's address must be an address of the pod.
    pub address: bool,
    /// How long the watch may lag behind.
    pub max_wait: Duration,
}

impl PodCheck {
    /// Returns the pod's UID. A claim that does not match is checked again for `max_wait`.
    pub async fn confirm(&self, claim: &Claim<'_>) -> Result<Arc<str>, PodMismatch> {
        let mut snapshots = self.snapshots.clone();
        let mut last = Err(PodMismatch::NotReady);
        let waited = timeout(self.max_wait, async {
            loop {
                let snapshot = snapshots.borrow_and_update().clone();
                if let Some(snapshot) = snapshot {
                    last = compare(snapshot.encoder.mesh(), claim, self.address);
                }
                // Without a publisher no further snapshot comes.
                if last.is_ok() || snapshots.changed().await.is_err() {
                    return;
                }
            }
        });
        drop(waited.await);
        last
    }
}

/// The error for a client certificate of `account` that claims to be `pod`.
pub fn other_account(account: &Identity, pod: String) -> PodMismatch {
    PodMismatch::OtherAccount {
        certificate: Box::new(account.clone()),
        pod,
    }
}

fn compare(mesh: &Mesh, claim: &Claim<'_>, check_address: bool) -> Result<Arc<str>, PodMismatch> {
    let name = || format!("{}/{}", claim.namespace, claim.pod);
    let Some(pod) = mesh.pod(claim.namespace, claim.pod) else {
        return Err(PodMismatch::Unknown(name()));
    };
    if claim.uid.is_some_and(|uid| uid != &**pod.uid) {
        return Err(PodMismatch::OtherPod(name()));
    }
    if let Some(node) = claim.node
        && node != pod.node
    {
        return Err(PodMismatch::OtherNode {
            token: node.to_owned(),
            pod: name(),
            node: pod.node.to_owned(),
        });
    }
    if let Some(account) = claim.account {
        match mesh.workload(claim.namespace, claim.pod) {
            None => return Err(PodMismatch::NotInMesh(name())),
            Some(workload) if workload.identity != *account => {
                return Err(other_account(account, name()));
            }
            Some(_) => {}
        }
    }
    if check_address {
        let address = claim.address.to_canonical();
        if pod.on_host {
            return Err(PodMismatch::HostNetwork(name()));
        }
        if pod.addresses.is_empty() {
            return Err(PodMismatch::NoAddress(name()));
        }
        if !pod.addresses.contains(&address) {
            let pod = name();
            return Err(PodMismatch::OtherAddress { address, pod });
        }
    }
    Ok(Arc::clone(pod.uid))
}

#[cfg(test)]
#[path = "tests/pod.rs"]
pub(crate) mod tests;
