//! Selection and merging of rules: redirect codes, precedence of routes, ports of parents, gRPC
//! methods.

cluster_tests! {
    run Meshed redirect_filter_uses_its_status_code;
    run Meshed older_of_two_merged_routes_has_precedence;
    run Meshed route_applies_only_to_its_parent_port;
    run Meshed grpc_method_regexes_select_the_backend;
}

mod cases {
    use std::time::Duration;

    use serde_json::{Value, json};
    use weft_e2e::objects::{self, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";

    async fn wait_for_code(
        ns: &TestNamespace,
        url: &str,
        arguments: &[&str],
        code: &str,
    ) -> anyhow::Result<()> {
        eventually(&format!("{url} to answer {code}"), async || {
            let summary = ns.load("client", url, arguments).await?;
            summary.all(code).map(drop)
        })
        .await
    }

    pub(super) async fn redirect_filter_uses_its_status_code(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rule = |code: u16| {
            let redirect = json!({"hostname": "shop.example", "port": 8443, "statusCode": code,
                "path": {"type": "ReplaceFullPath", "replaceFullPath": format!("/new/{code}")}});
            let filter = json!({"type": "RequestRedirect", "requestRedirect": redirect});
            json!({"matches": [prefix(&format!("/old/{code}"))], "filters": [filter]})
        };
        let codes = [301, 302, 303, 307, 308];
        let rules: Value = codes.map(rule).into_iter().collect();
        ns.accepted_route(objects::http_route("codes", rules))
            .await?;
        for code in codes {
            let url = format!("http://reviews/old/{code}?a=b");
            wait_for_code(ns, &url, &[], &code.to_string()).await?;
            let answer = ns.load("client", &url, &[]).await?.first_response();
            let wanted = format!("http://shop.example:8443/new/{code}?a=b");
            anyhow::ensure!(answer.header("location") == Some(&wanted), "{answer:?}");
        }
        Ok(())
    }

    pub(super) async fn older_of_two_merged_routes_has_precedence(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let older = json!([{"name": "all", "matches": [prefix("/reviews")], "backendRefs": [to("v1", 1), to("v2", 0)]}]);
        ns.accepted_route(objects::http_route("z-older", older))
            .await?;
        // Precedence compares creation times in seconds; for equal times the name would decide for
        // the other route.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let younger = json!([
            {"matches": [prefix("/reviews")], "backendRefs": [to("v2", 1)]},
            {"matches": [prefix("/reviews/2")], "backendRefs": [to("v2", 1)]},
        ]);
        ns.accepted_route(objects::http_route("a-younger", younger))
            .await?;
        eventually("the younger route to be in effect", async || {
            let url = "http://reviews/reviews/2";
            let summary = ns.load("client", url, &["-n", "10"]).await?;
            summary.all("200")?.all_from("v2").map(drop)
        })
        .await?;
        let summary = ns.load("client", URL, &["-n", "20"]).await?;
        summary.all("200")?.all_from("v1")?;
        eventually("the rule's name in the access log", async || {
            let lines = ns.accesses("client", "outbound", "/reviews/1").await?;
            let named = lines.iter().any(|line| line.is("rule", "all"));
            anyhow::ensure!(named, "{lines:?}");
            Ok(())
        })
        .await
    }

    pub(super) async fn route_applies_only_to_its_parent_port(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let marked = |value: &str| {
            json!([{"backendRefs": [to("v1", 1)], "filters": [{"type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "x-port", "value": value}]}}]}])
        };
        let mut by_name = objects::http_route("by-name", marked("http"));
        by_name["spec"]["parentRefs"][0] =
            json!({"group": "", "kind": "Service", "name": "reviews", "sectionName": "http"});
        ns.accepted_route(by_name).await?;
        let by_number = objects::route("HTTPRoute", "by-number", "reviews", 9000, marked("9000"));
        ns.accepted_route(by_number).await?;
        for (url, wanted) in [(URL, "http"), ("http://reviews:9000/reviews/1", "9000")] {
            eventually("each port to use its own route", async || {
                let answer = ns.load("client", url, &[]).await?.first_response();
                anyhow::ensure!(answer.header("x-port") == Some(wanted), "{answer:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn grpc_method_regexes_select_the_backend(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let method = |service: &str, name: &str| json!([{"method": {"type": "RegularExpression", "service": service, "method": name}}]);
        let backend = |name: &str| json!([{"name": name, "port": 9000}]);
        let rules = json!([
            {"matches": method("shop\\.Rev[a-z]+", "G.t"), "backendRefs": backend("reviews-v2")},
            {"matches": method(".*", "Watch"), "backendRefs": backend("nobody")},
        ]);
        let conditions = ns.route(objects::grpc_route("patterns", rules)).await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["nobody"])?;
        let url = "http://reviews:9000";
        wait_for_code(ns, url, &["--grpc", "watch"], "Internal").await?;
        let summary = ns
            .load("client", url, &["--grpc", "get", "-n", "10"])
            .await?;
        summary.all("OK")?.all_from("v2").map(drop)
    }
}
