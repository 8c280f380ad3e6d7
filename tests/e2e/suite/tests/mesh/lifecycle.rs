//! Servers that come and go under traffic: not one request fails.

mesh_tests! {
    run In a_server_restarted_and_scaled_under_traffic;
}

mod cases {
    use std::time::Duration;

    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};
    use weft_e2e::{Bed, eventually, objects};

    /// The pod of `objects::reviews` as a Deployment, with Kubernetes' own grace period.
    fn deployment() -> Value {
        let mut pod = objects::reviews("v1");
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        let labels = pod["metadata"]["labels"].clone();
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "reviews"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {"metadata": {"labels": labels}, "spec": pod["spec"]},
            },
        })
    }

    /// Changes the Deployment and waits until every pod is as it should be, and those that ended are gone.
    async fn change(bed: &Bed, patch: &Value) -> anyhow::Result<()> {
        let deployments = bed.api("apps/v1", "Deployment");
        deployments
            .patch("reviews", &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        eventually("the Deployment to be as wished", async || {
            let deployment = bed.get("apps/v1", "Deployment", "reviews").await?;
            let status = &deployment["status"];
            let wished = &deployment["spec"]["replicas"];
            let same = status["observedGeneration"] == deployment["metadata"]["generation"]
                && status["updatedReplicas"] == *wished
                && status["readyReplicas"] == *wished;
            anyhow::ensure!(same, "its status is {status}");
            let pods = bed.list("v1", "Pod", "app=reviews").await?.len() as u64;
            anyhow::ensure!(Some(pods) == wished.as_u64(), "there are {pods} pods");
            Ok(())
        })
        .await
    }

    pub(super) async fn a_server_restarted_and_scaled_under_traffic(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        bed.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        bed.apply(objects::client("client")).await?;
        bed.apply(deployment()).await?;
        bed.ready("client").await?;
        change(bed, &json!({"metadata": {"labels": {"e2e": "begun"}}})).await?;
        let common = [
            "--seconds",
            "50",
            "-n",
            "100000",
            "-c",
            "8",
            "--keep",
            "0",
            "--rate",
        ];
        let with = |more: &[&'static str]| [&common[..], more].concat();
        let (kept, fresh, http2, rpc) = (
            with(&["80", "--method", "POST", "--body", "2000"]),
            with(&["20", "--fresh"]),
            with(&["50", "--http2"]),
            with(&["50", "--grpc", "watch"]),
        );
        let url = "http://reviews/reviews/1";
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let annotations = json!({"e2e/restarted": "yes"});
            change(
                bed,
                &json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}),
            )
            .await?;
            change(bed, &json!({"spec": {"replicas": 5}})).await?;
            change(bed, &json!({"spec": {"replicas": 1}})).await
        };
        let (kept, fresh, http2, rpc, changed) = tokio::join!(
            bed.load("client", url, &kept),
            bed.load("client", url, &fresh),
            bed.load("client", url, &http2),
            bed.load("client", "http://reviews:9000", &rpc),
            changes,
        );
        changed?;
        for (summary, code, least) in [
            (kept?, "200", 1_000),
            (fresh?, "200", 300),
            (http2?, "200", 300),
            (rpc?, "OK", 300),
        ] {
            summary.all(code)?;
            anyhow::ensure!(
                summary.sent() >= least,
                "traffic ran all the time: {summary}"
            );
        }
        Ok(())
    }
}
