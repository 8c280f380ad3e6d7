//! Routing of requests, and the filters applied to them.

cluster_tests! {
    run Meshed requests_follow_backend_weights;
    run Meshed header_matches_select_the_backend;
    run Meshed filters_rewrite_url_and_headers;
    run Meshed proxy_answers_request_redirects;
    run Meshed request_timeout_answers_504;
    run Meshed request_without_matching_rule_answers_404;
    run Meshed grpc_route_matches_the_method;
    run Meshed pod_address_uses_mutual_tls_without_routes;
    run Meshed pods_without_a_proxy_send_and_receive_plain_text;
    run Meshed opaque_tcp_is_passed_through;
    run Meshed large_bodies_arrive_complete_over_http1_and_http2;
}

mod cases {
    use serde_json::json;
    use weft_e2e::host::in_url;
    use weft_e2e::objects::{self, header, prefix, to};
    use weft_e2e::{Summary, TestNamespace, eventually, identity};

    const URL: &str = "http://reviews/reviews/1";

    /// Sends until the responses match: configuration reaches the proxies with a delay.
    async fn load_until(
        ns: &TestNamespace,
        url: &str,
        arguments: &[&str],
        fits: impl Fn(&Summary) -> bool,
    ) -> anyhow::Result<Summary> {
        eventually("the route to be in effect", async || {
            let summary = ns.load("client", url, arguments).await?;
            anyhow::ensure!(fits(&summary), "{summary}");
            Ok(summary)
        })
        .await
    }

    pub(super) async fn requests_follow_backend_weights(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2", "v3"]).await?;
        ns.accepted_route(objects::http_route(
            "split",
            json!([{"backendRefs": [to("v1", 80), to("v2", 20), to("v3", 0)]}]),
        ))
        .await?;
        load_until(ns, URL, &["-n", "20"], |summary| {
            summary.failed() == 0 && summary.version("v3") == 0
        })
        .await?;
        let summary = ns
            .load("client", URL, &["-n", "500", "-c", "4", "--keep", "0"])
            .await?;
        summary.all("200")?;
        // Six standard deviations of 500 draws at 20 %.
        let second = summary.version("v2");
        anyhow::ensure!(
            (47..=153).contains(&second),
            "about 100 of 500 should go to v2: {summary}"
        );
        anyhow::ensure!(
            summary.version("v3") == 0,
            "a backend with weight 0 should get nothing: {summary}"
        );
        Ok(())
    }

    pub(super) async fn header_matches_select_the_backend(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let numbered = json!({"headers": [{"name": "x-user", "type": "RegularExpression", "value": "^[0-9]+$"}]});
        let rules = json!([
            {"backendRefs": [to("v1", 1)]},
            {"matches": [header("x-version", "v2"), numbered], "backendRefs": [to("v2", 1)]},
        ]);
        ns.accepted_route(objects::http_route("pick", rules))
            .await?;
        load_until(ns, URL, &["-H", "x-version: v2"], |summary| {
            summary.version("v2") == 1
        })
        .await?;
        for (sent, version) in [
            ("x-version: v2", "v2"),
            ("X-Version: v2", "v2"),
            ("x-version: v1", "v1"),
            ("x-user: 42", "v2"),
            ("x-user: 4b", "v1"),
        ] {
            ns.load("client", URL, &["-n", "10", "-H", sent])
                .await?
                .all_from(version)?;
        }
        Ok(())
    }

    pub(super) async fn filters_rewrite_url_and_headers(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rewrite = json!({"type": "URLRewrite", "urlRewrite": {
            "hostname": "old.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/reviews"}}});
        let request = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "x-set", "value": "new"}], "add": [{"name": "x-add", "value": "more"}], "remove": ["x-gone"]}});
        let response = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "set": [{"name": "x-served-by", "value": "rule"}]}});
        let rules = json!([{
            "matches": [prefix("/api/reviews")], "filters": [rewrite, request, response], "backendRefs": [to("v1", 1)],
        }]);
        ns.accepted_route(objects::http_route("rewrite", rules))
            .await?;
        let headers = ["-H", "x-set: old", "-H", "x-add: one", "-H", "x-gone: here"];
        let url = "http://reviews/api/reviews/7?full=yes";
        let answer = load_until(ns, url, &headers, |summary| summary.code("200") == 1)
            .await?
            .first_response();
        let seen = answer.body();
        anyhow::ensure!(
            seen["path"] == "/reviews/7" && seen["query"] == "full=yes",
            "{seen}"
        );
        anyhow::ensure!(answer.received("host") == Some("old.example"), "{seen}");
        anyhow::ensure!(answer.received("x-set") == Some("new"), "{seen}");
        let added = answer
            .received("x-add")
            .unwrap_or_default()
            .replace(' ', "");
        anyhow::ensure!(added == "one,more", "{seen}");
        anyhow::ensure!(answer.received("x-gone").is_none(), "{seen}");
        anyhow::ensure!(answer.header("x-served-by") == Some("rule"), "{answer:?}");
        Ok(())
    }

    pub(super) async fn proxy_answers_request_redirects(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let redirect = json!({"type": "RequestRedirect", "requestRedirect": {
            "scheme": "https", "hostname": "shop.example", "statusCode": 301,
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}});
        ns.accepted_route(objects::http_route(
            "redirect",
            json!([{"matches": [prefix("/old")], "filters": [redirect]}]),
        ))
        .await?;
        let url = "http://reviews/old/things?a=b";
        let answer = load_until(ns, url, &[], |summary| summary.code("301") == 1)
            .await?
            .first_response();
        let location = answer.header("location");
        anyhow::ensure!(
            location == Some("https://shop.example/new/things?a=b"),
            "{answer:?}"
        );
        Ok(())
    }

    pub(super) async fn request_timeout_answers_504(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rule = |path: &str, timeouts| json!({"matches": [prefix(path)], "timeouts": timeouts, "backendRefs": [to("v1", 1)]});
        let rules = json!([
            rule("/delay", json!({"request": "500ms"})),
            rule("/reviews", json!({"backendRequest": "5s"}))
        ]);
        ns.accepted_route(objects::http_route("timeout", rules))
            .await?;
        let slow = "http://reviews/delay/5000";
        let answer = load_until(ns, slow, &[], |summary| summary.code("504") == 1)
            .await?
            .first_response();
        anyhow::ensure!((450..3_000).contains(&answer.millis()), "{answer:?}");
        anyhow::ensure!(
            answer.header("weft-error").is_some(),
            "the response should name the cause: {answer:?}"
        );
        ns.load("client", "http://reviews/delay/50", &[])
            .await?
            .all("200")?;
        ns.load("client", URL, &[]).await?.all("200")?;
        Ok(())
    }

    pub(super) async fn request_without_matching_rule_answers_404(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.accepted_route(objects::http_route(
            "some",
            json!([{"matches": [prefix("/reviews")], "backendRefs": [to("v1", 1)]}]),
        ))
        .await?;
        let answer = load_until(ns, "http://reviews/healthz", &[], |summary| {
            summary.code("404") == 1
        })
        .await?
        .first_response();
        anyhow::ensure!(
            answer.header("weft-error").is_some(),
            "the response should name the cause: {answer:?}"
        );
        ns.load("client", URL, &[]).await?.all("200")?;
        Ok(())
    }

    pub(super) async fn grpc_route_matches_the_method(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2", "v3"]).await?;
        let to = |version: &str, weight: u32| json!({"name": format!("reviews-{version}"), "port": 9000, "weight": weight});
        let method = |name: &str| json!([{"method": {"service": "shop.Reviews", "method": name}}]);
        let rules =
            json!([{"matches": method("Get"), "backendRefs": [to("v1", 50), to("v2", 50)]}]);
        ns.accepted_route(objects::grpc_route("methods", rules))
            .await?;
        let url = "http://reviews:9000";
        load_until(ns, url, &["--grpc", "get", "-n", "20"], |summary| {
            summary.failed() == 0 && summary.version("v3") == 0
        })
        .await?;
        let summary = ns
            .load(
                "client",
                url,
                &["--grpc", "get", "-n", "200", "--keep", "0"],
            )
            .await?;
        summary.all("OK")?;
        anyhow::ensure!(
            (50..=150).contains(&summary.version("v1")),
            "about half should go to v1: {summary}"
        );
        ns.load("client", url, &["--grpc", "watch", "-n", "3"])
            .await?
            .all("Unimplemented")?;

        let rules = json!([{"matches": method("Watch"), "backendRefs": [to("v3", 1)]}]);
        ns.accepted_route(objects::grpc_route("methods", rules))
            .await?;
        let summary = load_until(ns, url, &["--grpc", "watch"], |summary| {
            summary.code("OK") == 1
        })
        .await?;
        summary.all_from("v3")?;
        anyhow::ensure!(
            summary.first_response().body()["messages"] == 3,
            "the stream should be complete: {summary}"
        );
        Ok(())
    }

    pub(super) async fn pod_address_uses_mutual_tls_without_routes(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        ns.accepted_route(objects::http_route(
            "all-to-2",
            json!([{"backendRefs": [to("v2", 1)]}]),
        ))
        .await?;
        load_until(ns, URL, &["-n", "10"], |summary| {
            summary.version("v2") == 10
        })
        .await?;
        let ip = in_url(&ns.pod_ip("reviews-v1").await?);
        let url = format!("http://{ip}:8080/reviews/direct");
        ns.load("client", &url, &["-n", "5"])
            .await?
            .all("200")?
            .all_from("v1")?;
        let client = identity::spiffe(&ns.namespace, "client");
        eventually(
            "the direct requests in the server's log, with the client's identity",
            async || {
                let accesses = ns
                    .accesses("reviews-v1", "inbound", "/reviews/direct")
                    .await?;
                anyhow::ensure!(
                    accesses
                        .iter()
                        .all(|access| access.is("client_id", &client)),
                    "{accesses:?}"
                );
                Ok(())
            },
        )
        .await
    }

    pub(super) async fn pods_without_a_proxy_send_and_receive_plain_text(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let mut plain = objects::client("plain");
        plain["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(plain).await?;
        ns.wait_until_ready("plain").await?;
        ns.reachable("plain", "http://reviews/reviews/1", &[])
            .await?;
        ns.load("plain", "http://reviews/reviews/outside", &["-n", "5"])
            .await?
            .all("200")?;
        ns.load("plain", "http://reviews:9000", &["--grpc", "get"])
            .await?
            .all("OK")?;
        eventually(
            "the requests in the server's log, without an identity",
            async || {
                let accesses = ns
                    .accesses("reviews-v1", "inbound", "/reviews/outside")
                    .await?;
                anyhow::ensure!(
                    accesses.iter().all(|access| access.is("client_id", "")),
                    "{accesses:?}"
                );
                Ok(())
            },
        )
        .await?;
        // Also from the mesh to a server without a proxy.
        let mut plain = objects::reviews("v9");
        plain["metadata"]["labels"] = json!({"app": "plain", "weft.dev/inject": "disabled"});
        ns.apply(plain).await?;
        ns.apply(objects::service("plain", json!({"app": "plain"})))
            .await?;
        ns.wait_until_ready("reviews-v9").await?;
        load_until(ns, "http://plain/reviews/1", &["-n", "3"], |summary| {
            summary.version("v9") == 3
        })
        .await?;
        Ok(())
    }

    pub(super) async fn opaque_tcp_is_passed_through(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let echo = [
            "weft-shop",
            "talk",
            "--connect",
            "reviews:7000",
            "--send",
            "neither HTTP nor TLS\n",
            "--times",
            "5000",
        ];
        let received = ns.exec("client", "shop", &echo).await?;
        anyhow::ensure!(
            received == "neither HTTP nor TLS\n".repeat(5000),
            "{} bytes were echoed",
            received.len()
        );
        let greet = [
            "weft-shop",
            "talk",
            "--connect",
            "reviews:7001",
            "--listen-first",
            "--send",
            "HELO there\r\n",
        ];
        let received = ns.exec("client", "shop", &greet).await?;
        anyhow::ensure!(
            received == "220 reviews v1\r\nHELO there\r\n",
            "{received:?}"
        );
        Ok(())
    }

    pub(super) async fn large_bodies_arrive_complete_over_http1_and_http2(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        for protocol in [&["--http2"][..], &[]] {
            let arguments = [
                protocol,
                &["--method", "POST", "--body", "3000000", "-n", "3"],
            ]
            .concat();
            let summary = ns.load("client", URL, &arguments).await?;
            summary.all("200")?;
            let body = summary.first_response().body().clone();
            anyhow::ensure!(body["bytes_received"] == 3_000_000, "{body}");
            let version = if protocol.is_empty() {
                "HTTP/1.1"
            } else {
                "HTTP/2.0"
            };
            anyhow::ensure!(
                body["protocol"] == version,
                "the application should get the client's HTTP version: {body}"
            );
        }
        Ok(())
    }
}
