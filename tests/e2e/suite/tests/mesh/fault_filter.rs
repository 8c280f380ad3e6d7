//! FaultFilters of routes in the mesh: what requests get, and the status of the route.

cluster_tests! {
    run Meshed fault_filter_answers_requests_of_its_rule;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, to};
    use weft_e2e::policies::VERSION;
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";

    fn fault(spec: Value) -> Value {
        json!({
            "apiVersion": VERSION, "kind": "FaultFilter", "metadata": {"name": "chaos"},
            "spec": spec,
        })
    }

    /// Waits until all requests get the status.
    async fn all_get(ns: &TestNamespace, code: &str) -> anyhow::Result<()> {
        eventually(&format!("requests to get {code}"), async || {
            ns.load("client", URL, &["-n", "20"]).await?.all(code)?;
            Ok(())
        })
        .await
    }

    pub(super) async fn fault_filter_answers_requests_of_its_rule(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let extension = json!({"group": "policy.weft.dev", "kind": "FaultFilter", "name": "chaos"});
        let filter = json!({"type": "ExtensionRef", "extensionRef": extension});
        let rules = json!([{"filters": [filter], "backendRefs": [to("v1", 1)]}]);
        // The filter does not exist yet.
        let conditions = ns.route(objects::http_route("chaos", rules)).await?;
        conditions.is_false("ResolvedRefs", "FilterNotFound", &["FaultFilter", "chaos"])?;
        let (accepted, ..) = conditions.of("Accepted")?;
        anyhow::ensure!(accepted == "True", "{conditions}");
        all_get(ns, "500").await?;

        ns.apply(fault(json!({"abort": {"httpStatus": 418}})))
            .await?;
        all_get(ns, "418").await?;
        let name = "weft_injected_faults_total";
        let labels = ["direction=\"outbound\"", "fault=\"abort\""];
        let injected = ns.metric("client", name, &labels).await?;
        anyhow::ensure!(injected >= 20.0, "{injected} faults");
        let route = ns.get(objects::GATEWAY, "HTTPRoute", "chaos").await?;
        let conditions = objects::route_conditions(&route)?;
        anyhow::ensure!(conditions.of("ResolvedRefs")?.0 == "True", "{conditions}");

        // Requests without the header are not concerned.
        let header = json!({"name": "x-chaos"});
        let spec = json!({"header": header, "abort": {"httpStatus": 418}});
        ns.apply(fault(spec)).await?;
        all_get(ns, "200").await
    }
}
