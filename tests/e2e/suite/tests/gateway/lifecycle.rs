//! Gateways restarted, scaled and edited under traffic: no request fails.

cluster_tests! {
    run_busy Unmeshed gateway_rollout_and_scaling_fail_no_request;
    run_alone_long Unmeshed controller_restart_and_edits_fail_no_request;
}

mod cases {
    use std::time::Duration;

    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener, parameters, route, with_parameters};
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, control_plane, eventually};

    /// The ports of the traffic: HTTP, and gRPC.
    fn listeners() -> Value {
        json!([listener("http", "HTTP", 80), listener("grpc", "HTTP", 9000)])
    }

    fn replicas(count: u32) -> Value {
        parameters("edge", json!({"replicas": count.to_string()}))
    }

    fn edge(listeners: Value) -> Value {
        with_parameters(gateway("edge", listeners), "edge")
    }

    /// Routes this percentage to v1, the rest to v2.
    fn split(v1: u32) -> Value {
        let rules = json!([{"backendRefs": [to("v1", v1), to("v2", 100 - v1)]}]);
        route("HTTPRoute", "reviews", "edge", "http", rules)
    }

    /// Deploys a Gateway `edge` in front of the reviews, and a client.
    async fn deploy(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.apply(replicas(1)).await?;
        ns.apply(edge(listeners())).await?;
        ns.apply(objects::client("client")).await?;
        ns.deploy_reviews("v1").await?;
        ns.deploy_reviews("v2").await?;
        ns.wait_until_ready("client").await?;
        ns.wait_until_programmed("edge").await?;
        ns.gateway_route(split(50)).await?;
        let rules = json!([{"backendRefs": [{"name": "reviews-v1", "port": 9000}]}]);
        ns.gateway_route(route("GRPCRoute", "reviews", "edge", "grpc", rules))
            .await?;
        ns.reachable("client", "http://edge-weft/reviews/1", &[])
            .await?;
        ns.reachable("client", "http://edge-weft:9000", &["--grpc", "watch"])
            .await
    }

    async fn restart_gateway(ns: &TestNamespace) -> anyhow::Result<()> {
        let annotations = json!({"e2e/restarted": "yes"});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let deployments = ns.api("apps/v1", "Deployment");
        deployments
            .patch("edge-weft", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        ns.gateway_pods("edge", 1).await.map(drop)
    }

    pub(super) async fn gateway_rollout_and_scaling_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            restart_gateway(ns).await?;
            for count in [5, 1] {
                ns.apply(replicas(count)).await?;
                ns.gateway_pods("edge", count.into()).await?;
            }
            Ok(())
        };
        let ((), traffic) = ns.under_traffic("client", "edge-weft", changes).await?;
        traffic.as_expected()
    }

    pub(super) async fn controller_restart_and_edits_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let pods = async || {
            let labels = "gateway.networking.k8s.io/gateway-name=edge";
            let pods = ns.list("v1", "Pod", labels).await?;
            let names = pods.iter().map(|pod| pod["metadata"]["name"].clone());
            anyhow::Ok(names.collect::<Vec<Value>>())
        };
        let before = pods().await?;
        let changes = async {
            for step in 0..10 {
                ns.apply(split(step * 37 % 101)).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let mut more = listeners();
            if let Some(all) = more.as_array_mut() {
                all.insert(0, listener("more", "HTTP", 8090));
            }
            let with = ns.gateway(edge(more)).await?;
            eventually("the new listener", async || {
                let reply = weft_e2e::host::get(&with, 8090, "any", "/").await?;
                reply.is(404).map(drop)
            })
            .await?;
            ns.gateway(edge(listeners())).await?;
            control_plane::restart(&ns.client, "weft-controller").await?;
            control_plane::restart(&ns.client, "weft-provisioner").await?;
            ns.gateway_route(split(30)).await
        };
        let ((), traffic) = ns.under_traffic("client", "edge-weft", changes).await?;
        traffic.as_expected()?;
        anyhow::ensure!(pods().await? == before, "edits must not replace pods");
        Ok(())
    }
}
