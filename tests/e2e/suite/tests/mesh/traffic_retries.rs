//! Retries by TrafficPolicies: of HTTP without a route, and of gRPC calls by their status.

cluster_tests! {
    run Meshed policy_retries_requests_and_grpc_calls;
}

mod cases {
    use serde_json::json;
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    const HTTP: &str = "http://reviews/reviews/1";
    const GRPC: &str = "http://reviews:9000";

    pub(super) async fn policy_retries_requests_and_grpc_calls(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        ns.apply(objects::failing_reviews("v3")).await?;
        ns.wait_until_ready("reviews-v3").await?;
        let http = ["-n", "50"];
        let grpc = ["--grpc", "get", "-n", "50"];
        let failing = async |what: &str| {
            eventually(what, async || {
                let asked = ns.load("client", HTTP, &http).await?;
                anyhow::ensure!(asked.code("503") > 0, "no request failed");
                let called = ns.load("client", GRPC, &grpc).await?;
                anyhow::ensure!(called.code("Unavailable") > 0, "no call failed");
                Ok(())
            })
            .await
        };
        failing("the failing endpoint to be used").await?;
        // A GRPCRoute has no field for retries.
        let rules = json!([{"backendRefs": [{"name": "reviews", "port": 9000}]}]);
        ns.route(objects::grpc_route("reviews", rules)).await?;
        let target = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        let sections = json!({
            "retries": {
                "attempts": 3, "statusCodes": [503], "grpcStatuses": ["Unavailable"],
            },
            "retryBudget": {"percent": 100, "minPerSecond": 1000},
        });
        ns.policy(traffic_policy("reviews", target, sections))
            .await?;
        ns.load("client", HTTP, &["-n", "300"]).await?.all("200")?;
        let calls = ["--grpc", "get", "-n", "300"];
        ns.load("client", GRPC, &calls).await?.all("OK")?;
        let name = "weft_request_retries_total";
        let retried = ns.metric("client", name, &["result=\"succeeded\""]).await?;
        anyhow::ensure!(retried > 0.0, "no request was sent again");
        ns.remove_policy("TrafficPolicy", "reviews").await?;
        failing("the policy to be gone").await
    }
}
