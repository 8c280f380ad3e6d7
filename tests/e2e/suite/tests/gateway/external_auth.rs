//! External authorization at Gateways, by a server on Envoy's published messages and by one of the
//! shape of oauth2-proxy.

cluster_tests! {
    run Unmeshed rule_asks_its_server_over_http_and_grpc;
    run Unmeshed listener_asks_its_server_before_routing;
    run Unmeshed missing_server_closes_rule_and_listener;
}

mod cases {
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::external_auth::filter;
    use weft_e2e::gateways::{gateway, listener, listener_conditions, route};
    use weft_e2e::host::{Reply, curl, in_url};
    use weft_e2e::objects::{self, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const SESSION: [&str; 2] = ["-H", "cookie: session=ana"];

    /// Waits until a request gets this status.
    async fn gets(url: &str, arguments: &[&str], status: u16) -> anyhow::Result<Reply> {
        eventually(&format!("{status} from {url} {arguments:?}"), async || {
            let reply = curl(&[arguments, &[url]].concat()).await?;
            reply.is(status)?;
            Ok(reply)
        })
        .await
    }

    /// Sees that the server decides on requests to this URL, of the path `path`.
    async fn is_decided(base: &str, path: &str, over_grpc: bool) -> anyhow::Result<()> {
        let url = format!("{base}{path}");
        let forged = [&SESSION[..], &["-H", "x-auth-request-user: forged"]].concat();
        let reply = gets(&url, &forged, 200).await?;
        let headers = &reply.json()?["headers"];
        anyhow::ensure!(headers["x-auth-request-user"] == "ana", "{reply:?}");
        anyhow::ensure!(headers["x-auth-request-path"] == path, "{reply:?}");
        let denied = gets(&url, &[], if over_grpc { 401 } else { 302 }).await?;
        match over_grpc {
            true => {
                anyhow::ensure!(headers["cookie"].is_null(), "{reply:?}");
                anyhow::ensure!(reply.header("x-authorized") == Some("yes"), "{reply:?}");
                anyhow::ensure!(denied.body == "log in", "{denied:?}");
            }
            false => {
                let location = denied.header("location").unwrap_or_default();
                anyhow::ensure!(
                    location.starts_with("https://login.example.com/"),
                    "{denied:?}"
                );
                anyhow::ensure!(denied.header("set-cookie").is_some(), "{denied:?}");
            }
        }
        let body = [&SESSION[..], &["--data", "this is forbidden"]].concat();
        gets(&url, &body, 403).await?;
        let long = "x".repeat(1025);
        gets(&url, &[&SESSION[..], &["--data", &long]].concat(), 413).await?;
        Ok(())
    }

    pub(super) async fn rule_asks_its_server_over_http_and_grpc(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_authorizer().await?;
        ns.deploy_reviews("v1").await?;
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.gateway(edge).await?;
        let rules = json!([
            {"matches": [prefix("/reviews/http")], "filters": [filter("HTTP")], "backendRefs": [to("v1", 1)]},
            {"matches": [prefix("/reviews/grpc")], "filters": [filter("GRPC")], "backendRefs": [to("v1", 1)]},
            {"backendRefs": [to("v1", 1)]},
        ]);
        ns.gateway_route(route("HTTPRoute", "guarded", "edge", "", rules))
            .await?;
        let base = format!("http://{}", in_url(&address));
        is_decided(&base, "/reviews/http", false).await?;
        is_decided(&base, "/reviews/grpc", true).await?;
        gets(&format!("{base}/reviews/open"), &[], 200).await?;
        // Without its server nothing passes any longer, and it does again once it is back.
        let gone = DeleteParams::default().grace_period(0);
        ns.pods().delete("authorizer", &gone).await?;
        for path in ["http", "grpc"] {
            gets(&format!("{base}/reviews/{path}"), &SESSION, 403).await?;
        }
        ns.deploy_authorizer().await?;
        gets(&format!("{base}/reviews/http"), &SESSION, 200).await?;
        Ok(())
    }

    pub(super) async fn listener_asks_its_server_before_routing(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_authorizer().await?;
        ns.deploy_reviews("v1").await?;
        let mut guarded = listener("http", "HTTP", 80);
        guarded["filters"] = json!({"requests": [filter("GRPC")]});
        let address = ns.gateway(gateway("edge", json!([guarded]))).await?;
        // The route matches a header that only the server sets.
        let user = json!([{"name": "x-auth-request-user", "value": "ana"}]);
        let rules = json!([{"matches": [{"headers": user}], "backendRefs": [to("v1", 1)]}]);
        ns.gateway_route(route("HTTPRoute", "guarded", "edge", "", rules))
            .await?;
        let base = format!("http://{}", in_url(&address));
        is_decided(&base, "/reviews/1", true).await?;
        let other = [
            "-H",
            "cookie: session=bea",
            "-H",
            "x-auth-request-user: ana",
        ];
        gets(&format!("{base}/reviews/1"), &other, 404).await?;
        Ok(())
    }

    pub(super) async fn missing_server_closes_rule_and_listener(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let mut guarded = listener("guarded", "HTTP", 81);
        guarded["filters"] = json!({"requests": [filter("HTTP")]});
        let listeners = json!([listener("http", "HTTP", 80), guarded]);
        let address = ns.deploy_gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"matches": [prefix("/guarded")], "filters": [filter("HTTP")],
            "backendRefs": [to("v1", 1)]}]);
        ns.apply(route("HTTPRoute", "guarded", "edge", "http", rules))
            .await?;
        let address = in_url(&address);
        gets(&format!("http://{address}/guarded"), &SESSION, 500).await?;
        gets(&format!("http://{address}:81/reviews/1"), &SESSION, 500).await?;
        gets(&format!("http://{address}/reviews/1"), &[], 200).await?;
        eventually("the statuses to name the server", async || {
            let edge: Value = ns.get(objects::GATEWAY, "Gateway", "edge").await?;
            listener_conditions(&edge, "guarded")?.is_false(
                "ResolvedRefs",
                "InvalidListenerFilterRef",
                &["authorizer"],
            )?;
            let guarded = ns.get(objects::GATEWAY, "HTTPRoute", "guarded").await?;
            objects::conditions_by(&guarded, "weft.dev/gateway-controller")?.is_false(
                "ResolvedRefs",
                "BackendNotFound",
                &["authorizer"],
            )
        })
        .await
    }
}
