//! Conditions of invalid routes and policies: the reason, and a message with the cause and the fix.

cluster_tests! {
    run Unmeshed invalid_routes_get_their_conditions;
    run Unmeshed missing_parent_is_reported;
    run Unmeshed invalid_backend_tls_policies_get_their_conditions;
}

mod cases {
    use std::time::Duration;

    use serde_json::{Value, json};
    use weft_e2e::gateways::{CONTROLLER_NAME, gateway, listener, parameters, route};
    use weft_e2e::host::kubectl;
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, eventually};

    use crate::condition_table::{rows, with};

    /// Returns a route on the listener `open` with one rule to a backend.
    fn route_to(name: &str, backend: Value) -> Value {
        rule(name, json!({"backendRefs": [backend]}))
    }

    fn rule(name: &str, rule: Value) -> Value {
        route("HTTPRoute", name, "edge", "open", json!([rule]))
    }

    fn with_parent(name: &str, parent: Value) -> Value {
        let mut route = route_to(name, to("v1", 1));
        route["spec"]["parentRefs"] = json!([parent]);
        route
    }

    fn with_hostname(mut route: Value, host: &str) -> Value {
        route["spec"]["hostnames"] = json!([host]);
        route
    }

    fn bad_routes() -> Vec<Value> {
        let regex = json!({"path": {"type": "RegularExpression", "value": "/a("}});
        let extension = json!({"group": "example.com", "kind": "Thing", "name": "own"});
        let extension = json!({"type": "ExtensionRef", "extensionRef": extension});
        let backends = json!([to("v1", 1)]);
        let elsewhere = json!({"name": "kube-dns", "namespace": "kube-system", "port": 53});
        let bucket = json!({"group": "example.com", "kind": "Bucket", "name": "own"});
        let rpc = json!([{"backendRefs": [{"name": "reviews-v1", "port": 9000}]}]);
        vec![
            with_hostname(route_to("works", to("v1", 1)), "works.example.com"),
            with_parent("section", json!({"name": "edge", "sectionName": "typo"})),
            with_parent("port", json!({"name": "edge", "port": 81})),
            with_parent(
                "namespace",
                json!({"name": "edge", "sectionName": "closed"}),
            ),
            with_hostname(route_to("host", to("v1", 1)), "shop.example.org"),
            route(
                "TCPRoute",
                "kind",
                "edge",
                "open",
                json!([{"backendRefs": backends}]),
            ),
            with_hostname(
                route("GRPCRoute", "younger", "edge", "open", rpc),
                "works.example.com",
            ),
            route_to("backend", to("v7", 1)),
            route_to("backend-port", json!({"name": "reviews-v1", "port": 81})),
            route_to("bucket", bucket),
            route_to("not-granted", elsewhere),
            route_to("idle", to("v2", 1)),
            rule(
                "regex",
                json!({"matches": [regex], "backendRefs": backends}),
            ),
            rule(
                "extension",
                json!({"filters": [extension], "backendRefs": backends}),
            ),
        ]
    }

    const ROUTES: &str = "
        works        | Accepted     | Accepted                   |
        section      | Accepted     | NoMatchingParent           | no listener; typo; open
        port         | Accepted     | NoMatchingParent           | no listener; 81; 80
        namespace    | Accepted     | NotAllowedByListeners      | closed; team=other; allowedRoutes.namespaces
        host         | Accepted     | NoMatchingListenerHostname | shop.example.org; *.example.com
        kind         | Accepted     | NotAllowedByListeners      | open; HTTPRoute; TCPRoute
        younger      | Accepted     | Conflicted                 | HTTPRoute; works.example.com; give the two routes different hostnames
        backend      | ResolvedRefs | BackendNotFound            | reviews-v7; does not exist
        backend-port | ResolvedRefs | BackendNotFound            | no port 81; it has 80
        bucket       | ResolvedRefs | InvalidKind                | kind Bucket of group example.com; use a Service
        not-granted  | ResolvedRefs | RefNotPermitted            | ReferenceGrant; kube-system; kube-dns
        idle         | ResolvedRefs | ResolvedRefs               | reviews-v2; endpoint
        regex        | Accepted     | UnsupportedValue           | rules[0]; /a(
        extension    | Accepted     | UnsupportedValue           | rules[0].filters[0]; is not supported
    ";

    pub(super) async fn invalid_routes_get_their_conditions(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        services(ns, &["v1", "v2"]).await?;
        let other = json!({"from": "Selector", "selector": {"matchLabels": {"team": "other"}}});
        let open = with(
            listener("open", "HTTP", 80),
            "hostname",
            json!("*.example.com"),
        );
        let other = json!({"namespaces": other});
        let closed = with(listener("closed", "HTTP", 8081), "allowedRoutes", other);
        ns.apply(gateway("edge", json!([open, closed]))).await?;
        let routes = bad_routes();
        for route in &routes {
            ns.apply(route.clone()).await?;
        }
        for row in rows(ROUTES) {
            let named = routes.iter().find(|of| of["metadata"]["name"] == row.name);
            let kind = named.and_then(|of| of["kind"].as_str()).unwrap_or_default();
            eventually(row.name, async || {
                let route = ns.get(objects::GATEWAY, kind, row.name).await?;
                row.check(&objects::conditions_by(&route, CONTROLLER_NAME)?)
            })
            .await?;
        }
        Ok(())
    }

    /// A missing Gateway has no class, so no controller may write a status for it
    /// (`RouteStatus.parents`); an Event reports it. A missing Service is reported in the status by
    /// the mesh controller.
    pub(super) async fn missing_parent_is_reported(ns: &TestNamespace) -> anyhow::Result<()> {
        services(ns, &["v1"]).await?;
        let service = json!({"group": "", "kind": "Service", "name": "typo", "port": 80});
        ns.apply(with_parent("of-service", service)).await?;
        eventually("the missing Service to be reported", async || {
            let route = ns.get(objects::GATEWAY, "HTTPRoute", "of-service").await?;
            let conditions = objects::route_conditions(&route)?;
            conditions.is_false(
                "Accepted",
                "NoMatchingParent",
                &["Service", "/typo does not exist"],
            )
        })
        .await?;
        ns.apply(with_parent("early", json!({"name": "late"})))
            .await?;
        let no_status = async || {
            let route = ns.get(objects::GATEWAY, "HTTPRoute", "early").await?;
            let entries = route["status"]["parents"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(entries == 0, "the status has an entry: {}", route["status"]);
            Ok(())
        };
        eventually("the Event", async || {
            let arguments = ["-n", &ns.namespace, "describe", "httproute", "early"];
            let events = kubectl(&arguments).await?;
            let words = ["NoMatchingParent", "does not exist", "/late", "has none"];
            for word in words {
                anyhow::ensure!(
                    events.contains(word),
                    "the Event should contain {word:?}: {events}"
                );
            }
            Ok(())
        })
        .await?;
        no_status().await?;
        let accepted = async || {
            eventually("the route to be accepted", async || {
                let route = ns.get(objects::GATEWAY, "HTTPRoute", "early").await?;
                let conditions = objects::conditions_by(&route, CONTROLLER_NAME)?;
                anyhow::ensure!(conditions.of("Accepted")?.0 == "True", "{conditions}");
                Ok(())
            })
            .await
        };
        let late = gateway("late", json!([listener("http", "HTTP", 80)]));
        ns.apply(late).await?;
        accepted().await?;
        let gateways = ns.api(objects::GATEWAY, "Gateway");
        gateways.delete("late", &Default::default()).await?;
        eventually("the status entry to be removed", no_status).await
    }

    fn policy(name: &str, version: &str, validation: Value) -> Value {
        let target = json!({"group": "", "kind": "Service", "name": format!("reviews-{version}")});
        json!({
            "apiVersion": objects::GATEWAY, "kind": "BackendTLSPolicy", "metadata": {"name": name},
            "spec": {"targetRefs": [target], "validation": validation},
        })
    }

    async fn services(ns: &TestNamespace, versions: &[&str]) -> anyhow::Result<()> {
        for version in versions {
            let selector = json!({"app": "reviews", "version": version});
            ns.apply(objects::service(&format!("reviews-{version}"), selector))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn invalid_backend_tls_policies_get_their_conditions(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let versions = ["v1", "v2", "v3"];
        services(ns, &versions).await?;
        ns.apply(gateway("edge", json!([listener("open", "HTTP", 80)])))
            .await?;
        let all = versions.map(|version| to(version, 1));
        ns.apply(rule("all", json!({"backendRefs": all}))).await?;
        let of_map = |name: &str| {
            let map = json!([{"group": "", "kind": "ConfigMap", "name": name}]);
            json!({"hostname": "reviews.example.com", "caCertificateRefs": map})
        };
        ns.apply(parameters("empty", json!({"tls.crt": "no bundle"})))
            .await?;
        let system =
            json!({"hostname": "reviews.example.com", "wellKnownCACertificates": "System"});
        for one in [
            policy("absent", "v1", of_map("nothing")),
            policy("empty", "v2", of_map("empty")),
            policy("older", "v3", system.clone()),
        ] {
            ns.apply(one).await?;
        }
        // Precedence compares creation times in seconds.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        ns.apply(policy("younger", "v3", system)).await?;
        let table = "
            absent  | Accepted     | NoValidCACertificate    | get 500; ConfigMap; /nothing; does not exist; ca.crt
            absent  | ResolvedRefs | InvalidCACertificateRef | ConfigMap; /nothing; does not exist; create it
            empty   | ResolvedRefs | InvalidCACertificateRef | /empty; no key ca.crt
            younger | Accepted     | Conflicted              | /older; remove one of the two
        ";
        for row in rows(table) {
            eventually(row.name, async || {
                let policy = ns.get(objects::GATEWAY, "BackendTLSPolicy", row.name);
                let policy = policy.await?;
                let ancestor = &policy["status"]["ancestors"][0]["conditions"];
                let generation = &policy["metadata"]["generation"];
                row.check(&objects::conditions(ancestor, generation)?)
            })
            .await?;
        }
        Ok(())
    }
}
