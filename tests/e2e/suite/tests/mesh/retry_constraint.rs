//! XBackendTrafficPolicies: the retry budget of a Service, and the statuses.

cluster_tests! {
    run Meshed exhausted_retry_constraint_is_answered_with_503;
}

mod cases {
    use anyhow::Context;
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::{TestNamespace, eventually, objects};

    const VERSION: &str = "gateway.networking.x-k8s.io/v1alpha1";
    const KIND: &str = "XBackendTrafficPolicy";
    const URL: &str = "http://reviews/status/500";

    fn constraint(name: &str, percent: u32) -> Value {
        json!({
            "apiVersion": VERSION, "kind": KIND, "metadata": {"name": name},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
                "retryConstraint": {
                    "budget": {"percent": percent, "interval": "1h"},
                    "minRetryRate": {"count": 1, "interval": "1h"},
                },
            },
        })
    }

    async fn wait_for(ns: &TestNamespace, name: &str, reason: &str) -> anyhow::Result<()> {
        eventually(&format!("{name} to be {reason}"), async || {
            let policy = ns.get(VERSION, KIND, name).await?;
            let first = &policy["status"]["ancestors"][0];
            let generation = &policy["metadata"]["generation"];
            let conditions = objects::conditions(&first["conditions"], generation)?;
            anyhow::ensure!(conditions.of("Accepted")?.1 == reason, "{conditions}");
            Ok(())
        })
        .await
    }

    pub(super) async fn exhausted_retry_constraint_is_answered_with_503(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([{
            "retry": {"attempts": 1, "codes": [500]},
            "backendRefs": [{"name": "reviews", "port": 80}],
        }]);
        ns.accepted_route(objects::route("HTTPRoute", "reviews", "reviews", 80, rules))
            .await?;
        let asked = ["-n", "20"];
        ns.load("client", URL, &asked).await?.all("500")?;
        ns.apply(constraint("first", 0)).await?;
        wait_for(ns, "first", "Accepted").await?;
        ns.apply(constraint("second", 100)).await?;
        wait_for(ns, "second", "Conflicted").await?;
        // Of an hour's one retry none is left.
        eventually("the constraint to be in force", async || {
            ns.load("client", URL, &asked).await?.all("503").map(drop)
        })
        .await?;
        let policies = ns.api(VERSION, KIND);
        for name in ["first", "second"] {
            let removed = policies.delete(name, &DeleteParams::default()).await;
            removed.with_context(|| format!("deleting {name}"))?;
        }
        eventually("the constraint to be gone", async || {
            ns.load("client", URL, &asked).await?.all("500").map(drop)
        })
        .await
    }
}
