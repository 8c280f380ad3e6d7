//! TrafficPolicies in the mesh: what clients notice of an endpoint that fails, and the statuses.

cluster_tests! {
    run Meshed failing_endpoint_is_ejected_by_the_policy;
    run Meshed traffic_policy_statuses_name_the_reason;
    run_busy Meshed traffic_policy_changes_fail_no_request;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    const URL: &str = "http://reviews/reviews/1";

    fn service() -> Value {
        json!([{"group": "", "kind": "Service", "name": "reviews"}])
    }

    fn outlier_detection() -> Value {
        json!({"outlierDetection": {"consecutiveGatewayErrors": 5, "baseEjectionTime": "10m"}})
    }

    /// Deploys the shop with three versions of the reviews, of which one fails.
    async fn deploy(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        ns.apply(objects::failing_reviews("v3")).await?;
        ns.wait_until_ready("reviews-v3").await?;
        eventually("the failing endpoint to be used", async || {
            let asked = ns.load("client", URL, &["-n", "50"]).await?;
            anyhow::ensure!(asked.code("503") > 0, "no request failed");
            Ok(())
        })
        .await
    }

    pub(super) async fn failing_endpoint_is_ejected_by_the_policy(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        ns.policy(traffic_policy("reviews", service(), outlier_detection()))
            .await?;
        let first = ns.load("client", URL, &["-n", "500"]).await?;
        let failed = first.code("503");
        anyhow::ensure!(failed <= 10, "{failed} of 500 requests failed");
        ns.load("client", URL, &["-n", "500"]).await?.all("200")?;
        let name = "weft_outlier_ejections_total";
        let labels = [
            "reason=\"consecutive_gateway_errors\"",
            "result=\"ejected\"",
        ];
        let ejected = ns.metric("client", name, &labels).await?;
        anyhow::ensure!((ejected - 1.0).abs() < 0.5, "{ejected} ejections");
        ns.remove_policy("TrafficPolicy", "reviews").await?;
        eventually("the policy to be gone", async || {
            let asked = ns.load("client", URL, &["-n", "50"]).await?;
            anyhow::ensure!(asked.code("503") > 0, "the endpoint is still ejected");
            Ok(())
        })
        .await
    }

    pub(super) async fn traffic_policy_statuses_name_the_reason(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.policy(traffic_policy("first", service(), outlier_detection()))
            .await?;
        ns.apply(traffic_policy("second", service(), outlier_detection()))
            .await?;
        let absent = json!([{"group": "", "kind": "Service", "name": "absent"}]);
        ns.apply(traffic_policy("absent", absent, outlier_detection()))
            .await?;
        let other = json!([{"group": "", "kind": "Namespace", "name": "kube-system"}]);
        ns.apply(traffic_policy("other", other, outlier_detection()))
            .await?;
        for (name, reason) in [
            ("second", "Conflicted"),
            ("absent", "TargetNotFound"),
            ("other", "Invalid"),
        ] {
            eventually(&format!("{name} to be {reason}"), async || {
                let conditions = ns.policy_conditions("TrafficPolicy", name).await?;
                anyhow::ensure!(conditions.of("Accepted")?.1 == reason, "{conditions}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn traffic_policy_changes_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let changes = async {
            for count in [5, 10, 20] {
                let section = json!({"outlierDetection": {"consecutive5xx": count}});
                ns.policy(traffic_policy("reviews", service(), section))
                    .await?;
            }
            ns.remove_policy("TrafficPolicy", "reviews").await
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()
    }
}
