//! Services as parents and backends of routes, response header filters, and weights of 0.

cluster_tests! {
    run Meshed service_without_selector_is_a_valid_parent;
    run Meshed cross_namespace_backend_needs_no_reference_grant;
    run Meshed external_name_service_is_rejected_with_a_reason;
    run Meshed response_header_filters_of_rule_and_backend_apply;
    run Meshed zero_weight_backend_gets_no_requests;
}

mod cases {
    use kube::api::DeleteParams;
    use serde_json::json;
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";

    pub(super) async fn service_without_selector_is_a_valid_parent(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "facade"},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        }))
        .await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        let route = objects::route("HTTPRoute", "facade", "facade", 80, rules);
        ns.accepted_route(route).await?;
        eventually("requests to the facade to reach v1", async || {
            let summary = ns
                .load("client", "http://facade/reviews/1", &["-n", "5"])
                .await?;
            summary.all("200")?.all_from("v1").map(drop)
        })
        .await
    }

    pub(super) async fn cross_namespace_backend_needs_no_reference_grant(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let other = TestNamespace {
            client: ns.client.clone(),
            namespace: format!("{}-b", ns.namespace),
        };
        let outcome = check_cross_namespace_backend(ns, &other).await;
        let namespaces = other.api("v1", "Namespace");
        let at_once = DeleteParams::default();
        let removed = namespaces.delete(&other.namespace, &at_once).await;
        outcome?;
        removed?;
        Ok(())
    }

    async fn check_cross_namespace_backend(
        ns: &TestNamespace,
        other: &TestNamespace,
    ) -> anyhow::Result<()> {
        let own = ns.get("v1", "Namespace", &ns.namespace).await?;
        let run = &own["metadata"]["labels"]["weft.dev/e2e"];
        let run = run.as_str().unwrap_or_default();
        other
            .apply(objects::namespace(&other.namespace, run, true))
            .await?;
        for account in ["client", "reviews"] {
            other.apply(objects::account(account)).await?;
        }
        other.deploy_shop(&["v2"]).await?;
        let backend = json!({"name": "reviews", "namespace": other.namespace, "port": 80});
        let rules = json!([{"backendRefs": [backend]}]);
        ns.accepted_route(objects::http_route("elsewhere", rules))
            .await?;
        eventually(
            "the backend of the other namespace to respond",
            async || {
                let summary = ns.load("client", URL, &["-n", "5"]).await?;
                summary.all("200")?.all_from("v2").map(drop)
            },
        )
        .await
    }

    pub(super) async fn external_name_service_is_rejected_with_a_reason(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "abroad"},
            "spec": {"type": "ExternalName", "externalName": "example.com",
                "ports": [{"name": "http", "port": 80}]},
        }))
        .await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        let parent = objects::route("HTTPRoute", "parent", "abroad", 80, rules);
        let conditions = ns.route(parent).await?;
        let (status, _, message) = conditions.of("Accepted")?;
        anyhow::ensure!(
            status == "False" && message.contains("ExternalName"),
            "{conditions}"
        );
        let rules = json!([{"backendRefs": [{"name": "abroad", "port": 80}]}]);
        let conditions = ns.route(objects::http_route("backend", rules)).await?;
        let (status, _, message) = conditions.of("ResolvedRefs")?;
        anyhow::ensure!(
            status == "False" && message.contains("ExternalName"),
            "{conditions}"
        );
        eventually("requests to answer 500", async || {
            ns.load("client", URL, &[]).await?.all("500").map(drop)
        })
        .await
    }

    pub(super) async fn response_header_filters_of_rule_and_backend_apply(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let edit = |what: serde_json::Value| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": what});
        let mut v1 = to("v1", 1);
        let by_backend = json!({"set": [{"name": "x-set", "value": "backend"}, {"name": "x-gone", "value": "1"}]});
        v1["filters"] = json!([edit(by_backend)]);
        let by_rule = json!({"add": [{"name": "x-added", "value": "rule"}], "remove": ["x-gone", "content-type"]});
        let rules = json!([{"filters": [edit(by_rule)], "backendRefs": [v1]}]);
        ns.accepted_route(objects::http_route("headers", rules))
            .await?;
        eventually("both filters to apply", async || {
            let answer = ns.load("client", URL, &[]).await?.first_response();
            let seen =
                ["x-set", "x-added", "x-gone", "content-type"].map(|name| answer.header(name));
            anyhow::ensure!(
                seen == [Some("backend"), Some("rule"), None, None],
                "{seen:?}"
            );
            Ok(())
        })
        .await
    }

    pub(super) async fn zero_weight_backend_gets_no_requests(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let rules = json!([{"backendRefs": [to("v1", 0), to("v2", 3)]}]);
        ns.accepted_route(objects::http_route("shares", rules))
            .await?;
        let grpc = |version: &str, weight: u32| json!({"name": format!("reviews-{version}"), "port": 9000, "weight": weight});
        let rules = json!([{"backendRefs": [grpc("v1", 0), grpc("v2", 3)]}]);
        ns.accepted_route(objects::grpc_route("shares", rules))
            .await?;
        eventually("v2 to get all requests", async || {
            let summary = ns.load("client", URL, &["-n", "30"]).await?;
            summary.all("200")?.all_from("v2")?;
            let arguments = ["--grpc", "get", "-n", "30"];
            let summary = ns.load("client", "http://reviews:9000", &arguments).await?;
            summary.all("OK")?.all_from("v2").map(drop)
        })
        .await?;
        let rules = json!([{"backendRefs": [grpc("v1", 0), grpc("v2", 0)]}]);
        ns.accepted_route(objects::grpc_route("shares", rules))
            .await?;
        eventually("all requests to fail", async || {
            let arguments = ["--grpc", "get", "-n", "5"];
            let summary = ns.load("client", "http://reviews:9000", &arguments).await?;
            anyhow::ensure!(summary.code("OK") == 0, "{summary}");
            anyhow::ensure!(summary.failed() == summary.sent(), "{summary}");
            Ok(())
        })
        .await
    }
}
