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
            anyhow::ensure!(failures(&url).await? > 0, "no request failed");
            Ok(())
        })
        .await?;
        let target = json!([{"group": "", "kind": "Namespace", "name": ns.namespace}]);
        let section = json!({"consecutiveGatewayErrors": 3, "baseEjectionTime": "10m"});
        let section = json!({"outlierDetection": section});
        ns.policy(traffic_policy("all", target, section)).await?;
        let first = failures(&url).await?;
        anyhow::ensure!(first <= 3, "{first} of 50 requests failed");
        let then = failures(&url).await?;
        anyhow::ensure!(then == 0, "{then} of 50 requests failed");
        Ok(())
    }
}
