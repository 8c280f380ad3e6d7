//! TrafficPolicies of Services whose clients are Gateways.

cluster_tests! {
    run Unmeshed gateway_ejects_the_endpoint_that_fails;
    run Unmeshed gateway_makes_a_cookie_that_leads_to_one_pod;
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

    pub(super) async fn gateway_makes_a_cookie_that_leads_to_one_pod(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.deploy_gateway(edge).await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        // The Service of the route has both pods.
        let both = objects::service("reviews-v1", json!({"app": "reviews"}));
        ns.apply(both).await?;
        ns.apply(objects::reviews("v2")).await?;
        ns.wait_until_ready("reviews-v2").await?;
        let target = json!([{"group": "", "kind": "Service", "name": "reviews-v1"}]);
        let cookie = json!({"type": "Cookie", "cookie": {"name": "pod", "ttl": "1h"}});
        let section = json!({"algorithm": "ConsistentHash", "consistentHash": cookie});
        let section = json!({"loadBalancing": section});
        ns.policy(traffic_policy("sticky", target, section)).await?;
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..16 {
            let first = curl(&[&url]).await?;
            let set = first.is(200)?.header("set-cookie").unwrap_or_default();
            let attributes = "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax";
            let cookie = set.strip_suffix(attributes);
            let cookie = cookie.ok_or_else(|| anyhow::anyhow!("no cookie: {first:?}"))?;
            let version = first.json()?["version"].clone();
            for _ in 0..5 {
                let next = curl(&["--cookie", cookie, &url]).await?;
                let same = next.json()?["version"] == version;
                anyhow::ensure!(same, "{version} is left: {next:?}");
                anyhow::ensure!(next.header("set-cookie").is_none(), "{next:?}");
            }
            used.insert(version.to_string());
        }
        anyhow::ensure!(used.len() > 1, "all clients have the same pod: {used:?}");
        Ok(())
    }
}
