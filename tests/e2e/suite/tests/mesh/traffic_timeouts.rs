//! Timeouts by TrafficPolicies: of gRPC calls, whose routes have no field for them.

cluster_tests! {
    run Meshed policy_limits_the_time_of_grpc_calls;
}

mod cases {
    use serde_json::json;
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    const URL: &str = "http://reviews:9000";
    const SLOW: [&str; 4] = ["--grpc", "get", "-H", "x-delay: 2000"];

    pub(super) async fn policy_limits_the_time_of_grpc_calls(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.load("client", URL, &SLOW).await?.all("OK")?;
        let target = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        let sections = json!({"timeouts": {"request": "500ms", "connect": "400ms"}});
        ns.policy(traffic_policy("reviews", target, sections))
            .await?;
        ns.load("client", URL, &SLOW)
            .await?
            .all("DeadlineExceeded")?;
        let rules = json!([{"backendRefs": [{"name": "reviews", "port": 9000}]}]);
        ns.route(objects::grpc_route("reviews", rules)).await?;
        ns.load("client", URL, &SLOW)
            .await?
            .all("DeadlineExceeded")?;
        let fast = ["--grpc", "get", "-n", "50"];
        ns.load("client", URL, &fast).await?.all("OK")?;
        ns.remove_policy("TrafficPolicy", "reviews").await?;
        eventually("the policy to be gone", async || {
            ns.load("client", URL, &SLOW).await?.all("OK").map(drop)
        })
        .await
    }
}
