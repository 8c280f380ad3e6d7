//! ServiceImports as backends, while the cluster comes to know the kind and forgets it again.

mesh_tests! {
    run In service_import_is_a_backend_while_its_crd_exists;
}

mod cases {
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, GATEWAY};
    use weft_e2e::{Bed, eventually};

    const URL: &str = "http://reviews/reviews/1";
    const API: &str = "multicluster.x-k8s.io/v1alpha1";
    const DEFINITION: &str = "serviceimports.multicluster.x-k8s.io";
    const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");

    /// As much of the Multi-Cluster Services API as the test needs.
    fn definition() -> Value {
        let port = json!({"type": "object", "required": ["port"], "properties": {
            "name": {"type": "string"}, "protocol": {"type": "string"}, "appProtocol": {"type": "string"},
            "port": {"type": "integer", "format": "int32"}}});
        let spec = json!({"type": "object", "required": ["ports", "type"], "properties": {
            "type": {"type": "string", "enum": ["ClusterSetIP", "Headless"]},
            "ips": {"type": "array", "items": {"type": "string"}},
            "ports": {"type": "array", "items": port}}});
        let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
        json!({
            "apiVersion": DEFINITIONS.0, "kind": DEFINITIONS.1,
            "metadata": {"name": DEFINITION, "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/pull/1748"}},
            "spec": {
                "group": "multicluster.x-k8s.io", "scope": "Namespaced",
                "names": {"plural": "serviceimports", "singular": "serviceimport", "kind": "ServiceImport",
                    "listKind": "ServiceImportList"},
                "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": schema}],
            },
        })
    }

    fn import() -> Value {
        json!({
            "apiVersion": API, "kind": "ServiceImport", "metadata": {"name": "reviews"},
            "spec": {"type": "Headless", "ports": [{"name": "http", "port": 80}]},
        })
    }

    /// What a controller of the Multi-Cluster Services API would write for a pod.
    fn slice(address: &str) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "reviews-imported", "labels": {
                "multicluster.kubernetes.io/service-name": "reviews",
                "multicluster.kubernetes.io/source-cluster": "here"}},
            "addressType": objects::address_type(address),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        })
    }

    async fn unresolved(bed: &Bed, reason: &str) -> anyhow::Result<()> {
        eventually(&format!("ResolvedRefs={reason}"), async || {
            let route = bed.get(GATEWAY, "HTTPRoute", "imported").await?;
            let conditions = objects::route_conditions(&route)?;
            conditions.is_false("ResolvedRefs", reason, &["ServiceImport"])
        })
        .await
    }

    async fn answered(bed: &Bed, fits: &str, code: &str) -> anyhow::Result<()> {
        eventually(fits, async || {
            let summary = bed.load("client", URL, &["-n", "5"]).await?;
            summary.all(code).map(drop)
        })
        .await
    }

    async fn known(bed: &Bed) -> anyhow::Result<()> {
        unresolved(bed, "BackendNotFound").await?;
        answered(bed, "an import that is absent to be told", "500").await?;
        eventually("the kind to be served", async || {
            bed.apply(import()).await.map(drop)
        })
        .await?;
        bed.apply(slice(&bed.pod_ip("reviews-v2").await?)).await?;
        // The Service of the same name has v1 behind it, too.
        eventually("the import's endpoint to answer", async || {
            let summary = bed.load("client", URL, &["-n", "20"]).await?;
            summary.all("200")?.all_from("v2").map(drop)
        })
        .await?;
        // Statuses are written after proxies are told.
        eventually("the status to say so", async || {
            let route = bed.get(GATEWAY, "HTTPRoute", "imported").await?;
            let conditions = objects::route_conditions(&route)?;
            let (resolved, ..) = conditions.of("ResolvedRefs")?;
            anyhow::ensure!(resolved == "True", "{conditions}");
            Ok(())
        })
        .await?;
        eventually("the access log to have the import", async || {
            let lines = bed.accesses("client", "outbound", "/reviews/1").await?;
            let backend = format!("serviceimport/{}/reviews:80", bed.namespace);
            let imported = lines.iter().find(|line| line.is("backend", &backend));
            let encrypted =
                imported.is_some_and(|line| line.text("server_id").ends_with("/sa/reviews"));
            anyhow::ensure!(encrypted, "{lines:?}");
            Ok(())
        })
        .await?;
        let imports = bed.api(API, "ServiceImport");
        imports.delete("reviews", &DeleteParams::default()).await?;
        unresolved(bed, "BackendNotFound").await
    }

    pub(super) async fn service_import_is_a_backend_while_its_crd_exists(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        bed.shop(&["v1", "v2"]).await?;
        let backend = json!({"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "reviews", "port": 80});
        let rules = json!([{"backendRefs": [backend]}]);
        bed.route(objects::http_route("imported", rules)).await?;
        let definitions = bed.api(DEFINITIONS.0, DEFINITIONS.1);
        // Somebody else's definition, with objects of theirs, is left alone.
        if definitions.get_opt(DEFINITION).await?.is_some() {
            return known(bed).await;
        }
        unresolved(bed, "InvalidKind").await?;
        answered(bed, "a kind that is absent to be told", "500").await?;
        bed.apply(definition()).await?;
        let outcome = known(bed).await;
        let removed = definitions
            .delete(DEFINITION, &DeleteParams::default())
            .await;
        outcome?;
        removed?;
        unresolved(bed, "InvalidKind").await
    }
}
