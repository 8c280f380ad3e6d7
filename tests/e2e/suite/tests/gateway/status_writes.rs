//! Status writes with a thousand routes: one per change, and none for objects that did not change.

cluster_tests! {
    run_busy Unmeshed route_change_causes_one_status_write;
}

mod cases {
    use std::time::{Duration, Instant};

    use futures::{StreamExt, TryStreamExt, stream};
    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};
    use weft_e2e::gateways::{CONTROLLER_NAME, gateway, listener, route};
    use weft_e2e::objects::{self, to};
    use weft_e2e::writes::{Counts, Writes};
    use weft_e2e::{TestNamespace, eventually_within};

    const ROUTES: usize = 1_000;
    /// The time limit for changes that affect all routes, on a busy machine.
    const LONG: Duration = Duration::from_secs(60);
    /// Longer than the longest delay of a status write.
    const QUIET: Duration = Duration::from_secs(3);

    fn route_name(of: usize) -> String {
        format!("route-{of:04}")
    }

    /// Returns a route with its own hostname.
    fn route_with_weight(of: usize, weight: u32) -> Value {
        let rules = json!([{"backendRefs": [to("v1", weight)]}]);
        let mut route = route("HTTPRoute", &route_name(of), "edge", "", rules);
        route["spec"]["hostnames"] = json!([format!("{}.example.com", route_name(of))]);
        route
    }

    struct Watched {
        routes: Writes,
        gateways: Writes,
    }

    impl Watched {
        /// Returns the writes by route, and the number of writes of the Gateway.
        async fn writes(&self) -> anyhow::Result<(Counts, usize)> {
            let routes = self.routes.when_quiet(QUIET).await?;
            let gateway = self.gateways.when_quiet(Duration::ZERO).await?;
            Ok((routes, gateway.values().sum()))
        }

        /// Fails unless exactly these routes were written, each this many times, and the Gateway
        /// `gateway` times.
        async fn are(
            &self,
            what: &str,
            routes: &[(usize, usize)],
            gateway: usize,
        ) -> anyhow::Result<()> {
            let wanted: Counts = routes
                .iter()
                .map(|(of, count)| (route_name(*of), *count))
                .collect();
            let begin = Instant::now();
            // Waits for the expected number; the exact count is checked below.
            let sums = (wanted.values().sum(), gateway);
            let _ = eventually_within(LONG, what, async || {
                let there = self.routes.sum() >= sums.0 && self.gateways.sum() >= sums.1;
                anyhow::ensure!(there, "writes are missing");
                Ok(())
            })
            .await;
            eprintln!("{what}: all statuses written after {:?}", begin.elapsed());
            let seen = self.writes().await?;
            anyhow::ensure!(
                seen == (wanted, gateway),
                "{what}: writes of {} routes, {} in all, and {} of the Gateway: {:?}",
                seen.0.len(),
                seen.0.values().sum::<usize>(),
                seen.1,
                seen.0.iter().take(5).collect::<Vec<_>>()
            );
            Ok(())
        }
    }

    async fn wait_until_all_programmed(ns: &TestNamespace) -> anyhow::Result<()> {
        eventually_within(LONG, "all routes to be programmed", async || {
            let all = ns.list(objects::GATEWAY, "HTTPRoute", "").await?;
            let in_force = |route: &&Value| {
                let conditions = objects::conditions_by(route, CONTROLLER_NAME);
                conditions.is_ok_and(|conditions| {
                    conditions
                        .of("weft.dev/Programmed")
                        .is_ok_and(|(_, reason, _)| reason == "Programmed")
                })
            };
            let count = all.iter().filter(in_force).count();
            anyhow::ensure!(count == ROUTES, "{count} of {ROUTES} routes are programmed");
            Ok(())
        })
        .await
    }

    pub(super) async fn route_change_causes_one_status_write(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let selector = json!({"app": "reviews", "version": "v1"});
        ns.apply(objects::service("reviews-v1", selector)).await?;
        ns.gateway(gateway("edge", json!([listener("http", "HTTP", 80)])))
            .await?;
        let watched = Watched {
            routes: Writes::of(ns, objects::GATEWAY, "HTTPRoute").await?,
            gateways: Writes::of(ns, objects::GATEWAY, "Gateway").await?,
        };
        let made = stream::iter(0..ROUTES).map(|of| ns.apply(route_with_weight(of, 1)));
        made.buffer_unordered(8).try_collect::<Vec<_>>().await?;
        wait_until_all_programmed(ns).await?;
        let (routes, gateway) = watched.writes().await?;
        let all: usize = routes.values().sum();
        eprintln!("{ROUTES} routes created: {all} writes of routes, {gateway} of the Gateway");
        // One creation and one status write each; more only for routes that the proxy took longer
        // than a second to acknowledge.
        anyhow::ensure!(all <= ROUTES * 21 / 10, "{all} writes of {ROUTES} routes");

        ns.apply(route_with_weight(500, 2)).await?;
        watched.are("one route edited", &[(500, 2)], 0).await?;

        let mut annotated = route_with_weight(500, 2);
        annotated["metadata"]["annotations"] = json!({"example.com/note": "nothing to us"});
        ns.apply(annotated).await?;
        watched.are("one route annotated", &[(500, 1)], 0).await?;

        ns.apply(route_with_weight(ROUTES, 1)).await?;
        watched.are("one route created", &[(ROUTES, 2)], 1).await?;

        let routes = ns.api(objects::GATEWAY, "HTTPRoute");
        routes
            .delete(&route_name(ROUTES), &Default::default())
            .await?;
        watched.are("one route deleted", &[], 1).await?;

        // A change that affects all routes writes each status once.
        let ports = json!({"spec": {"ports": [{"name": "other", "port": 81, "targetPort": 8080}]}});
        let services = ns.api("v1", "Service");
        let patch = Patch::Merge(ports);
        services
            .patch("reviews-v1", &PatchParams::default(), &patch)
            .await?;
        let all: Vec<(usize, usize)> = (0..ROUTES).map(|of| (of, 1)).collect();
        watched
            .are("the port of their backend removed", &all, 0)
            .await
    }
}
