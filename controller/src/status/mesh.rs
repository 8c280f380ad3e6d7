//! Writes the status of the XMesh objects that name this controller, while this replica leads.
//!
//! Source: Gateway API v1.7.0, `apisx/v1alpha1/xmesh_types.go`.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch};
use kube::{Client, Error as KubeError, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_translate::Condition;

use super::features::MESH;
use super::{merge, now};
use crate::kubernetes;
use crate::metrics::Metrics;
use crate::names::CONTROLLER_NAME;
use crate::watch::Served;

/// The interval between lists. A cluster has about one XMesh, so it is polled rather than watched.
const ROUND: Duration = Duration::from_secs(5);

/// Writes the conditions and the supported features of the XMeshes of this controller.
pub struct MeshWriter {
    pub client: Client,
    pub kind: watch::Receiver<Served>,
    pub leader: watch::Receiver<bool>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
}

impl MeshWriter {
    /// Runs until `stop`.
    pub async fn run(mut self) {
        loop {
            let served = self.kind.borrow_and_update().clone();
            let leads = *self.leader.borrow_and_update();
            if let (true, Served::As(kind)) = (leads, served)
                && let Err(error) = self.round(&kind).await
            {
                self.metrics.status_errors.inc();
                tracing::warn!(
                    %error,
                    "writing the status of an XMesh failed: trying again; check that the \
                     controller's account may list xmeshes and patch xmeshes/status"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                Ok(()) = self.kind.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn round(&self, kind: &ApiResource) -> Result<(), KubeError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), kind);
        for mesh in api.list(&ListParams::default().match_any()).await? {
            let Some(patch) = patch(&mesh, &now()) else {
                continue;
            };
            let (name, patch) = (mesh.name_any(), Patch::Merge(patch));
            match api.patch_status(&name, &kubernetes::patch(), &patch).await {
                Ok(_) => self.metrics.status_writes.inc(),
                // Changed or deleted since: the next round reads it again.
                Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => continue,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

/// Returns the patch of the status; `None` if it is up to date, or if the mesh is of another
/// controller.
fn patch(mesh: &DynamicObject, now: &str) -> Option<Value> {
    let controller = mesh.data.pointer("/spec/controllerName")?.as_str()?;
    if controller != CONTROLLER_NAME {
        return None;
    }
    let status = mesh.data.get("status");
    let before = status.and_then(|status| status.get("conditions"));
    let parameters = mesh.data.pointer("/spec/parametersRef");
    let accepted = accepted(parameters.is_some_and(|parameters| !parameters.is_null()));
    let generation = mesh.metadata.generation.unwrap_or_default();
    let conditions = merge::conditions(
        merge::ConditionOwner::Mesh,
        &[accepted],
        generation,
        before,
        now,
    );
    let features: Vec<_> = MESH.iter().map(|name| json!({"name": name})).collect();
    let wanted = json!({"conditions": conditions, "supportedFeatures": features});
    let same = |field: &str| status.and_then(|status| status.get(field)) == wanted.get(field);
    if same("conditions") && same("supportedFeatures") {
        return None;
    }
    Some(json!({
        "metadata": {"resourceVersion": mesh.metadata.resource_version},
        "status": wanted,
    }))
}

fn accepted(has_parameters: bool) -> Condition {
    let (status, reason, message) = if has_parameters {
        let message = "spec.parametersRef is not supported: Weft is configured by its Helm chart; remove the field";
        (false, "InvalidParameters", message)
    } else {
        (true, "Accepted", "Weft runs this mesh")
    };
    Condition {
        kind: "Accepted".into(),
        status,
        reason: reason.into(),
        message: message.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mesh(spec: Value, status: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
            "metadata": {"name": "weft", "generation": 1, "resourceVersion": "7"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn own_mesh_is_accepted_with_its_features() {
        let ours = json!({"controllerName": CONTROLLER_NAME});
        let pending = json!({"conditions": [{
            "type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]});
        let patch = patch(&mesh(ours.clone(), pending), "2024-01-01T00:00:00Z").unwrap();
        let status = patch.get("status").unwrap();
        assert_eq!(status.pointer("/conditions/0/status"), Some(&json!("True")));
        let time = status.pointer("/conditions/0/lastTransitionTime");
        assert_eq!(time, Some(&json!("2024-01-01T00:00:00Z")));
        assert_eq!(
            status.pointer("/supportedFeatures/0/name"),
            Some(&json!("GRPCRoute"))
        );
        assert_eq!(self::patch(&mesh(ours, status.clone()), "later"), None);
    }

    #[test]
    fn foreign_mesh_is_ignored() {
        let other = json!({"controllerName": "other.dev/mesh"});
        assert_eq!(patch(&mesh(other, json!({})), "now"), None);
    }

    #[test]
    fn parameters_are_rejected() {
        let spec = json!({"controllerName": CONTROLLER_NAME, "parametersRef": {"name": "x"}});
        let patch = patch(&mesh(spec, json!({})), "now").unwrap();
        let reason = patch.pointer("/status/conditions/0/reason");
        assert_eq!(reason, Some(&json!("InvalidParameters")));
    }
}
