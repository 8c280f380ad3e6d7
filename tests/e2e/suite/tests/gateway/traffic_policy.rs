//! TrafficPolicies of Services whose clients are Gateways.

cluster_tests! {
    run Unmeshed gateway_ejects_the_endpoint_that_fails;
}

mod cases {
    use serde_json::json;
    use weft_e2e::gateways::{gateway, listener};
    use weft_e2e::host::{curl, in_url};
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    /// Returns how many of 50 requests failed.
    async fn failures(url: &str) -> anyhow::Result<usize> {
        let mut failed = 0;
        for _ in 0..50 {
            failed += usize::from(curl(&[url]).await?.is(200).is_err());
        }
        Ok(failed)
    }

    pub(super) async fn gateway_ejects_the_endpoint_that_fails(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.deploy_gateway(edge).await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        // The Service of the route has both pods.
        let both = objects::service("reviews-v1", json!({"app": "reviews"}));
        ns.apply(both).await?;
        ns.apply(objects::failing_reviews("v3")).await?;
        ns.wait_until_ready("reviews-v3").await?;
        eventually("the failing endpoint to be used", async || {
            let failed = failures(&url).await?;
            anyhow::ensure!(failed > 3, "{failed} of 50 requests failed");
            Ok(())
        })
        .await?;
        let target = json!([{"group": "", "kind": "Namespace", "name": ns.namespace}]);
        let section = json!({"consecutiveGatewayErrors": 3, "baseEjectionTime": "10m"});
        let section = json!({"outlierDetection": section});
        ns.policy(traffic_policy("all", target, section)).await?;
        // The balancer may leave the endpoint alone for a while, so that it is ejected late.
        let mut failed = 0;
        for _ in 0..3 {
            failed += failures(&url).await?;
        }
        anyhow::ensure!(failed <= 3, "{failed} of 150 requests failed");
        Ok(())
    }
}
