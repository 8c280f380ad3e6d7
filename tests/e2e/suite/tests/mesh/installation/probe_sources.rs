//! Strict pods whose probes are served to their own node only (`proxy.probeSources: node`).

cluster_tests! {
    run_installation Meshed strict_pods_serve_probes_of_their_node_only;
}

mod cases {
    use weft_e2e::host::in_url;
    use weft_e2e::release::Release;
    use weft_e2e::{TestNamespace, control_plane, objects};

    /// Returns how many requests in plain text the pod refused.
    async fn refused(ns: &TestNamespace, pod: &str) -> anyhow::Result<f64> {
        let labels = ["listener=\"inbound\"", "error_type=\"plaintext_refused\""];
        ns.metric(pod, "weft_protocol_errors_total", &labels).await
    }

    /// Returns the names of all nodes.
    async fn nodes(ns: &TestNamespace) -> anyhow::Result<Vec<String>> {
        let nodes = ns.list("v1", "Node", "").await?;
        let names = nodes.iter().filter_map(|node| {
            let labels = &node["metadata"]["labels"];
            Some(labels["kubernetes.io/hostname"].as_str()?.to_owned())
        });
        Ok(names.collect())
    }

    pub(super) async fn strict_pods_serve_probes_of_their_node_only(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let found = Release::found().await?;
        found.set(&["proxy.probeSources=node"]).await?;
        control_plane::wait_until_replaced(&ns.client, "weft-injector").await?;
        ns.set_mtls("Namespace", &ns.namespace, "strict".into())
            .await?;
        let nodes = nodes(ns).await?;
        for (number, node) in nodes.iter().enumerate() {
            let reviews = objects::reviews(&format!("v{number}"));
            ns.apply(objects::on_node(reviews, node)).await?;
            let mut plain = objects::client(&format!("plain{number}"));
            plain["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
            ns.apply(objects::on_node(plain, node)).await?;
        }
        // Ready by the readiness probe of the application, an HTTP request.
        for number in 0..nodes.len() {
            ns.wait_until_ready(&format!("plain{number}")).await?;
            let reviews = format!("reviews-v{number}");
            ns.wait_until_ready(&reviews).await?;
            let refused = refused(ns, &reviews).await?;
            anyhow::ensure!(refused == 0.0, "{reviews} refused {refused} probes");
        }
        // The same request of a pod: on the same node, and on another.
        for server in 0..nodes.len() {
            let reviews = format!("reviews-v{server}");
            let address = in_url(&ns.pod_ip(&reviews).await?);
            let url = format!("http://{address}:8080/healthz");
            for client in 0..nodes.len() {
                let plain = format!("plain{client}");
                ns.load(&plain, &url, &["-n", "5"]).await?.all("403")?;
            }
            let refused = refused(ns, &reviews).await?;
            let sent = 5.0 * nodes.len() as f64;
            anyhow::ensure!(refused == sent, "{reviews} refused {refused}, not {sent}");
            let log = ns.log(&reviews, "weft-proxy").await?;
            let lines = log.matches("request refused: a probe from").count();
            anyhow::ensure!(lines == nodes.len(), "one line for each source: {log}");
            ns.wait_until_ready(&reviews).await?;
            let restarts = ns.restarts(&reviews).await?;
            anyhow::ensure!(restarts == 0, "{reviews} was restarted");
        }
        Ok(())
    }
}
