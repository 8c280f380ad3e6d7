//! Parts of the mesh and of the cluster restarted, killed, hung or disconnected, under 500 requests
//! a second.

cluster_tests! {
    run_alone Meshed control_plane_restarts_fail_no_request;
    run_alone Meshed controller_outage_fails_no_request;
    run_alone Meshed hung_controller_is_detected;
    run_alone Meshed lost_node_gets_no_requests_until_it_returns;
}

mod cases {
    use std::time::{Duration, Instant, SystemTime};

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::{
        TestNamespace, control_plane, eventually, eventually_within, fault_injection, full_or,
        objects,
    };

    const CONTROLLER: &str = "weft-controller";
    const URL: &str = "http://reviews/reviews/1";

    /// Checks that a new route takes effect: the proxies receive configuration.
    async fn check_new_route_takes_effect(ns: &TestNamespace) -> anyhow::Result<()> {
        let rules = json!([{"backendRefs": [objects::to("v2", 1)]}]);
        ns.accepted_route(objects::http_route("split", rules))
            .await?;
        eventually("the new configuration to take effect", async || {
            let summary = ns.load("client", URL, &["-n", "10"]).await?;
            summary.all_from("v2").map(drop)
        })
        .await?;
        let routes = ns.api(objects::GATEWAY, "HTTPRoute");
        routes.delete("split", &Default::default()).await?;
        Ok(())
    }

    pub(super) async fn control_plane_restarts_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let changes = async {
            for _ in 0..full_or(10, 1) {
                control_plane::restart(&ns.client, CONTROLLER).await?;
                // Also without a replacement that is ready before the old replica ends.
                control_plane::kill(&ns.client, CONTROLLER).await?;
                control_plane::restart(&ns.client, "weft-injector").await?;
                control_plane::scale(&ns.client, CONTROLLER, 3).await?;
                control_plane::restart(&ns.client, CONTROLLER).await?;
                control_plane::scale(&ns.client, CONTROLLER, 1).await?;
            }
            Ok(())
        };
        let outcome = ns.under_traffic("client", "reviews", changes).await;
        // Restored whether or not the test failed.
        control_plane::scale(&ns.client, CONTROLLER, 1).await?;
        outcome?.1.as_expected()?;
        check_new_route_takes_effect(ns).await
    }

    pub(super) async fn controller_outage_fails_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let away = full_or(Duration::from_secs(600), Duration::from_secs(20));
        let changes = async {
            control_plane::scale(&ns.client, CONTROLLER, 0).await?;
            tokio::time::sleep(away).await;
            // The proxy has known this destination since `shop`, and has not used it since.
            let idle = ["-n", "20", "--fresh"];
            let idle = ns
                .load("client", "http://reviews-v2/reviews/1", &idle)
                .await?;
            idle.all("200")?.all_from("v2")?;
            Ok(())
        };
        let outcome = ns.under_traffic("client", "reviews", changes).await;
        control_plane::scale(&ns.client, CONTROLLER, 1).await?;
        outcome?.1.as_expected()?;
        let to_idle = ns.accesses("client", "outbound", "/reviews/").await?;
        let last = to_idle
            .iter()
            .rfind(|entry| entry.text("authority") == "reviews-v2");
        let last = last.context("the access log has no request to the idle destination")?;
        anyhow::ensure!(
            !last.text("server_id").is_empty(),
            "the request should use mutual TLS: {last:?}"
        );
        check_new_route_takes_effect(ns).await
    }

    /// Returns true if the client's proxy has a configuration stream.
    async fn connected(ns: &TestNamespace) -> anyhow::Result<bool> {
        Ok(ns.metric("client", "weft_config_connected", &[]).await? > 0.0)
    }

    pub(super) async fn hung_controller_is_detected(ns: &TestNamespace) -> anyhow::Result<()> {
        if let Some(why) = fault_injection::unavailable() {
            eprintln!("{why}");
            return Ok(());
        }
        ns.deploy_shop(&["v1", "v2"]).await?;
        let pods = control_plane::pod_names(&ns.client, CONTROLLER).await?;
        let name = pods.first().context("there is no controller pod")?;
        let pod = control_plane::system(&ns.client)
            .get("v1", "Pod", name)
            .await?;
        let changes = async {
            fault_injection::signal(&pod, "controller", "STOP").await?;
            let hung = Instant::now();
            let noticed = eventually_within(
                Duration::from_secs(13),
                "the hang to be detected",
                async || {
                    anyhow::ensure!(!connected(ns).await?, "still connected");
                    Ok(())
                },
            )
            .await;
            eprintln!("the hang was detected after {:?}", hung.elapsed());
            // The kubelet may have restarted it after failed liveness probes.
            let _ = fault_injection::signal(&pod, "controller", "CONT").await;
            noticed?;
            eventually("the stream to be re-established", async || {
                anyhow::ensure!(connected(ns).await?, "not connected");
                Ok(())
            })
            .await
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()?;
        check_new_route_takes_effect(ns).await
    }

    fn now() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// Requests that start later than this after the loss, in milliseconds, must succeed in time.
    const DETECTION_MS: u64 = 1_500;
    /// The time after detection, in milliseconds, in which requests would hang if the lost node
    /// still got any.
    const OBSERVED_MS: u64 = 5_000;

    /// Returns true if Kubernetes considers the pod's endpoint ready.
    async fn endpoint_ready(ns: &TestNamespace, pod: &str) -> anyhow::Result<bool> {
        let slices = ns
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
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        if let Some(why) = fault_injection::unavailable() {
            eprintln!("{why}");
            return Ok(());
        }
        // The test is about clients; the controller must not be on the lost node.
        control_plane::keep_on(&ns.client, CONTROLLER, Some("node1")).await?;
        let outcome = check_lost_node(ns).await;
        let found = fault_injection::node("start", "node2").await;
        control_plane::keep_on(&ns.client, CONTROLLER, None).await?;
        outcome.and(found)
    }

    async fn check_lost_node(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        ns.apply(objects::on_node(objects::client("client"), "node1"))
            .await?;
        for (version, node) in [("v1", "node1"), ("v2", "node2")] {
            ns.apply(objects::on_node(objects::reviews(version), node))
                .await?;
        }
        for pod in ["client", "reviews-v1", "reviews-v2"] {
            ns.wait_until_ready(pod).await?;
        }
        let both = ns.load("client", URL, &["-n", "200", "-c", "8"]).await?;
        anyhow::ensure!(both.version("v1") > 0 && both.version("v2") > 0, "{both}");
        let changes = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            fault_injection::node("stop", "node2").await?;
            let cut = (now(), Instant::now());
            eventually("Kubernetes to mark the endpoint as not ready", async || {
                anyhow::ensure!(
                    !endpoint_ready(ns, "reviews-v2").await?,
                    "the endpoint is ready"
                );
                Ok(())
            })
            .await?;
            eprintln!(
                "Kubernetes marked the endpoint as not ready after {:?}",
                cut.1.elapsed()
            );
            tokio::time::sleep(Duration::from_secs(3)).await;
            fault_injection::node("start", "node2").await?;
            eventually("the endpoint to be ready again", async || {
                anyhow::ensure!(
                    endpoint_ready(ns, "reviews-v2").await?,
                    "the endpoint is not ready"
                );
                Ok(())
            })
            .await?;
            Ok(cut.0)
        };
        let (cut, traffic) = ns.under_traffic("client", "reviews", changes).await?;
        let on_its_way = |at: u64| (cut.saturating_sub(3_000)..cut + DETECTION_MS).contains(&at);
        traffic.as_expected_but(on_its_way)?;
        traffic.only_unsafe_failed()?;
        let problems = || traffic.summaries().flat_map(weft_e2e::Summary::problems);
        let afterwards = cut + DETECTION_MS..cut + DETECTION_MS + OBSERVED_MS;
        let late = problems()
            .filter(|problem| afterwards.contains(&problem.at()))
            .count() as u64;
        // An overloaded machine may be slow without a fault.
        anyhow::ensure!(
            late * 100 <= traffic.sent(),
            "{late} requests that started after the loss was detected took more than a second: {traffic}"
        );
        let slowest = problems()
            .map(|problem| problem.millis())
            .max()
            .unwrap_or(0);
        eprintln!(
            "{late} requests were late after detection; the slowest of all took {slowest} ms"
        );
        eventually("the returned node to get traffic", async || {
            let both = ns.load("client", URL, &["-n", "200", "-c", "8"]).await?;
            anyhow::ensure!(both.version("v2") > 0 && both.failed() == 0, "{both}");
            Ok(())
        })
        .await
    }
}
