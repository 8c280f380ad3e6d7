//! Parts of the mesh and of the cluster that are restarted, killed, hung or gone, under 500 requests a second.

mesh_tests! {
    run_alone In control_plane_restarts_fail_no_request;
    run_alone In controller_outage_fails_no_request;
    run_alone In hung_controller_is_detected;
    run_alone In lost_node_gets_no_requests_until_it_returns;
}

mod cases {
    use std::time::{Duration, Instant, SystemTime};

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::{Bed, control_plane, eventually, eventually_within, full_or, machine, objects};

    const CONTROLLER: &str = "weft-controller";
    const URL: &str = "http://reviews/reviews/1";

    /// What changes now takes effect: the proxies follow a controller.
    async fn obeyed(bed: &Bed) -> anyhow::Result<()> {
        let rules = json!([{"backendRefs": [objects::to("v2", 1)]}]);
        bed.good_route(objects::http_route("split", rules)).await?;
        eventually("the new configuration to be in force", async || {
            let summary = bed.load("client", URL, &["-n", "10"]).await?;
            summary.all_from("v2").map(drop)
        })
        .await?;
        let routes = bed.api(objects::GATEWAY, "HTTPRoute");
        routes.delete("split", &Default::default()).await?;
        Ok(())
    }

    pub(super) async fn control_plane_restarts_fail_no_request(bed: &Bed) -> anyhow::Result<()> {
        bed.shop(&["v1", "v2"]).await?;
        let changes = async {
            for _ in 0..full_or(10, 1) {
                control_plane::restart(&bed.client, CONTROLLER).await?;
                // And once without a new one there before the old one is gone.
                control_plane::kill(&bed.client, CONTROLLER).await?;
                control_plane::restart(&bed.client, "weft-injector").await?;
                control_plane::scale(&bed.client, CONTROLLER, 3).await?;
                control_plane::restart(&bed.client, CONTROLLER).await?;
                control_plane::scale(&bed.client, CONTROLLER, 1).await?;
            }
            Ok(())
        };
        let outcome = bed.under_traffic("client", "reviews", changes).await;
        // Whatever happened: the cluster is left as it was found.
        control_plane::scale(&bed.client, CONTROLLER, 1).await?;
        outcome?.1.as_expected()?;
        obeyed(bed).await
    }

    pub(super) async fn controller_outage_fails_no_request(bed: &Bed) -> anyhow::Result<()> {
        bed.shop(&["v1", "v2"]).await?;
        let away = full_or(Duration::from_secs(600), Duration::from_secs(20));
        let changes = async {
            control_plane::scale(&bed.client, CONTROLLER, 0).await?;
            tokio::time::sleep(away).await;
            // Known since `shop`, and not used since.
            let idle = ["-n", "20", "--fresh"];
            let idle = bed
                .load("client", "http://reviews-v2/reviews/1", &idle)
                .await?;
            idle.all("200")?.all_from("v2")?;
            Ok(())
        };
        let outcome = bed.under_traffic("client", "reviews", changes).await;
        control_plane::scale(&bed.client, CONTROLLER, 1).await?;
        outcome?.1.as_expected()?;
        let to_idle = bed.accesses("client", "outbound", "/reviews/").await?;
        let last = to_idle
            .iter()
            .rfind(|entry| entry.text("authority") == "reviews-v2");
        let last = last.context("the idle destination is in the access log")?;
        anyhow::ensure!(
            !last.text("server_id").is_empty(),
            "by mutual TLS: {last:?}"
        );
        obeyed(bed).await
    }

    /// Whether the client's proxy has a stream from the controller.
    async fn connected(bed: &Bed) -> anyhow::Result<bool> {
        Ok(bed.metric("client", "weft_config_connected", &[]).await? > 0.0)
    }

    pub(super) async fn hung_controller_is_detected(bed: &Bed) -> anyhow::Result<()> {
        if let Some(why) = machine::out_of_reach() {
            eprintln!("{why}");
            return Ok(());
        }
        bed.shop(&["v1", "v2"]).await?;
        let pods = control_plane::pod_names(&bed.client, CONTROLLER).await?;
        let name = pods.first().context("a controller")?;
        let pod = control_plane::system(&bed.client)
            .get("v1", "Pod", name)
            .await?;
        let changes = async {
            machine::signal(&pod, "controller", "STOP").await?;
            let hung = Instant::now();
            let noticed = eventually_within(
                Duration::from_secs(13),
                "the hang to be noticed",
                async || {
                    anyhow::ensure!(!connected(bed).await?, "still connected");
                    Ok(())
                },
            )
            .await;
            eprintln!("the hang was noticed after {:?}", hung.elapsed());
            // It may have been replaced meanwhile: its liveness is probed.
            let _ = machine::signal(&pod, "controller", "CONT").await;
            noticed?;
            eventually("a stream again", async || {
                anyhow::ensure!(connected(bed).await?, "not connected");
                Ok(())
            })
            .await
        };
        let ((), traffic) = bed.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()?;
        obeyed(bed).await
    }

    fn now() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// Requests begun later than this after the cut are answered, and answered soon.
    const NOTICED: u64 = 1_500;
    /// For so long after that requests would hang by the dozen if they were still sent there, in milliseconds.
    const LOOKED_AT: u64 = 5_000;

    /// The state of the pod's endpoint, as Kubernetes says it.
    async fn endpoint_ready(bed: &Bed, pod: &str) -> anyhow::Result<bool> {
        let slices = bed
            .list(
                "discovery.k8s.io/v1",
                "EndpointSlice",
                "kubernetes.io/service-name=reviews",
            )
            .await?;
        let endpoints = slices
            .iter()
            .filter_map(|slice| slice["endpoints"].as_array());
        let mut ours = endpoints
            .flatten()
            .filter(|one| one["targetRef"]["name"] == pod);
        let ready = |one: &Value| one["conditions"]["ready"] == true;
        Ok(ours.any(ready))
    }

    pub(super) async fn lost_node_gets_no_requests_until_it_returns(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        if let Some(why) = machine::out_of_reach() {
            eprintln!("{why}");
            return Ok(());
        }
        // What is asked here is what clients do; who tells them what is known must not be lost too.
        control_plane::keep_on(&bed.client, CONTROLLER, Some("node1")).await?;
        let outcome = node_lost(bed).await;
        let found = machine::node("start", "node2").await;
        control_plane::keep_on(&bed.client, CONTROLLER, None).await?;
        outcome.and(found)
    }

    async fn node_lost(bed: &Bed) -> anyhow::Result<()> {
        bed.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        bed.apply(objects::on_node(objects::client("client"), "node1"))
            .await?;
        for (version, node) in [("v1", "node1"), ("v2", "node2")] {
            bed.apply(objects::on_node(objects::reviews(version), node))
                .await?;
        }
        for pod in ["client", "reviews-v1", "reviews-v2"] {
            bed.ready(pod).await?;
        }
        let both = bed.load("client", URL, &["-n", "200", "-c", "8"]).await?;
        anyhow::ensure!(both.version("v1") > 0 && both.version("v2") > 0, "{both}");
        let changes = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            machine::node("stop", "node2").await?;
            let cut = (now(), Instant::now());
            eventually("Kubernetes to say that the endpoint is gone", async || {
                anyhow::ensure!(!endpoint_ready(bed, "reviews-v2").await?, "it is ready");
                Ok(())
            })
            .await?;
            eprintln!(
                "Kubernetes took the endpoint away after {:?}",
                cut.1.elapsed()
            );
            tokio::time::sleep(Duration::from_secs(3)).await;
            machine::node("start", "node2").await?;
            eventually("the endpoint to be back", async || {
                anyhow::ensure!(endpoint_ready(bed, "reviews-v2").await?, "it is not ready");
                Ok(())
            })
            .await?;
            Ok(cut.0)
        };
        let (cut, traffic) = bed.under_traffic("client", "reviews", changes).await?;
        let on_its_way = |at: u64| (cut.saturating_sub(3_000)..cut + NOTICED).contains(&at);
        traffic.as_expected_but(on_its_way)?;
        traffic.only_unsafe_failed()?;
        let troubles = || traffic.summaries().flat_map(weft_e2e::Summary::troubles);
        let afterwards = cut + NOTICED..cut + NOTICED + LOOKED_AT;
        let late = troubles()
            .filter(|trouble| afterwards.contains(&trouble.at()))
            .count() as u64;
        // A machine with too much to do is slow without any fault.
        anyhow::ensure!(
            late * 100 <= traffic.sent(),
            "{late} requests begun after the loss was noticed took more than a second: {traffic}"
        );
        let slowest = troubles()
            .map(|trouble| trouble.millis())
            .max()
            .unwrap_or(0);
        eprintln!("{late} were late after it was noticed; the slowest of all took {slowest} ms");
        eventually("what came back to take traffic", async || {
            let both = bed.load("client", URL, &["-n", "200", "-c", "8"]).await?;
            anyhow::ensure!(both.version("v2") > 0 && both.failed() == 0, "{both}");
            Ok(())
        })
        .await
    }
}
