//! Invalid routes: the status names the cause, the invalid rule answers 500, and other rules keep
//! working.

cluster_tests! {
    run Meshed missing_backend_service_answers_500_until_created;
    run Meshed missing_backend_port_answers_500;
    run Meshed unknown_backend_kind_answers_500;
    run Meshed invalid_regex_answers_500_for_its_rule;
    run Meshed headless_parent_is_rejected;
    run Meshed missing_parent_service_or_port_is_rejected;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, Conditions, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const INVALID_URL: &str = "http://reviews/status/200";
    const VALID_URL: &str = "http://reviews/reviews/1";

    /// Applies a route with a rule for /status that refers to `backend`, and a valid one for
    /// /reviews.
    async fn apply_route_with_backend(
        ns: &TestNamespace,
        backend: Value,
    ) -> anyhow::Result<Conditions> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([
            {"matches": [prefix("/status")], "backendRefs": [backend]},
            {"matches": [prefix("/reviews")], "backendRefs": [to("v1", 1)]},
        ]);
        ns.route(objects::http_route("half-broken", rules)).await
    }

    /// Checks that the invalid rule answers 500 with the cause in `weft-error`, and that the other
    /// rule works.
    async fn check_invalid_and_valid_rule(
        ns: &TestNamespace,
        words: &[&str],
    ) -> anyhow::Result<()> {
        eventually("the invalid rule to answer 500", async || {
            let summary = ns.load("client", INVALID_URL, &["-n", "5"]).await?;
            let cause = summary
                .all("500")?
                .first_response()
                .header("weft-error")
                .unwrap_or_default()
                .to_owned();
            for word in words {
                anyhow::ensure!(
                    cause.contains(word),
                    "weft-error should contain {word:?}: {cause:?}"
                );
            }
            Ok(())
        })
        .await?;
        ns.load("client", VALID_URL, &["-n", "5"])
            .await?
            .all("200")?;
        Ok(())
    }

    pub(super) async fn missing_backend_service_answers_500_until_created(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let conditions =
            apply_route_with_backend(ns, json!({"name": "nobody", "port": 80})).await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["nobody"])?;
        check_invalid_and_valid_rule(ns, &["nobody"]).await?;
        // The rule works once the Service exists.
        ns.apply(objects::service("nobody", json!({"app": "reviews"})))
            .await?;
        eventually("the rule to serve the new Service", async || {
            ns.load("client", INVALID_URL, &["-n", "3"])
                .await?
                .all("200")
                .map(drop)
        })
        .await
    }

    pub(super) async fn missing_backend_port_answers_500(ns: &TestNamespace) -> anyhow::Result<()> {
        let conditions =
            apply_route_with_backend(ns, json!({"name": "reviews-v1", "port": 81})).await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["reviews-v1", "81"])?;
        check_invalid_and_valid_rule(ns, &["81"]).await
    }

    pub(super) async fn unknown_backend_kind_answers_500(ns: &TestNamespace) -> anyhow::Result<()> {
        let backend = json!({"group": "odd.example", "kind": "Oddity", "name": "odd", "port": 80});
        let conditions = apply_route_with_backend(ns, backend).await?;
        conditions.is_false("ResolvedRefs", "InvalidKind", &["Oddity"])?;
        check_invalid_and_valid_rule(ns, &["Oddity"]).await
    }

    pub(super) async fn invalid_regex_answers_500_for_its_rule(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let bad = json!({"path": {"type": "PathPrefix", "value": "/status"},
            "headers": [{"name": "x-user", "type": "RegularExpression", "value": "(unclosed"}]});
        let rules = json!([
            {"matches": [bad], "backendRefs": [to("v1", 1)]},
            {"matches": [prefix("/reviews")], "backendRefs": [to("v1", 1)]},
        ]);
        let conditions = ns.route(objects::http_route("regex", rules)).await?;
        let text = conditions.to_string();
        anyhow::ensure!(
            text.contains("unclosed"),
            "the status should contain the pattern: {text}"
        );
        let (accepted, ..) = conditions.of("Accepted")?;
        let partially = conditions
            .of("PartiallyInvalid")
            .is_ok_and(|(status, ..)| status == "True");
        anyhow::ensure!(
            accepted == "False" || partially,
            "the status should report the invalid rule: {text}"
        );
        check_invalid_and_valid_rule(ns, &[]).await
    }

    pub(super) async fn headless_parent_is_rejected(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let mut headless = objects::service("headless", json!({"app": "reviews"}));
        headless["spec"]["clusterIP"] = "None".into();
        ns.apply(headless).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        let conditions = ns
            .route(objects::route(
                "HTTPRoute",
                "on-headless",
                "headless",
                80,
                rules,
            ))
            .await?;
        let (status, reason, message) = conditions.of("Accepted")?;
        anyhow::ensure!(
            status == "False",
            "a headless Service must be rejected as a parent: {conditions}"
        );
        anyhow::ensure!(message.contains("headless"), "{reason}: {message}");
        // Its pods remain reachable by their own addresses and ports.
        ns.load("client", "http://headless:8080/reviews/1", &["-n", "3"])
            .await?
            .all("200")?;
        ns.load("client", VALID_URL, &["-n", "3"])
            .await?
            .all("200")?;
        Ok(())
    }

    pub(super) async fn missing_parent_service_or_port_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        let conditions = ns
            .route(objects::route(
                "HTTPRoute",
                "orphan",
                "ghost",
                80,
                rules.clone(),
            ))
            .await?;
        conditions.is_false("Accepted", "NoMatchingParent", &["ghost"])?;
        let conditions = ns
            .route(objects::route(
                "HTTPRoute",
                "portless",
                "reviews",
                81,
                rules,
            ))
            .await?;
        conditions.is_false("Accepted", "NoMatchingParent", &["81"])?;
        ns.load("client", VALID_URL, &["-n", "3"])
            .await?
            .all("200")?;
        Ok(())
    }
}
