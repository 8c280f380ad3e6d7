//! Statuses that the controller writes for routes and the mesh.

cluster_tests! {
    run Meshed conditions_have_the_current_generation;
    run Meshed status_entries_of_other_controllers_are_kept;
    run Meshed programmed_condition_counts_the_proxies;
    run Unmeshed mesh_status_lists_the_supported_features;
}

mod cases {
    use anyhow::Context;
    use kube::api::{Patch, PatchParams};
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, eventually};

    async fn apply_route(ns: &TestNamespace, backend: &str) -> anyhow::Result<objects::Conditions> {
        ns.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        ns.apply(objects::service("reviews-v1", json!({"app": "reviews"})))
            .await?;
        ns.route(objects::http_route(
            "watched",
            json!([{"backendRefs": [to(backend, 1)]}]),
        ))
        .await
    }

    pub(super) async fn conditions_have_the_current_generation(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let conditions = apply_route(ns, "v1").await?;
        anyhow::ensure!(conditions.of("Accepted")?.0 == "True", "{conditions}");
        anyhow::ensure!(conditions.of("ResolvedRefs")?.0 == "True", "{conditions}");
        // `route` waits until every condition has the new generation.
        let conditions = apply_route(ns, "v7").await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["reviews-v7"])?;
        let conditions = apply_route(ns, "v1").await?;
        anyhow::ensure!(conditions.of("ResolvedRefs")?.0 == "True", "{conditions}");
        Ok(())
    }

    fn entry_of<'a>(route: &'a Value, controller: &str) -> Option<&'a Value> {
        let parents = route["status"]["parents"].as_array()?;
        parents
            .iter()
            .find(|parent| parent["controllerName"] == controller)
    }

    pub(super) async fn status_entries_of_other_controllers_are_kept(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        apply_route(ns, "v1").await?;
        let route = ns.get(objects::GATEWAY, "HTTPRoute", "watched").await?;
        let mut parents = route["status"]["parents"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let foreign = json!({
            "controllerName": "other.example/controller",
            "parentRef": route["spec"]["parentRefs"][0],
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "ours",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
            }],
        });
        parents.push(foreign);
        let patch = json!({"status": {"parents": parents}});
        let routes = ns.api(objects::GATEWAY, "HTTPRoute");
        routes
            .patch_status("watched", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        // An edit makes the controller write its own entry again.
        apply_route(ns, "v7")
            .await?
            .is_false("ResolvedRefs", "BackendNotFound", &[])?;
        let route = ns.get(objects::GATEWAY, "HTTPRoute", "watched").await?;
        let kept = entry_of(&route, "other.example/controller")
            .with_context(|| route["status"].to_string())?;
        anyhow::ensure!(kept["conditions"][0]["message"] == "ours", "{kept}");
        anyhow::ensure!(
            entry_of(&route, objects::CONTROLLER_NAME).is_some(),
            "{}",
            route["status"]
        );
        Ok(())
    }

    /// Waits until `proxies` of `proxies` have acknowledged the route. Only proxies that have used
    /// its parent count.
    async fn wait_until_programmed(ns: &TestNamespace, proxies: u32) -> anyhow::Result<()> {
        let wanted = format!("{proxies} of {proxies} proxies");
        eventually(&wanted, async || {
            let route = ns.get(objects::GATEWAY, "HTTPRoute", "counted").await?;
            let conditions = objects::route_conditions(&route)?;
            let (status, reason, message) = conditions.of("weft.dev/Programmed")?;
            anyhow::ensure!(
                (status, reason) == ("True", "Programmed") && message.starts_with(&wanted),
                "{conditions}"
            );
            Ok(())
        })
        .await
    }

    pub(super) async fn programmed_condition_counts_the_proxies(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        ns.accepted_route(objects::http_route("counted", rules))
            .await?;
        let ask = async |client: &str| {
            let summary = ns.load(client, "http://reviews/reviews/1", &[]).await?;
            summary.all("200").map(drop)
        };
        ask("client").await?;
        wait_until_programmed(ns, 1).await?;
        ns.apply(objects::client("second")).await?;
        ns.wait_until_ready("second").await?;
        // A proxy does not count before it uses the Service.
        wait_until_programmed(ns, 1).await?;
        ask("second").await?;
        wait_until_programmed(ns, 2).await?;
        ns.pods().delete("second", &Default::default()).await?;
        wait_until_programmed(ns, 1).await
    }

    pub(super) async fn mesh_status_lists_the_supported_features(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        eventually("the status of the XMesh weft", async || {
            let mesh = ns
                .get("gateway.networking.x-k8s.io/v1alpha1", "XMesh", "weft")
                .await?;
            anyhow::ensure!(
                mesh["spec"]["controllerName"] == objects::CONTROLLER_NAME,
                "{}",
                mesh["spec"]
            );
            let conditions = objects::conditions(
                &mesh["status"]["conditions"],
                &mesh["metadata"]["generation"],
            )?;
            anyhow::ensure!(conditions.of("Accepted")?.0 == "True", "{conditions}");
            let features = objects::names(&mesh["status"]["supportedFeatures"]);
            anyhow::ensure!(
                features.contains(&"Mesh") && features.contains(&"HTTPRoute"),
                "{features:?}"
            );
            let mut sorted = features.clone();
            sorted.sort_unstable();
            sorted.dedup();
            anyhow::ensure!(
                sorted.len() == features.len(),
                "a feature is listed twice: {features:?}"
            );
            Ok(())
        })
        .await
    }
}
