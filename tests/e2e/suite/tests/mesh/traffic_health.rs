//! Health checks of TrafficPolicies in the mesh: what clients notice of an unhealthy endpoint.

cluster_tests! {
    run Meshed unhealthy_endpoint_gets_no_requests;
    run_busy Meshed health_checks_that_come_and_go_fail_no_request;
}

mod cases {
    use std::time::Duration;

    use serde_json::{Value, json};
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    const URL: &str = "http://reviews/reviews/1";

    fn checks(section: Value) -> Value {
        let service = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        traffic_policy("reviews", service, json!({"healthChecks": section}))
    }

    fn get(path: &str) -> Value {
        json!({"interval": "1s", "unhealthyThreshold": 2, "http": {"path": path}})
    }

    pub(super) async fn unhealthy_endpoint_gets_no_requests(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        // Ready by Kubernetes' probe, and failing what is checked.
        ns.apply(objects::failing_reviews("v3")).await?;
        ns.wait_until_ready("reviews-v3").await?;
        ns.policy(checks(get("/reviews/1"))).await?;
        eventually("the failing endpoint to be unhealthy", async || {
            ns.load("client", URL, &["-n", "20"]).await?;
            let name = "weft_health_unhealthy_endpoints";
            let unhealthy = ns.metric("client", name, &[]).await?;
            anyhow::ensure!((unhealthy - 1.0).abs() < 0.5, "{unhealthy} endpoints");
            Ok(())
        })
        .await?;
        ns.load("client", URL, &["-n", "500"]).await?.all("200")?;
        // Another check passes.
        ns.policy(checks(get("/healthz"))).await?;
        eventually("the endpoint to be used again", async || {
            let asked = ns.load("client", URL, &["-n", "50"]).await?;
            anyhow::ensure!(asked.code("503") > 0, "the endpoint is still unhealthy");
            Ok(())
        })
        .await
    }

    pub(super) async fn health_checks_that_come_and_go_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let changes = async {
            // All pass, none does, and connections.
            for check in [
                get("/healthz"),
                get("/absent"),
                json!({"interval": "1s", "tcp": {}}),
            ] {
                ns.policy(checks(check)).await?;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
            ns.remove_policy("TrafficPolicy", "reviews").await
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()
    }
}
