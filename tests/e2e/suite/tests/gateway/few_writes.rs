//! Statuses at a thousand routes: one write for a change, and none for what has not changed.

mesh_tests! {
    run_busy Out route_change_causes_one_status_write;
}

mod cases {
    use std::time::{Duration, Instant};

    use futures::{StreamExt, TryStreamExt, stream};
    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};
    use weft_e2e::gateways::{CONTROLLER_NAME, gateway, listener, route};
    use weft_e2e::objects::{self, to};
    use weft_e2e::writes::{Counts, Writes};
    use weft_e2e::{Bed, eventually_within};

    const ROUTES: usize = 1_000;
    /// For what concerns all of them, on a machine that does much else.
    const LONG: Duration = Duration::from_secs(60);
    /// Longer than whatever a status may be put off.
    const QUIET: Duration = Duration::from_secs(3);

    fn name(of: usize) -> String {
        format!("route-{of:04}")
    }

    /// Each of a host of its own.
    fn one(of: usize, weight: u32) -> Value {
        let rules = json!([{"backendRefs": [to("v1", weight)]}]);
        let mut route = route("HTTPRoute", &name(of), "edge", "", rules);
        route["spec"]["hostnames"] = json!([format!("{}.example.com", name(of))]);
        route
    }

    struct Watched {
        routes: Writes,
        gateways: Writes,
    }

    impl Watched {
        /// What was written to routes, and how often to the Gateway.
        async fn writes(&self) -> anyhow::Result<(Counts, usize)> {
            let routes = self.routes.when_quiet(QUIET).await?;
            let gateway = self.gateways.when_quiet(Duration::ZERO).await?;
            Ok((routes, gateway.values().sum()))
        }

        /// Fails unless these routes were written so often, and no other, and the Gateway so often.
        async fn are(
            &self,
            what: &str,
            routes: &[(usize, usize)],
            gateway: usize,
        ) -> anyhow::Result<()> {
            let wanted: Counts = routes
                .iter()
                .map(|(of, count)| (name(*of), *count))
                .collect();
            let begin = Instant::now();
            // So many at least, and none after them. What is missing then is told below.
            let sums = (wanted.values().sum(), gateway);
            let _ = eventually_within(LONG, what, async || {
                let there = self.routes.sum() >= sums.0 && self.gateways.sum() >= sums.1;
                anyhow::ensure!(there, "not yet");
                Ok(())
            })
            .await;
            eprintln!("{what}: told after {:?}", begin.elapsed());
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

    async fn all_in_force(bed: &Bed) -> anyhow::Result<()> {
        eventually_within(LONG, "all routes in force", async || {
            let all = bed.list(objects::GATEWAY, "HTTPRoute", "").await?;
            let in_force = |route: &&Value| {
                let told = objects::conditions_by(route, CONTROLLER_NAME);
                told.is_ok_and(|told| {
                    told.of("weft.dev/Programmed")
                        .is_ok_and(|(_, reason, _)| reason == "Programmed")
                })
            };
            let count = all.iter().filter(in_force).count();
            anyhow::ensure!(count == ROUTES, "{count} are");
            Ok(())
        })
        .await
    }

    pub(super) async fn route_change_causes_one_status_write(bed: &Bed) -> anyhow::Result<()> {
        let selector = json!({"app": "reviews", "version": "v1"});
        bed.apply(objects::service("reviews-v1", selector)).await?;
        bed.gateway(gateway("edge", json!([listener("http", "HTTP", 80)])))
            .await?;
        let watched = Watched {
            routes: Writes::of(bed, objects::GATEWAY, "HTTPRoute").await?,
            gateways: Writes::of(bed, objects::GATEWAY, "Gateway").await?,
        };
        let made = stream::iter(0..ROUTES).map(|of| bed.apply(one(of, 1)));
        made.buffer_unordered(8).try_collect::<Vec<_>>().await?;
        all_in_force(bed).await?;
        let (routes, gateway) = watched.writes().await?;
        let all: usize = routes.values().sum();
        eprintln!("{ROUTES} routes made: {all} writes of theirs, {gateway} of the Gateway");
        // Each was made and told once, but for those that the proxy took longer for than a second.
        anyhow::ensure!(all <= ROUTES * 21 / 10, "{all} writes of {ROUTES} routes");

        bed.apply(one(500, 2)).await?;
        watched.are("a route edited", &[(500, 2)], 0).await?;

        let mut annotated = one(500, 2);
        annotated["metadata"]["annotations"] = json!({"example.com/note": "nothing to us"});
        bed.apply(annotated).await?;
        watched.are("a route annotated", &[(500, 1)], 0).await?;

        bed.apply(one(ROUTES, 1)).await?;
        watched.are("a route more", &[(ROUTES, 2)], 1).await?;

        let routes = bed.api(objects::GATEWAY, "HTTPRoute");
        routes.delete(&name(ROUTES), &Default::default()).await?;
        watched.are("a route less", &[], 1).await?;

        // What concerns all of them is said to each once.
        let ports = json!({"spec": {"ports": [{"name": "other", "port": 81, "targetPort": 8080}]}});
        let services = bed.api("v1", "Service");
        let patch = Patch::Merge(ports);
        services
            .patch("reviews-v1", &PatchParams::default(), &patch)
            .await?;
        let all: Vec<(usize, usize)> = (0..ROUTES).map(|of| (of, 1)).collect();
        watched.are("their backend's port gone", &all, 0).await
    }
}
