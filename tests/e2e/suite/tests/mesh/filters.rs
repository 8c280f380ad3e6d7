//! Filters and policies of routes: mirrors, CORS and retries.

cluster_tests! {
    run Meshed mirror_gets_copies_of_requests;
    run Meshed mirror_to_a_missing_service_is_reported_and_ignored;
    run Meshed cors_headers_are_sent_to_allowed_origins;
    run Meshed failed_requests_are_retried;
    run Meshed grpc_mirror_gets_copies_of_requests;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";

    fn mirror(version: &str, port: u16) -> Value {
        let backend = json!({"name": format!("reviews-{version}"), "port": port});
        json!({"type": "RequestMirror", "requestMirror": {"backendRef": backend}})
    }

    /// Sends requests that v1 must answer until v2 has received copies; fails if v3 received any.
    async fn check_mirrored(
        ns: &TestNamespace,
        url: &str,
        arguments: &[&str],
        code: &str,
    ) -> anyhow::Result<()> {
        let copies = async |pod: &str| {
            let name = "weft_requests_total";
            ns.metric(pod, name, &[r#"direction="inbound""#]).await
        };
        // Probes and earlier checks also count as inbound requests.
        let (before, other) = (copies("reviews-v2").await?, copies("reviews-v3").await?);
        eventually("copies to reach v2", async || {
            let summary = ns.load("client", url, arguments).await?;
            summary.all(code)?.all_from("v1")?;
            let seen = copies("reviews-v2").await? - before;
            anyhow::ensure!(seen >= 20.0, "{seen} requests");
            Ok(())
        })
        .await?;
        let unexpected = copies("reviews-v3").await? - other;
        anyhow::ensure!(unexpected < 20.0, "{unexpected} requests reached v3");
        Ok(())
    }

    pub(super) async fn mirror_gets_copies_of_requests(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2", "v3"]).await?;
        let mut never = mirror("v3", 80);
        never["requestMirror"]["percent"] = 0.into();
        let rules = json!([{"filters": [mirror("v2", 80), never], "backendRefs": [to("v1", 1)]}]);
        ns.accepted_route(objects::http_route("mirror", rules))
            .await?;
        eventually("the route to be in effect", async || {
            let summary = ns.load("client", URL, &["-n", "10"]).await?;
            summary.all("200")?.all_from("v1")?;
            Ok(())
        })
        .await?;
        check_mirrored(ns, URL, &["-n", "50"], "200").await
    }

    pub(super) async fn grpc_mirror_gets_copies_of_requests(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2", "v3"]).await?;
        let v1 = json!({"name": "reviews-v1", "port": 9000});
        let rules = json!([{"filters": [mirror("v2", 9000)], "backendRefs": [v1]}]);
        ns.accepted_route(objects::grpc_route("mirror", rules))
            .await?;
        let url = "http://reviews:9000";
        eventually("the route to be in effect", async || {
            let summary = ns
                .load("client", url, &["--grpc", "get", "-n", "10"])
                .await?;
            summary.all("OK")?.all_from("v1")?;
            Ok(())
        })
        .await?;
        check_mirrored(ns, url, &["--grpc", "get", "-n", "50"], "OK").await
    }

    pub(super) async fn mirror_to_a_missing_service_is_reported_and_ignored(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([{"filters": [mirror("v9", 80)], "backendRefs": [to("v1", 1)]}]);
        let conditions = ns.route(objects::http_route("nowhere", rules)).await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["reviews-v9"])?;
        let (accepted, ..) = conditions.of("Accepted")?;
        anyhow::ensure!(accepted == "True", "{conditions}");
        ns.load("client", URL, &["-n", "10"]).await?.all("200")?;
        Ok(())
    }

    pub(super) async fn cors_headers_are_sent_to_allowed_origins(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let cors = json!({"type": "CORS", "cors": {
            "allowOrigins": ["https://*.shop.example"], "allowMethods": ["PUT"], "allowHeaders": ["x-a"],
            "allowCredentials": true, "maxAge": 60}});
        let rules = json!([{"filters": [cors], "backendRefs": [to("v1", 1)]}]);
        ns.accepted_route(objects::http_route("cors", rules))
            .await?;
        let origin = "origin: https://www.shop.example";
        let preflight = [
            "--method",
            "OPTIONS",
            "-H",
            "access-control-request-method: PUT",
        ];
        let answer = eventually("the route to be in effect", async || {
            let arguments = [&preflight[..], &["-H", origin]].concat();
            let summary = ns.load("client", URL, &arguments).await?;
            anyhow::ensure!(summary.code("204") == 1, "{summary}");
            Ok(summary.first_response())
        })
        .await?;
        for (name, value) in [
            ("access-control-allow-origin", "https://www.shop.example"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "60"),
        ] {
            anyhow::ensure!(answer.header(name) == Some(value), "{name}: {answer:?}");
        }
        for (origin, allowed) in [
            (origin, Some("https://www.shop.example")),
            ("origin: https://other.example", None),
        ] {
            let summary = ns.load("client", URL, &["-H", origin]).await?;
            summary.all("200")?;
            let answer = summary.first_response();
            let seen = answer.header("access-control-allow-origin");
            anyhow::ensure!(seen == allowed, "{answer:?}");
        }
        Ok(())
    }

    pub(super) async fn failed_requests_are_retried(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let retry = json!({"codes": [503], "attempts": 2, "backoff": "100ms"});
        let rules = json!([
            {"matches": [prefix("/status")], "retry": retry, "backendRefs": [to("v1", 1)]},
            {"backendRefs": [to("v1", 1)]},
        ]);
        ns.accepted_route(objects::http_route("retry", rules))
            .await?;
        let url = "http://reviews/status/503";
        let answer = eventually("retries to back off", async || {
            let summary = ns.load("client", url, &[]).await?;
            summary.all("503")?;
            let answer = summary.first_response();
            anyhow::ensure!(
                answer.millis() >= 300,
                "backoffs of 100 ms and 200 ms should have passed: {answer:?}"
            );
            Ok(answer)
        })
        .await?;
        anyhow::ensure!(answer.header("weft-error").is_none(), "{answer:?}");
        let retries = ns
            .metric(
                "client",
                "weft_request_retries_total",
                &["result=\"failed\""],
            )
            .await?;
        anyhow::ensure!(retries >= 2.0, "{retries}");
        ns.load("client", "http://reviews/status/500", &[])
            .await?
            .all("500")?;
        Ok(())
    }
}
