//! ServiceImports as backends, while their CRD is installed and removed.

cluster_tests! {
    run Meshed service_import_is_a_backend_while_its_crd_exists;
}

mod cases {
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, GATEWAY};
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";
    const API: &str = "multicluster.x-k8s.io/v1alpha1";
    const DEFINITION: &str = "serviceimports.multicluster.x-k8s.io";
    const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");

    /// The part of the Multi-Cluster Services API's CRD that the test needs.
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

    /// The EndpointSlice that a controller of the Multi-Cluster Services API would write for a pod.
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

    async fn wait_for_unresolved(ns: &TestNamespace, reason: &str) -> anyhow::Result<()> {
        eventually(&format!("ResolvedRefs={reason}"), async || {
            let route = ns.get(GATEWAY, "HTTPRoute", "imported").await?;
            let conditions = objects::route_conditions(&route)?;
            conditions.is_false("ResolvedRefs", reason, &["ServiceImport"])
        })
        .await
    }

    async fn wait_for_code(ns: &TestNamespace, what: &str, code: &str) -> anyhow::Result<()> {
        eventually(what, async || {
            let summary = ns.load("client", URL, &["-n", "5"]).await?;
            summary.all(code).map(drop)
        })
        .await
    }

    async fn check_with_crd(ns: &TestNamespace) -> anyhow::Result<()> {
        wait_for_unresolved(ns, "BackendNotFound").await?;
        wait_for_code(ns, "the missing ServiceImport to answer 500", "500").await?;
        eventually("the CRD to be served", async || {
            ns.apply(import()).await.map(drop)
        })
        .await?;
        ns.apply(slice(&ns.pod_ip("reviews-v2").await?)).await?;
        // The Service of the same name also selects v1.
        eventually("the ServiceImport's endpoint to respond", async || {
            let summary = ns.load("client", URL, &["-n", "20"]).await?;
            summary.all("200")?.all_from("v2").map(drop)
        })
        .await?;
        // Statuses are written after proxies get the configuration.
        eventually("ResolvedRefs to be True", async || {
            let route = ns.get(GATEWAY, "HTTPRoute", "imported").await?;
            let conditions = objects::route_conditions(&route)?;
            let (resolved, ..) = conditions.of("ResolvedRefs")?;
            anyhow::ensure!(resolved == "True", "{conditions}");
            Ok(())
        })
        .await?;
        eventually("the ServiceImport in the access log", async || {
            let lines = ns.accesses("client", "outbound", "/reviews/1").await?;
            let backend = format!("serviceimport/{}/reviews:80", ns.namespace);
            let imported = lines.iter().find(|line| line.is("backend", &backend));
            let encrypted =
                imported.is_some_and(|line| line.text("server_id").ends_with("/sa/reviews"));
            anyhow::ensure!(encrypted, "{lines:?}");
            Ok(())
        })
        .await?;
        let imports = ns.api(API, "ServiceImport");
        imports.delete("reviews", &DeleteParams::default()).await?;
        wait_for_unresolved(ns, "BackendNotFound").await
    }

    pub(super) async fn service_import_is_a_backend_while_its_crd_exists(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let backend = json!({"group": "multicluster.x-k8s.io", "kind": "ServiceImport", "name": "reviews", "port": 80});
        let rules = json!([{"backendRefs": [backend]}]);
        ns.route(objects::http_route("imported", rules)).await?;
        let definitions = ns.api(DEFINITIONS.0, DEFINITIONS.1);
        // If the cluster already has the CRD, it is kept, because it may have objects.
        if definitions.get_opt(DEFINITION).await?.is_some() {
            return check_with_crd(ns).await;
        }
        wait_for_unresolved(ns, "InvalidKind").await?;
        wait_for_code(ns, "the missing CRD to answer 500", "500").await?;
        ns.apply(definition()).await?;
        let outcome = check_with_crd(ns).await;
        let removed = definitions
            .delete(DEFINITION, &DeleteParams::default())
            .await;
        outcome?;
        removed?;
        wait_for_unresolved(ns, "InvalidKind").await
    }
}
