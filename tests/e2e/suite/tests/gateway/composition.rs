//! Service routes at a Gateway: by default a backendRef means the Service's endpoints; with an
//! annotation of the Service its own routes apply as well.

cluster_tests! {
    run Meshed gateway_and_service_route_weights_multiply;
}

mod cases {
    use serde_json::json;
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::host::in_url;
    use weft_e2e::objects::{http_route, service, to};
    use weft_e2e::{Summary, TestNamespace, eventually, host};

    /// The standard deviation of a share of this many requests is about one percentage point.
    const REQUESTS: u64 = 2_000;

    /// Fails unless each version got its share in percent, within 3.5 points.
    fn check_shares(summary: &Summary, wanted: [u64; 3]) -> anyhow::Result<()> {
        summary.all("200")?;
        let versions = ["v1", "v2", "v3"];
        let seen = versions.map(|version| summary.version(version) * 1_000 / summary.sent());
        let close = seen
            .iter()
            .zip(wanted)
            .all(|(seen, wanted)| seen.abs_diff(wanted * 10) <= 35);
        anyhow::ensure!(
            close,
            "the shares are {seen:?} per mille, not {wanted:?} percent"
        );
        Ok(())
    }

    pub(super) async fn gateway_and_service_route_weights_multiply(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2", "v3"]).await?;
        // The Service's endpoints are those of v1; its route also leads to v2.
        let selector = json!({"app": "reviews", "version": "v1"});
        ns.apply(service("reviews", selector)).await?;
        let rules = json!([{"backendRefs": [to("v1", 80), to("v2", 20)]}]);
        ns.accepted_route(http_route("own", rules)).await?;
        let address = ns
            .gateway(gateway("edge", json!([listener("http", "HTTP", 80)])))
            .await?;
        let half = json!({"name": "reviews", "port": 80, "weight": 1});
        let rules = json!([{"backendRefs": [half, to("v3", 1)]}]);
        ns.gateway_route(route("HTTPRoute", "outer", "edge", "", rules))
            .await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        let count = REQUESTS.to_string();
        let many = ["-n", &count, "-c", "8"];
        let asks = async |word: &str| {
            let patch = json!({"metadata": {"annotations": {"weft.dev/gateway-routes": word}}});
            let patch = kube::api::Patch::Merge(patch);
            let services = ns.api("v1", "Service");
            services
                .patch("reviews", &Default::default(), &patch)
                .await
                .map(drop)
        };
        let are = async |what: &str, wanted: [u64; 3]| {
            eventually(what, async || {
                check_shares(&host::load(&url, &many).await?, wanted)
            })
            .await
        };
        are("only the Gateway's weights to apply", [50, 0, 50]).await?;
        asks("enabled").await?;
        are("both weights to apply", [40, 10, 50]).await?;
        // For clients in the mesh only the Service's own route applies.
        let inside = ns.load("client", "http://reviews/reviews/1", &many);
        check_shares(&inside.await?, [80, 20, 0])?;
        asks("disabled").await?;
        are("only the Gateway's weights to apply again", [50, 0, 50]).await
    }
}
