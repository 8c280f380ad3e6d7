//! Routes of a Service at a Gateway: by default its backendRef means the Service's endpoints, and where the Service asks
//! for it, its own routes are applied as well.

mesh_tests! {
    run In gateway_and_service_route_weights_multiply;
}

mod cases {
    use serde_json::json;
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::host::in_url;
    use weft_e2e::objects::{http_route, service, to};
    use weft_e2e::{Bed, Summary, eventually, host};

    /// Of which each share is known to three points, three times the standard deviation.
    const REQUESTS: u64 = 2_000;

    /// Fails unless each version has its share in percent, give or take as much.
    fn shares(summary: &Summary, wanted: [u64; 3]) -> anyhow::Result<()> {
        summary.all("200")?;
        let versions = ["v1", "v2", "v3"];
        let seen = versions.map(|version| summary.version(version) * 1_000 / summary.sent());
        let close = seen
            .iter()
            .zip(wanted)
            .all(|(seen, wanted)| seen.abs_diff(wanted * 10) <= 35);
        anyhow::ensure!(close, "{seen:?} per mille, not {wanted:?} per cent");
        Ok(())
    }

    pub(super) async fn gateway_and_service_route_weights_multiply(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        bed.shop(&["v1", "v2", "v3"]).await?;
        // Its own endpoints, unlike its routes, are those of v1.
        let selector = json!({"app": "reviews", "version": "v1"});
        bed.apply(service("reviews", selector)).await?;
        let rules = json!([{"backendRefs": [to("v1", 80), to("v2", 20)]}]);
        bed.good_route(http_route("own", rules)).await?;
        let address = bed
            .gateway(gateway("edge", json!([listener("http", "HTTP", 80)])))
            .await?;
        let half = json!({"name": "reviews", "port": 80, "weight": 1});
        let rules = json!([{"backendRefs": [half, to("v3", 1)]}]);
        bed.gateway_route(route("HTTPRoute", "outer", "edge", "", rules))
            .await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        let count = REQUESTS.to_string();
        let many = ["-n", &count, "-c", "8"];
        let asks = async |word: &str| {
            let patch = json!({"metadata": {"annotations": {"weft.dev/gateway-routes": word}}});
            let patch = kube::api::Patch::Merge(patch);
            let services = bed.api("v1", "Service");
            services
                .patch("reviews", &Default::default(), &patch)
                .await
                .map(drop)
        };
        let are = async |what: &str, wanted: [u64; 3]| {
            eventually(what, async || {
                shares(&host::load(&url, &many).await?, wanted)
            })
            .await
        };
        are("the Gateway's weights alone", [50, 0, 50]).await?;
        asks("enabled").await?;
        are("both weights", [40, 10, 50]).await?;
        // Clients in the mesh meet the Service's own alone.
        let inside = bed.load("client", "http://reviews/reviews/1", &many);
        shares(&inside.await?, [80, 20, 0])?;
        asks("disabled").await?;
        are("the Gateway's weights alone again", [50, 0, 50]).await
    }
}
