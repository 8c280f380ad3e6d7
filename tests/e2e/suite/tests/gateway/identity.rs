//! A gateway in front of backends with a proxy: it has an identity of its own in the mesh.

cluster_tests! {
    run Meshed strict_backend_sees_the_gateway_identity;
}

mod cases {
    use serde_json::json;
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::host::{get, run};
    use weft_e2e::identity::spiffe;
    use weft_e2e::objects::to;
    use weft_e2e::{TestNamespace, eventually};

    /// Strict backends accept HTTP and TCP from the gateway and log its identity.
    pub(super) async fn strict_backend_sees_the_gateway_identity(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.set_mtls("Namespace", &ns.namespace, "strict".into())
            .await?;
        ns.deploy_shop(&["v1"]).await?;
        let listeners = json!([listener("http", "HTTP", 80), listener("tcp", "TCP", 7000)]);
        let address = ns.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        ns.gateway_route(route("HTTPRoute", "reviews", "edge", "http", rules))
            .await?;
        let rules = json!([{"backendRefs": [{"name": "reviews-v1", "port": 7000}]}]);
        ns.gateway_route(route("TCPRoute", "echo", "edge", "tcp", rules))
            .await?;
        eventually("the HTTP listener to serve", async || {
            get(&address, 80, "any", "/reviews/known")
                .await?
                .is(200)
                .map(drop)
        })
        .await?;
        eventually("the TCP listener to serve", async || {
            let talk = format!("echo bytes | nc -N -w 5 {address} 7000");
            let received = run("bash", &["-c", &talk]).await?.success()?;
            anyhow::ensure!(received == "bytes\n", "{received:?}");
            Ok(())
        })
        .await?;
        // A request without mutual TLS is rejected.
        let pod = ns.pod_ip("reviews-v1").await?;
        let plain = get(&pod, 8080, "any", "/reviews/plain").await;
        let refused = plain.as_ref().map_or(true, |reply| reply.status == 403);
        anyhow::ensure!(refused, "plain text was accepted: {plain:?}");
        let own = spiffe(&ns.namespace, "edge-weft");
        eventually("the gateway's identity in the access log", async || {
            let lines = ns.access_log("reviews-v1").await?;
            let known = lines.iter().filter(|one| one.is("client_id", &own));
            let paths: Vec<String> = known.map(|one| one.text("path")).collect();
            for path in ["/reviews/known", ""] {
                let there = paths.iter().any(|seen| seen == path);
                anyhow::ensure!(
                    there,
                    "no request for {path:?} with the client {own}: {lines:?}"
                );
            }
            Ok(())
        })
        .await
    }
}
