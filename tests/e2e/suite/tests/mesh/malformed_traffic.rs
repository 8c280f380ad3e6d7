//! Garbage on every port of the proxy and of the control plane: the connection is closed and
//! counted, and nothing crashes.

cluster_tests! {
    run Meshed garbage_does_not_crash_the_proxy;
    run Meshed garbage_does_not_crash_the_control_plane;
}

mod cases {
    use std::collections::BTreeMap;

    use anyhow::Context;
    use weft_e2e::host::in_url;
    use weft_e2e::{TestNamespace, control_plane, objects, proxy};

    /// Per address, how often connections ended as `closed`, `answered`, `open` or `refused`.
    type Ends = BTreeMap<String, BTreeMap<String, u64>>;

    /// Deploys a pod without a proxy, so that garbage arrives as sent.
    async fn deploy_garbage_client(ns: &TestNamespace) -> anyhow::Result<()> {
        let mut pod = objects::client("thrower");
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(pod).await?;
        ns.wait_until_ready("thrower").await?;
        Ok(())
    }

    async fn send_garbage(ns: &TestNamespace, ip: &str, ports: &[u16]) -> anyhow::Result<Ends> {
        let host = in_url(ip);
        let addresses: Vec<_> = ports.iter().map(|port| format!("{host}:{port}")).collect();
        let mut command = vec!["weft-shop", "garbage", "--rounds", "3", "--timeout", "400"];
        for address in &addresses {
            command.extend(["--connect", address]);
        }
        let output = ns.exec("thrower", "shop", &command).await?;
        serde_json::from_str(output.trim()).with_context(|| format!("garbage printed {output}"))
    }

    /// Returns how often connections to a port ended like this.
    fn ended_as(ends: &Ends, ip: &str, port: u16, end: &str) -> u64 {
        let address = format!("{}:{port}", in_url(ip));
        let ends = ends.get(&address);
        ends.and_then(|ends| ends.get(end)).copied().unwrap_or(0)
    }

    pub(super) async fn garbage_does_not_crash_the_proxy(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        deploy_garbage_client(ns).await?;
        let before = ns
            .metric("reviews-v1", "weft_protocol_errors_total", &[])
            .await?;
        let ip = ns.pod_ip("reviews-v1").await?;
        let ends = send_garbage(ns, &ip, &[15001, 15006, 15020, 15021, 8080, 9000, 7000]).await?;
        // The redirect ports reject direct connections.
        for port in [15001, 15006] {
            let taken = ended_as(&ends, &ip, port, "answered") + ended_as(&ends, &ip, port, "open");
            anyhow::ensure!(taken == 0, "{port} accepts direct connections: {ends:?}");
        }
        for port in [15020, 15021, 8080, 9000, 7000] {
            anyhow::ensure!(
                ended_as(&ends, &ip, port, "refused") == 0
                    && ended_as(&ends, &ip, port, "closed")
                        + ended_as(&ends, &ip, port, "answered")
                        > 0,
                "garbage on {port} should be answered or closed: {ends:?}"
            );
        }

        anyhow::ensure!(
            ns.restarts("reviews-v1").await? == 0,
            "a container was restarted: {ends:?}"
        );
        ns.load("client", "http://reviews/reviews/1", &["-n", "20"])
            .await?
            .all("200")?;
        ns.reachable("thrower", "http://reviews/reviews/1", &[])
            .await?;
        ns.load("thrower", "http://reviews/reviews/1", &["-n", "20"])
            .await?
            .all("200")?;
        let after = ns
            .metric("reviews-v1", "weft_protocol_errors_total", &[])
            .await?;
        anyhow::ensure!(
            after > before,
            "garbage should be counted: {before} before, {after} after, {ends:?}"
        );
        let logs = ns.log("reviews-v1", "weft-proxy").await?;
        anyhow::ensure!(!logs.contains("panicked"), "a task panicked: {logs}");
        Ok(())
    }

    /// Returns the protocol errors that each pod has counted.
    async fn protocol_errors(system: &TestNamespace, pods: &[String]) -> anyhow::Result<Vec<f64>> {
        let mut counts = Vec::new();
        for pod in pods {
            let metrics = system.metrics(pod).await?;
            counts.push(
                proxy::sum(&metrics, "weft_protocol_errors_total", &[])
                    + proxy::sum(&metrics, "weft_injector_tls_handshake_failures_total", &[]),
            );
        }
        Ok(counts)
    }

    pub(super) async fn garbage_does_not_crash_the_control_plane(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy_garbage_client(ns).await?;
        let system = control_plane::system(&ns.client);
        let before = control_plane::restarts(&ns.client).await?;
        for (part, ports) in [
            ("weft-controller", [15012, 15020, 15021]),
            ("weft-injector", [15017, 15020, 15021]),
        ] {
            let pods = control_plane::pod_names(&ns.client, part).await?;
            let count = protocol_errors(&system, &pods).await?;
            for pod in &pods {
                let ip = system.pod_ip(pod).await?;
                let ends = send_garbage(ns, &ip, &ports).await?;
                for port in ports {
                    let closed = ended_as(&ends, &ip, port, "closed")
                        + ended_as(&ends, &ip, port, "answered");
                    anyhow::ensure!(
                        closed > 0 && ended_as(&ends, &ip, port, "refused") == 0,
                        "garbage on {port} of {pod} should be answered or closed: {ends:?}"
                    );
                }
                let log = system.log(pod, "").await?;
                anyhow::ensure!(!log.contains("panicked"), "{pod} panicked: {log}");
            }
            let after = protocol_errors(&system, &pods).await?;
            anyhow::ensure!(
                count
                    .iter()
                    .zip(&after)
                    .all(|(before, after)| after > before),
                "each pod of {part} should count garbage: {count:?} before, {after:?} after"
            );
        }
        anyhow::ensure!(
            control_plane::restarts(&ns.client).await? == before,
            "the control plane crashed"
        );
        // The control plane still serves: new pods get a proxy, a certificate and configuration.
        ns.deploy_shop(&["v1"]).await
    }
}
