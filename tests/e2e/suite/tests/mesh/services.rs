//! Fields of Services and pods that hold in the mesh: traffic policies, distribution, session
//! affinity, excluded ports.

cluster_tests! {
    run Meshed excluded_inbound_ports_get_plain_text;
    run Meshed internal_traffic_policy_local_uses_only_local_endpoints;
    run Meshed same_node_endpoints_are_preferred_to_others;
    run Meshed client_ip_affinity_keeps_the_endpoint;
}

mod cases {
    use anyhow::Context;
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::host::in_url;
    use weft_e2e::{TestNamespace, eventually, objects};

    pub(super) async fn excluded_inbound_ports_get_plain_text(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.apply(objects::client("client")).await?;
        ns.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        let mut pod = objects::reviews("v1");
        pod["metadata"]["annotations"] =
            json!({"weft.dev/exclude-inbound-ports": "8080, 7001", "weft.dev/mtls": "strict"});
        ns.apply(pod).await?;
        ns.wait_until_ready("client").await?;
        ns.wait_until_ready("reviews-v1").await?;
        ns.reachable("client", "http://reviews/reviews/1", &[])
            .await?;
        // The other port still uses mutual TLS, which a strict pod requires.
        ns.reachable("client", "http://reviews:9000", &["--grpc", "get"])
            .await?;
        let ip = in_url(&ns.pod_ip("reviews-v1").await?);
        for url in [
            format!("http://{ip}:8080/reviews/1"),
            format!("http://{ip}:15020/metrics"),
            format!("http://{ip}:15021/ready"),
        ] {
            let summary = ns.load("client", &url, &["-n", "3"]).await?;
            summary.all("200").with_context(|| url)?;
        }
        Ok(())
    }

    /// Returns the names of two nodes; `None`, with a message, if there is only one.
    async fn two_nodes(ns: &TestNamespace) -> anyhow::Result<Option<[String; 2]>> {
        let nodes = ns.list("v1", "Node", "").await?;
        let names = nodes.iter().filter_map(|node| {
            let labels = &node["metadata"]["labels"];
            Some(labels["kubernetes.io/hostname"].as_str()?.to_owned())
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.truncate(2);
        let two = <[String; 2]>::try_from(names).ok();
        if two.is_none() {
            eprintln!("skipped: needs two nodes");
        }
        Ok(two)
    }

    /// Deploys a client and a version of the reviews on each node.
    async fn deploy_on_both(ns: &TestNamespace, nodes: &[String; 2]) -> anyhow::Result<()> {
        for (number, node) in nodes.iter().enumerate() {
            let (client, version) = (format!("client{number}"), format!("v{number}"));
            ns.apply(objects::on_node(objects::client(&client), node))
                .await?;
            ns.apply(objects::on_node(objects::reviews(&version), node))
                .await?;
        }
        for number in 0..2 {
            ns.wait_until_ready(&format!("client{number}")).await?;
            ns.wait_until_ready(&format!("reviews-v{number}")).await?;
        }
        Ok(())
    }

    fn service(name: &str, selector: Value, field: &str, value: &str) -> Value {
        let mut service = objects::service(name, selector);
        service["spec"][field] = value.into();
        service
    }

    /// Waits until clients on both nodes get responses only from their own node.
    async fn wait_for_same_node_responses(ns: &TestNamespace, url: &str) -> anyhow::Result<()> {
        for number in 0..2 {
            let client = format!("client{number}");
            eventually("responses from the same node only", async || {
                let summary = ns.load(&client, url, &["-n", "40"]).await?;
                summary
                    .all("200")?
                    .all_from(&format!("v{number}"))
                    .map(drop)
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn internal_traffic_policy_local_uses_only_local_endpoints(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let Some(nodes) = two_nodes(ns).await? else {
            return Ok(());
        };
        let policy = "internalTrafficPolicy";
        let (all, first) = (json!({"app": "reviews"}), json!({"version": "v0"}));
        ns.apply(service("agent", all, policy, "Local")).await?;
        ns.apply(service("first", first, policy, "Local")).await?;
        deploy_on_both(ns, &nodes).await?;
        wait_for_same_node_responses(ns, "http://agent/reviews/1").await?;
        // No endpoint on the client's node counts as no endpoints.
        let url = "http://first/reviews/1";
        ns.reachable("client0", url, &[]).await?;
        let summary = ns.load("client1", url, &["-n", "10"]).await?;
        summary.all("503").map(drop)
    }

    pub(super) async fn same_node_endpoints_are_preferred_to_others(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let Some(nodes) = two_nodes(ns).await? else {
            return Ok(());
        };
        let all = json!({"app": "reviews"});
        let near = service("near", all, "trafficDistribution", "PreferSameNode");
        ns.apply(near).await?;
        deploy_on_both(ns, &nodes).await?;
        let url = "http://near/reviews/1";
        wait_for_same_node_responses(ns, url).await?;
        // Without an endpoint on the node, others are used.
        let pods = ns.pods();
        pods.delete("reviews-v0", &DeleteParams::default()).await?;
        eventually("responses from the other node", async || {
            let summary = ns.load("client0", url, &["-n", "20"]).await?;
            summary.all("200")?.all_from("v1").map(drop)
        })
        .await
    }

    pub(super) async fn client_ip_affinity_keeps_the_endpoint(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let all = json!({"app": "reviews"});
        ns.apply(service("sticky", all, "sessionAffinity", "ClientIP"))
            .await?;
        let url = "http://sticky/reviews/1";
        eventually("all requests to reach one endpoint", async || {
            let summary = ns.load("client", url, &["-n", "40"]).await?;
            summary.all("200")?;
            let one = ["v1", "v2"]
                .iter()
                .any(|version| summary.all_from(version).is_ok());
            anyhow::ensure!(one, "{summary}");
            Ok(())
        })
        .await
    }
}
