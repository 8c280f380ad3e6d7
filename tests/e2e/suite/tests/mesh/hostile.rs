//! Bytes that make no sense on every port of the proxy and the controller: closed, counted, nothing crashes.

mesh_tests! {
    run In garbage_does_not_crash_the_proxy;
    run In garbage_does_not_crash_the_control_plane;
}

mod cases {
    use std::collections::BTreeMap;

    use anyhow::Context;
    use weft_e2e::host::in_url;
    use weft_e2e::{Bed, control_plane, objects, proxy};

    /// How the connections to each address ended: `closed`, `answered`, `open` or `refused`, with how often.
    type Ends = BTreeMap<String, BTreeMap<String, u64>>;

    /// A pod without a proxy, from which garbage arrives as it was sent.
    async fn thrower(bed: &Bed) -> anyhow::Result<()> {
        let mut pod = objects::client("thrower");
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        bed.apply(pod).await?;
        bed.ready("thrower").await?;
        Ok(())
    }

    async fn throw(bed: &Bed, ip: &str, ports: &[u16]) -> anyhow::Result<Ends> {
        let host = in_url(ip);
        let addresses: Vec<_> = ports.iter().map(|port| format!("{host}:{port}")).collect();
        let mut command = vec!["weft-shop", "garbage", "--rounds", "3", "--patience", "400"];
        for address in &addresses {
            command.extend(["--connect", address]);
        }
        let output = bed.exec("thrower", "shop", &command).await?;
        serde_json::from_str(output.trim()).with_context(|| format!("garbage printed {output}"))
    }

    /// How often connections to a port ended like this.
    fn times(ends: &Ends, ip: &str, port: u16, end: &str) -> u64 {
        let address = format!("{}:{port}", in_url(ip));
        let ends = ends.get(&address);
        ends.and_then(|ends| ends.get(end)).copied().unwrap_or(0)
    }

    pub(super) async fn garbage_does_not_crash_the_proxy(bed: &Bed) -> anyhow::Result<()> {
        bed.shop(&["v1"]).await?;
        thrower(bed).await?;
        let before = bed
            .metric("reviews-v1", "weft_protocol_errors_total", &[])
            .await?;
        let ip = bed.pod_ip("reviews-v1").await?;
        let ends = throw(bed, &ip, &[15001, 15006, 15020, 15021, 8080, 9000, 7000]).await?;
        // The ports that only redirection may reach are closed to everybody else.
        for port in [15001, 15006] {
            let taken = times(&ends, &ip, port, "answered") + times(&ends, &ip, port, "open");
            anyhow::ensure!(taken == 0, "{port} is open to strangers: {ends:?}");
        }
        for port in [15020, 15021, 8080, 9000, 7000] {
            anyhow::ensure!(
                times(&ends, &ip, port, "refused") == 0
                    && times(&ends, &ip, port, "closed") + times(&ends, &ip, port, "answered") > 0,
                "garbage on {port} is answered or closed: {ends:?}"
            );
        }

        anyhow::ensure!(
            bed.restarts("reviews-v1").await? == 0,
            "a container was started again: {ends:?}"
        );
        bed.load("client", "http://reviews/reviews/1", &["-n", "20"])
            .await?
            .all("200")?;
        bed.answered("thrower", "http://reviews/reviews/1", &[])
            .await?;
        bed.load("thrower", "http://reviews/reviews/1", &["-n", "20"])
            .await?
            .all("200")?;
        let after = bed
            .metric("reviews-v1", "weft_protocol_errors_total", &[])
            .await?;
        anyhow::ensure!(
            after > before,
            "garbage is counted: {before} before, {after} after, {ends:?}"
        );
        let logs = bed.log("reviews-v1", "weft-proxy").await?;
        anyhow::ensure!(!logs.contains("panicked"), "a task panicked: {logs}");
        Ok(())
    }

    /// What a part of the control plane counts of connections that made no sense.
    async fn counted(system: &Bed, pods: &[String]) -> anyhow::Result<Vec<f64>> {
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

    pub(super) async fn garbage_does_not_crash_the_control_plane(bed: &Bed) -> anyhow::Result<()> {
        thrower(bed).await?;
        let system = control_plane::system(&bed.client);
        let before = control_plane::restarts(&bed.client).await?;
        for (part, ports) in [
            ("weft-controller", [15012, 15020, 15021]),
            ("weft-injector", [15017, 15020, 15021]),
        ] {
            let pods = control_plane::pod_names(&bed.client, part).await?;
            let count = counted(&system, &pods).await?;
            for pod in &pods {
                let ip = system.pod_ip(pod).await?;
                let ends = throw(bed, &ip, &ports).await?;
                for port in ports {
                    let closed =
                        times(&ends, &ip, port, "closed") + times(&ends, &ip, port, "answered");
                    anyhow::ensure!(
                        closed > 0 && times(&ends, &ip, port, "refused") == 0,
                        "garbage on {port} of {pod} is answered or closed: {ends:?}"
                    );
                }
                let log = system.log(pod, "").await?;
                anyhow::ensure!(!log.contains("panicked"), "{pod} panicked: {log}");
            }
            let after = counted(&system, &pods).await?;
            anyhow::ensure!(
                count
                    .iter()
                    .zip(&after)
                    .all(|(before, after)| after > before),
                "garbage is counted by each pod of {part}: {count:?} before, {after:?} after"
            );
        }
        anyhow::ensure!(
            control_plane::restarts(&bed.client).await? == before,
            "the control plane crashed"
        );
        // It goes on serving: a new pod gets its proxy, certificate and configuration.
        bed.shop(&["v1"]).await
    }
}
