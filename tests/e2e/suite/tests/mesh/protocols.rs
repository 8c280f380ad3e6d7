//! Destinations that need a cluster: pods of a StatefulSet by DNS name, headless Services, and the
//! pod itself.

cluster_tests! {
    run Meshed stateful_set_pods_are_reached_by_dns_name;
    run Meshed pod_reaches_itself;
}

mod cases {
    use serde_json::json;
    use weft_e2e::host::in_url;
    use weft_e2e::objects;
    use weft_e2e::{TestNamespace, eventually};

    pub(super) async fn stateful_set_pods_are_reached_by_dns_name(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.apply(objects::client("client")).await?;
        let mut headless = objects::service("named", json!({"app": "named"}));
        headless["spec"]["clusterIP"] = "None".into();
        ns.apply(headless).await?;
        let mut template = objects::reviews("v1");
        template["metadata"] = json!({"labels": {"app": "named"}});
        ns.apply(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "named"},
            "spec": {
                "serviceName": "named", "replicas": 2, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": {"app": "named"}},
                "template": {"metadata": template["metadata"], "spec": template["spec"]},
            },
        }))
        .await?;
        for pod in ["client", "named-0", "named-1"] {
            ns.wait_until_ready(pod).await?;
        }
        for pod in ["named-0", "named-1"] {
            let path = format!("/reviews/{pod}");
            let url = format!("http://{pod}.named:8080{path}");
            let response = eventually("the pod's DNS name to resolve", async || {
                let summary = ns.load("client", &url, &["-n", "5", "--keep", "5"]).await?;
                summary.all("200").cloned()
            });
            let answer = response.await?.first_response();
            anyhow::ensure!(answer.body()["pod"] == pod, "{:?}", answer.body());
            let grpc = format!("http://{pod}.named:9000");
            let summary = ns.load("client", &grpc, &["--grpc", "watch"]).await?;
            anyhow::ensure!(
                summary.all("OK")?.first_response().body()["pod"] == pod,
                "{summary}"
            );
            eventually("the pod in the access log", async || {
                let lines = ns.accesses("client", "outbound", &path).await?;
                let logged = |line: &weft_e2e::Access| {
                    line.text("server_id").ends_with("/sa/reviews") && line.is("backend", "pod")
                };
                anyhow::ensure!(lines.iter().all(logged), "{lines:?}");
                Ok(())
            })
            .await?;
        }
        // A server-first protocol through the headless Service: any of its pods.
        let talk = [
            "weft-shop",
            "talk",
            "--connect",
            "named:7001",
            "--listen-first",
        ];
        let received = ns.exec("client", "shop", &talk).await?;
        anyhow::ensure!(received == "220 reviews v1\r\n", "{received:?}");
        Ok(())
    }

    /// Through its Service, of which it is the only endpoint, and by its own address.
    pub(super) async fn pod_reaches_itself(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let own = in_url(&ns.pod_ip("reviews-v1").await?);
        for (http, grpc) in [
            (
                "http://reviews/reviews/self".to_owned(),
                "http://reviews:9000".to_owned(),
            ),
            (
                format!("http://{own}:8080/reviews/self"),
                format!("http://{own}:9000"),
            ),
            (
                "http://localhost:8080/reviews/self".to_owned(),
                "http://localhost:9000".to_owned(),
            ),
        ] {
            let summary = ns.load("reviews-v1", &http, &["-n", "10"]).await?;
            summary.all("200")?.all_from("v1")?;
            let summary = ns
                .load("reviews-v1", &http, &["-n", "10", "--http2"])
                .await?;
            summary.all("200")?.all_from("v1")?;
            let summary = ns.load("reviews-v1", &grpc, &["--grpc", "get"]).await?;
            summary.all("OK")?.all_from("v1")?;
        }
        let talk = [
            "weft-shop",
            "talk",
            "--connect",
            "reviews:7001",
            "--listen-first",
        ];
        let received = ns.exec("reviews-v1", "shop", &talk).await?;
        anyhow::ensure!(received == "220 reviews v1\r\n", "{received:?}");
        // Strict mode does not reject the pod's requests to itself.
        ns.set_mtls("Pod", "reviews-v1", "strict".into()).await?;
        for _ in 0..4 {
            let summary = ns
                .load("reviews-v1", "http://reviews/reviews/self", &[])
                .await?;
            summary.all("200")?;
        }
        Ok(())
    }
}
