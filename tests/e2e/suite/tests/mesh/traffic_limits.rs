//! TrafficPolicies with `limits`: how many requests a pod, and a client, has at a time.

cluster_tests! {
    run Meshed pod_gets_no_more_requests_than_its_limit;
    run Meshed client_sends_no_more_requests_than_its_limit;
}

mod cases {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, eventually, objects};

    /// A response takes a fifth of a second.
    const URL: &str = "http://reviews/delay/200";

    fn service() -> Value {
        json!([{"group": "", "kind": "Service", "name": "reviews"}])
    }

    /// Waits until more than five requests at a time are turned away for this reason.
    async fn in_force(ns: &TestNamespace, pod: &str, error_type: &str) -> anyhow::Result<()> {
        eventually("the limit to be in force", async || {
            let asked = ns.load("client", URL, &["-n", "30", "-c", "15"]).await?;
            anyhow::ensure!(asked.code("503") > 0, "no request was turned away: {asked}");
            anyhow::ensure!(
                asked.code("503") + asked.code("200") == asked.sent(),
                "{asked}"
            );
            Ok(())
        })
        .await?;
        let label = format!("error_type=\"{error_type}\"");
        let shed = ns
            .metric(pod, "weft_overload_shed_total", &[&label])
            .await?;
        anyhow::ensure!(shed > 0.5, "{pod} counts {shed} requests as {error_type}");
        Ok(())
    }

    pub(super) async fn pod_gets_no_more_requests_than_its_limit(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.apply(objects::client("second")).await?;
        ns.wait_until_ready("second").await?;
        let limit = json!({"limits": {"server": {"maxRequests": 5}}});
        ns.policy(traffic_policy("reviews", service(), limit))
            .await?;
        in_force(ns, "reviews-v1", "server_request_limit").await?;

        let limit = json!({"limits": {"server": {
            "maxRequests": 5, "maxPendingRequests": 100, "queueTimeout": "30s",
        }}});
        ns.apply(traffic_policy("reviews", service(), limit))
            .await?;
        eventually("requests to wait", async || {
            let asked = ns.load("client", URL, &["-n", "30", "-c", "15"]).await?;
            asked.all("200")?;
            Ok(())
        })
        .await?;
        // Both clients together have five requests at a time, a fifth of a second each.
        let begun = Instant::now();
        let arguments = ["-n", "50", "-c", "25"];
        let (one, other) = tokio::join!(
            ns.load("client", URL, &arguments),
            ns.load("second", URL, &arguments),
        );
        let took = begun.elapsed();
        one?.all("200")?;
        other?.all("200")?;
        anyhow::ensure!(
            took >= Duration::from_secs(4),
            "more than 5 at a time: {took:?}"
        );
        ns.remove_policy("TrafficPolicy", "reviews").await?;
        eventually("the limit to be gone", async || {
            let begun = Instant::now();
            let asked = ns.load("client", URL, &["-n", "50", "-c", "50"]).await?;
            asked.all("200")?;
            let took = begun.elapsed();
            anyhow::ensure!(took < Duration::from_secs(2), "requests wait: {took:?}");
            Ok(())
        })
        .await
    }

    pub(super) async fn client_sends_no_more_requests_than_its_limit(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let limit = json!({"limits": {"client": {"maxRequests": 5}}});
        ns.policy(traffic_policy("reviews", service(), limit))
            .await?;
        in_force(ns, "client", "client_request_limit").await?;
        let few = ns.load("client", URL, &["-n", "25", "-c", "5"]).await?;
        few.all("200")?;
        Ok(())
    }
}
