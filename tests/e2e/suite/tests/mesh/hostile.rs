//! Bytes that make no sense on every port of the proxy and the controller: closed, counted, nothing crashes.

mesh_tests! {
    run In garbage_on_every_port_of_the_proxy;
    run In garbage_on_every_port_of_the_control_plane;
}

mod cases {
    use std::collections::BTreeMap;

    use anyhow::Context;
    use weft_e2e::{Bed, control_plane, objects};

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
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        let addresses: Vec<_> = ports.iter().map(|port| format!("{host}:{port}")).collect();
        let mut command = vec!["weft-shop", "garbage", "--rounds", "4", "--patience", "400"];
        for address in &addresses {
            command.extend(["--connect", address]);
        }
        let output = bed.exec("thrower", "shop", &command).await?;
        serde_json::from_str(output.trim()).with_context(|| format!("garbage printed {output}"))
    }

    pub(super) async fn garbage_on_every_port_of_the_proxy(bed: &Bed) -> anyhow::Result<()> {
        bed.shop(&["v1"]).await?;
        thrower(bed).await?;
        let before = bed
            .metric("reviews-v1", "weft_protocol_errors_total", &[])
            .await?;
        let ip = bed.pod_ip("reviews-v1").await?;
        let ends = throw(bed, &ip, &[15001, 15006, 15020, 15021, 8080, 9000, 7000]).await?;
        let closed = ends
            .get(&format!("{ip}:8080"))
            .and_then(|ends| ends.get("closed"))
            .copied();
        anyhow::ensure!(closed.unwrap_or(0) > 0, "garbage is closed: {ends:?}");

        anyhow::ensure!(
            bed.restarts("reviews-v1").await? == 0,
            "a container was started again: {ends:?}"
        );
        bed.load("client", "http://reviews/reviews/1", &["-n", "20"])
            .await?
            .all("200")?;
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
        let panicked = bed
            .access_log("reviews-v1")
            .await?
            .iter()
            .any(|line| line.text("error").contains("panic"));
        anyhow::ensure!(!panicked, "a request panicked");
        Ok(())
    }

    pub(super) async fn garbage_on_every_port_of_the_control_plane(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        thrower(bed).await?;
        let system = control_plane::system(&bed.client);
        let before = control_plane::restarts(&bed.client).await?;
        for (part, ports) in [
            ("weft-controller", [15012, 15020, 15021]),
            ("weft-injector", [15017, 15020, 15021]),
        ] {
            for pod in control_plane::pod_names(&bed.client, part).await? {
                let ends = throw(bed, &system.pod_ip(&pod).await?, &ports).await?;
                let refused: u64 = ends.values().filter_map(|ends| ends.get("refused")).sum();
                anyhow::ensure!(refused == 0, "a port of {pod} stopped listening: {ends:?}");
            }
        }
        anyhow::ensure!(
            control_plane::restarts(&bed.client).await? == before,
            "the control plane crashed"
        );
        // It goes on serving: a new pod gets its proxy, certificate and configuration.
        bed.shop(&["v1"]).await
    }
}
