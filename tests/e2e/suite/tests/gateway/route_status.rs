//! What routes and policies that cannot work are told: the condition, its reason, and a message that names what is wrong
//! and what to do.

mesh_tests! {
    run Out invalid_routes_get_their_conditions;
    run Out missing_parent_is_reported;
    run Out invalid_backend_tls_policies_get_their_conditions;
}

mod cases {
    use std::time::Duration;

    use serde_json::{Value, json};
    use weft_e2e::gateways::{CONTROLLER_NAME, gateway, listener, parameters, route};
    use weft_e2e::host::kubectl;
    use weft_e2e::objects::{self, to};
    use weft_e2e::{Bed, eventually};

    use crate::rows::{rows, with};

    /// A route on the listener `open`, of one rule to a backend.
    fn http(name: &str, backend: Value) -> Value {
        rule(name, json!({"backendRefs": [backend]}))
    }

    fn rule(name: &str, rule: Value) -> Value {
        route("HTTPRoute", name, "edge", "open", json!([rule]))
    }

    fn on(name: &str, parent: Value) -> Value {
        let mut route = http(name, to("v1", 1));
        route["spec"]["parentRefs"] = json!([parent]);
        route
    }

    fn of_host(mut route: Value, host: &str) -> Value {
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
            of_host(http("works", to("v1", 1)), "works.example.com"),
            on("section", json!({"name": "edge", "sectionName": "typo"})),
            on("port", json!({"name": "edge", "port": 81})),
            on(
                "namespace",
                json!({"name": "edge", "sectionName": "closed"}),
            ),
            of_host(http("host", to("v1", 1)), "shop.example.org"),
            route(
                "TCPRoute",
                "kind",
                "edge",
                "open",
                json!([{"backendRefs": backends}]),
            ),
            of_host(
                route("GRPCRoute", "younger", "edge", "open", rpc),
                "works.example.com",
            ),
            http("backend", to("v7", 1)),
            http("backend-port", json!({"name": "reviews-v1", "port": 81})),
            http("bucket", bucket),
            http("not-granted", elsewhere),
            http("idle", to("v2", 1)),
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
        extension    | Accepted     | UnsupportedValue           | rules[0].filters[0]; ExtensionRef
    ";

    pub(super) async fn invalid_routes_get_their_conditions(bed: &Bed) -> anyhow::Result<()> {
        services(bed, &["v1", "v2"]).await?;
        let other = json!({"from": "Selector", "selector": {"matchLabels": {"team": "other"}}});
        let open = with(
            listener("open", "HTTP", 80),
            "hostname",
            json!("*.example.com"),
        );
        let other = json!({"namespaces": other});
        let closed = with(listener("closed", "HTTP", 8081), "allowedRoutes", other);
        bed.apply(gateway("edge", json!([open, closed]))).await?;
        let routes = bad_routes();
        for route in &routes {
            bed.apply(route.clone()).await?;
        }
        for row in rows(ROUTES) {
            let named = routes.iter().find(|of| of["metadata"]["name"] == row.name);
            let kind = named.and_then(|of| of["kind"].as_str()).unwrap_or_default();
            eventually(row.name, async || {
                let route = bed.get(objects::GATEWAY, kind, row.name).await?;
                row.check(&objects::conditions_by(&route, CONTROLLER_NAME)?)
            })
            .await?;
        }
        Ok(())
    }

    /// Whose a Gateway is that is not there nobody knows, so that no status may speak of it (`RouteStatus.parents`); an
    /// Event does. Of a Service that is not there the mesh speaks.
    pub(super) async fn missing_parent_is_reported(bed: &Bed) -> anyhow::Result<()> {
        services(bed, &["v1"]).await?;
        let service = json!({"group": "", "kind": "Service", "name": "typo", "port": 80});
        bed.apply(on("of-service", service)).await?;
        eventually("the Service to be missed", async || {
            let route = bed.get(objects::GATEWAY, "HTTPRoute", "of-service").await?;
            let told = objects::route_conditions(&route)?;
            told.is_false(
                "Accepted",
                "NoMatchingParent",
                &["Service", "/typo does not exist"],
            )
        })
        .await?;
        bed.apply(on("early", json!({"name": "late"}))).await?;
        let nobody = async || {
            let route = bed.get(objects::GATEWAY, "HTTPRoute", "early").await?;
            let entries = route["status"]["parents"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(entries == 0, "somebody spoke: {}", route["status"]);
            Ok(())
        };
        eventually("an Event", async || {
            let told = ["-n", &bed.namespace, "describe", "httproute", "early"];
            let told = kubectl(&told).await?;
            let words = [
                "NoMatchingParent",
                "there is no Gateway",
                "/late",
                "has none",
            ];
            for word in words {
                anyhow::ensure!(told.contains(word), "no {word:?}: {told}");
            }
            Ok(())
        })
        .await?;
        nobody().await?;
        let accepted = async || {
            eventually("the route to be in force", async || {
                let route = bed.get(objects::GATEWAY, "HTTPRoute", "early").await?;
                let told = objects::conditions_by(&route, CONTROLLER_NAME)?;
                anyhow::ensure!(told.of("Accepted")?.0 == "True", "{told}");
                Ok(())
            })
            .await
        };
        let late = gateway("late", json!([listener("http", "HTTP", 80)]));
        bed.apply(late).await?;
        accepted().await?;
        let gateways = bed.api(objects::GATEWAY, "Gateway");
        gateways.delete("late", &Default::default()).await?;
        eventually("what was said to be taken back", nobody).await
    }

    fn policy(name: &str, version: &str, validation: Value) -> Value {
        let target = json!({"group": "", "kind": "Service", "name": format!("reviews-{version}")});
        json!({
            "apiVersion": objects::GATEWAY, "kind": "BackendTLSPolicy", "metadata": {"name": name},
            "spec": {"targetRefs": [target], "validation": validation},
        })
    }

    async fn services(bed: &Bed, versions: &[&str]) -> anyhow::Result<()> {
        for version in versions {
            let selector = json!({"app": "reviews", "version": version});
            bed.apply(objects::service(&format!("reviews-{version}"), selector))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn invalid_backend_tls_policies_get_their_conditions(
        bed: &Bed,
    ) -> anyhow::Result<()> {
        let versions = ["v1", "v2", "v3"];
        services(bed, &versions).await?;
        bed.apply(gateway("edge", json!([listener("open", "HTTP", 80)])))
            .await?;
        let all = versions.map(|version| to(version, 1));
        bed.apply(rule("all", json!({"backendRefs": all}))).await?;
        let of_map = |name: &str| {
            let map = json!([{"group": "", "kind": "ConfigMap", "name": name}]);
            json!({"hostname": "reviews.example.com", "caCertificateRefs": map})
        };
        bed.apply(parameters("empty", json!({"tls.crt": "no bundle"})))
            .await?;
        let system =
            json!({"hostname": "reviews.example.com", "wellKnownCACertificates": "System"});
        for one in [
            policy("absent", "v1", of_map("nothing")),
            policy("empty", "v2", of_map("empty")),
            policy("older", "v3", system.clone()),
        ] {
            bed.apply(one).await?;
        }
        // Ages are told apart by the second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        bed.apply(policy("younger", "v3", system)).await?;
        let table = "
            absent  | Accepted     | NoValidCACertificate    | get 500; ConfigMap; /nothing; does not exist; ca.crt
            absent  | ResolvedRefs | InvalidCACertificateRef | ConfigMap; /nothing; does not exist; create it
            empty   | ResolvedRefs | InvalidCACertificateRef | /empty; no key ca.crt
            younger | Accepted     | Conflicted              | /older; remove one of the two
        ";
        for row in rows(table) {
            eventually(row.name, async || {
                let policy = bed.get(objects::GATEWAY, "BackendTLSPolicy", row.name);
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
