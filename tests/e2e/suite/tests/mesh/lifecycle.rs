//! Servers, clients and proxies that start and stop, and routes that change, under 500 requests a
//! second: no request fails.

cluster_tests! {
    run_busy Meshed server_rollout_and_scaling_fail_no_request;
    run_busy Meshed client_rollout_fails_no_request;
    run_busy Meshed fifty_route_edits_fail_no_request;
    run_busy Meshed killed_proxy_fails_only_requests_in_flight;
}

mod cases {
    use std::time::{Duration, Instant, SystemTime};

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::{TestNamespace, eventually, fault_injection, full_or, objects, senders};

    /// Returns `objects::reviews` as a Deployment with Kubernetes' default grace period.
    fn server() -> Value {
        let mut pod = objects::reviews("v1");
        pod["metadata"]["name"] = "reviews".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        objects::deployment(&pod, 1)
    }

    /// Deploys one server as a Deployment, and a client.
    async fn shop(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        ns.apply(objects::client("client")).await?;
        ns.apply(server()).await?;
        ns.wait_until_ready("client").await?;
        ns.wait_until_rolled_out("reviews").await
    }

    pub(super) async fn server_rollout_and_scaling_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        shop(ns).await?;
        let changes = async {
            for _ in 0..full_or(10, 1) {
                ns.restart_deployment("reviews").await?;
                ns.scale_deployment("reviews", 10).await?;
                ns.scale_deployment("reviews", 1).await?;
            }
            Ok(())
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()
    }

    /// Two pods of a Deployment send, so that traffic continues while they are replaced; each pod
    /// prints its summary at its end.
    pub(super) async fn client_rollout_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        shop(ns).await?;
        let address = ns.cluster_ip("reviews").await?;
        ns.apply(senders(&address, 2)).await?;
        let changes = async {
            ns.wait_until_rolled_out("senders").await?;
            for _ in 0..full_or(10, 2) {
                ns.restart_deployment("senders").await?;
            }
            ns.scale_deployment("senders", 0).await
        };
        ns.traffic_of_pods("app=senders", changes)
            .await?
            .as_expected()
    }

    fn route_split(kind: &str, edit: usize, v1: u32) -> Value {
        let (port, kinds) = match kind {
            "HTTPRoute" => (80, objects::http_route as fn(&str, Value) -> Value),
            _ => (9000, objects::grpc_route as fn(&str, Value) -> Value),
        };
        let to = |version: &str, weight: u32| json!({"name": format!("reviews-{version}"), "port": port, "weight": weight});
        let all = json!({"backendRefs": [to("v1", v1), to("v2", 100 - v1)]});
        let elsewhere = json!({
            "matches": [{"headers": [{"name": "x-edit", "value": edit.to_string()}]}],
            "backendRefs": [to("v2", 1)],
        });
        // Alternate edits add and remove a rule in load_balancer.
        let rules = if edit.is_multiple_of(2) {
            json!([all])
        } else {
            json!([elsewhere, all])
        };
        kinds("split", rules)
    }

    pub(super) async fn fifty_route_edits_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let edits = async {
            for edit in 0..25 {
                for kind in ["HTTPRoute", "GRPCRoute"] {
                    ns.apply(route_split(kind, edit, (edit as u32 * 37) % 101))
                        .await?;
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
            }
            for kind in ["HTTPRoute", "GRPCRoute"] {
                ns.accepted_route(route_split(kind, 50, 20)).await?;
            }
            Ok(())
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", edits).await?;
        traffic.as_expected()?;
        // The status reports that the last edit is in effect.
        eventually("the last weights to be in effect", async || {
            for (url, more) in [
                ("http://reviews/reviews/1", None),
                ("http://reviews:9000", Some(["--grpc", "get"])),
            ] {
                let arguments = ["-n", "1000", "-c", "8", "--keep", "0"];
                let arguments = [&arguments[..], more.as_ref().map_or(&[], |more| &more[..])];
                let summary = ns.load("client", url, &arguments.concat()).await?;
                let v1 = summary.version("v1");
                anyhow::ensure!((150..=250).contains(&v1), "20 % should go to v1: {summary}");
                anyhow::ensure!(summary.failed() == 0, "{summary}");
            }
            Ok(())
        })
        .await
    }

    fn now() -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// Waits until the pod's proxy was restarted and is ready.
    async fn wait_until_restarted(
        ns: &TestNamespace,
        pod: &str,
        restarts: u64,
    ) -> anyhow::Result<()> {
        eventually(&format!("the proxy of {pod} to be restarted"), async || {
            anyhow::ensure!(
                ns.restarts(pod).await? > restarts,
                "the proxy was not restarted"
            );
            ns.wait_until_ready(pod).await.map(drop)
        })
        .await
    }

    /// Requests in flight in the killed process are lost if they must not be retried: POSTs and
    /// gRPC. All others are served by the other server.
    pub(super) async fn killed_proxy_fails_only_requests_in_flight(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        if let Some(why) = fault_injection::unavailable() {
            eprintln!("{why}");
            return Ok(());
        }
        ns.deploy_shop(&["v1", "v2"]).await?;
        ns.apply(objects::client("other")).await?;
        ns.wait_until_ready("other").await?;
        let kill = async |pod: &str| {
            let before = ns.restarts(pod).await?;
            fault_injection::signal(&ns.get("v1", "Pod", pod).await?, "weft-proxy", "KILL").await?;
            let killed = (now(), Instant::now());
            wait_until_restarted(ns, pod, before).await?;
            eprintln!(
                "the proxy of {pod} was ready again after {:?}",
                killed.1.elapsed()
            );
            anyhow::Ok(killed.0)
        };
        let changes = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let killed = kill("reviews-v1").await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(killed)
        };
        let others = [
            "--rate",
            "50",
            "-n",
            "100000",
            "-c",
            "16",
            "--keep",
            "0",
            "--seconds",
            "8",
        ];
        let others = ns.load("other", "http://reviews-v2/reviews/1", &others);
        let (traffic, others) =
            tokio::join!(ns.under_traffic("client", "reviews", changes), others);
        others?.all("200")?;
        let (killed, traffic) = traffic?;
        let under_way = |at: u64| (killed.saturating_sub(1_000)..killed + 100).contains(&at);
        traffic.as_expected_but(under_way)?;
        traffic.only_unsafe_failed()?;
        // A client whose own proxy was killed is served once it is ready again.
        kill("client").await?;
        let again = ns
            .load("client", "http://reviews/reviews/1", &["-n", "50"])
            .await;
        again
            .context("after its proxy was restarted")?
            .all("200")
            .map(drop)
    }
}
