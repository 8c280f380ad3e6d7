//! Objects of other controllers: their classes, status entries, finalizers and fields are not
//! changed.

cluster_tests! {
    run Unmeshed gateway_of_another_class_is_not_modified;
    run Unmeshed concurrent_status_writes_keep_foreign_entries;
    run Unmeshed foreign_finalizers_labels_and_annotations_are_kept;
    run Unmeshed ingress_on_a_shared_address_is_not_disrupted;
}

mod cases {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use anyhow::Context;
    use kube::api::{Patch, PatchParams, PostParams};
    use serde_json::{Value, json};
    use weft_e2e::gateways::{
        CONTROLLER_NAME, gateway, listener, parameters, route, with_parameters,
    };
    use weft_e2e::host::get;
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, control_plane, eventually};

    const THEIRS: &str = "other.example/controller";
    const KEEP: &str = "other.example/keep";

    fn http(name: &str) -> Value {
        gateway(name, json!([listener("http", "HTTP", 80)]))
    }

    fn reviews(name: &str, parents: Value, weight: u32) -> Value {
        let rules = json!([{"backendRefs": [to("v1", weight)]}]);
        let mut route = route("HTTPRoute", name, "", "", rules);
        route["spec"]["parentRefs"] = parents;
        route
    }

    async fn merge(
        ns: &TestNamespace,
        (version, kind): (&str, &str),
        name: &str,
        patch: Value,
    ) -> anyhow::Result<()> {
        let patch = Patch::Merge(patch);
        let api = ns.api(version, kind);
        api.patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn wait_until_deleted(
        ns: &TestNamespace,
        version: &str,
        kind: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        eventually(&format!("{kind} {name} to be deleted"), async || {
            let left = ns.api(version, kind).get_opt(name).await?;
            anyhow::ensure!(left.is_none(), "it still exists: {left:?}");
            Ok(())
        })
        .await
    }

    pub(super) async fn gateway_of_another_class_is_not_modified(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        // Cluster-scoped, so it is named after the test's namespace.
        let class = json!({
            "apiVersion": objects::GATEWAY, "kind": "GatewayClass", "metadata": {"name": ns.namespace},
            "spec": {"controllerName": THEIRS},
        });
        ns.apply(class).await?;
        let outcome = check_foreign_objects(ns).await;
        let classes = ns.api(objects::GATEWAY, "GatewayClass");
        classes.delete(&ns.namespace, &Default::default()).await?;
        outcome
    }

    async fn check_foreign_objects(ns: &TestNamespace) -> anyhow::Result<()> {
        let mut foreign = http("foreign");
        foreign["spec"]["gatewayClassName"] = json!(ns.namespace);
        foreign["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
        foreign["metadata"]["finalizers"] = json!([KEEP]);
        let set = json!({
            "apiVersion": objects::GATEWAY, "kind": "ListenerSet", "metadata": {"name": "foreign"},
            "spec": {"parentRef": {"name": "foreign"}, "listeners": [listener("more", "HTTP", 81)]},
        });
        let parents = json!([{"name": "foreign"}, {"kind": "ListenerSet", "name": "foreign"}]);
        let mut before = BTreeMap::new();
        for object in [foreign, set, reviews("foreign", parents, 1)] {
            let kind = object["kind"].as_str().unwrap_or_default().to_owned();
            let applied = ns.apply(object).await?;
            before.insert(kind, applied["metadata"]["resourceVersion"].clone());
        }
        // Once a later Gateway of ours is programmed, the controller has seen these objects.
        ns.gateway(http("ours")).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (kind, version) in before {
            let after = ns.get(objects::GATEWAY, &kind, "foreign").await?;
            let untouched = after["metadata"]["resourceVersion"] == version;
            anyhow::ensure!(untouched, "the object was modified: {after}");
        }
        let name = format!("foreign-{}", ns.namespace);
        for (version, kind) in [("v1", "Service"), ("apps/v1", "Deployment")] {
            let made = ns.api(version, kind).get_opt(&name).await?;
            anyhow::ensure!(made.is_none(), "{kind} {name} was created");
        }
        let class = ns
            .get(objects::GATEWAY, "GatewayClass", &ns.namespace)
            .await?;
        let status = class["status"].to_string();
        anyhow::ensure!(!status.contains("are served"), "{status}");
        // The finalizer would keep the namespace from terminating.
        let nothing = json!({"metadata": {"finalizers": null}});
        merge(ns, (objects::GATEWAY, "Gateway"), "foreign", nothing).await
    }

    /// Returns the status entry that the other controller writes in this round.
    fn their_entry(round: u32, generation: &Value) -> Value {
        json!({
            "controllerName": THEIRS,
            "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": format!("round {round}"),
                "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        })
    }

    /// Replaces the other controller's entry; fails unless it was as last written.
    async fn write_theirs(
        ns: &TestNamespace,
        round: u32,
        before: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let routes = ns.api(objects::GATEWAY, "HTTPRoute");
        loop {
            let mut route = routes.get("both").await?;
            let parents = route.data["status"]["parents"].as_array();
            let mut parents = parents.cloned().unwrap_or_default();
            let place = parents.iter().position(|of| of["controllerName"] == THEIRS);
            let found = place.map(|place| parents.remove(place));
            anyhow::ensure!(
                found.as_ref() == before,
                "the entry {before:?} became {found:?}"
            );
            let generation = json!(route.metadata.generation);
            let theirs = their_entry(round, &generation);
            parents.push(theirs.clone());
            route.data["status"] = json!({"parents": parents});
            match routes
                .replace_status("both", &PostParams::default(), &route)
                .await
            {
                Ok(_) => return Ok(theirs),
                // A conflicting write: retried from the current version.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error).context("writing the other controller's entry"),
            }
        }
    }

    /// Edits the route, so that the controller writes its status, while the other controller writes
    /// as fast as it can.
    pub(super) async fn concurrent_status_writes_keep_foreign_entries(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        ns.deploy_gateway(http("edge")).await?;
        let parents = json!([{"name": "edge"}, {"name": "theirs"}]);
        let route = |weight| reviews("both", parents.clone(), weight);
        ns.apply(route(1)).await?;
        let edits = async {
            for weight in 2..30 {
                ns.apply(route(weight)).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            anyhow::Ok(())
        };
        let mut edits = std::pin::pin!(edits);
        let (mut theirs, mut rounds) = (None, 0);
        loop {
            rounds += 1;
            tokio::select! {
                done = edits.as_mut() => break done?,
                written = write_theirs(ns, rounds, theirs.as_ref()) => theirs = Some(written?),
            }
        }
        // The last write may still be in flight when the edits are done.
        let newest = eventually("our status entry", async || {
            let route = ns.get(objects::GATEWAY, "HTTPRoute", "both").await?;
            let ours = objects::conditions_by(&route, CONTROLLER_NAME)?;
            let (_, reason, _) = ours.of("weft.dev/Programmed")?;
            anyhow::ensure!(reason == "Programmed", "{ours}");
            Ok(route)
        })
        .await?;
        let parents = newest["status"]["parents"].as_array();
        let of = |of: &&Value| of["controllerName"] == THEIRS;
        let left: Vec<&Value> = parents.into_iter().flatten().filter(of).collect();
        anyhow::ensure!(
            left.len() == 1,
            "there should be one foreign entry: {left:?}"
        );
        let known = left[0]["conditions"][0]["message"] == format!("round {rounds}");
        anyhow::ensure!(known || theirs.as_ref() == Some(left[0]), "{left:?}");
        eprintln!("{rounds} concurrent writes by the other controller");
        let log = control_plane::controller_log(&ns.client, started).await?;
        let mut lines = log.lines();
        let failed = lines
            .find(|line| line.contains(&ns.namespace) && line.contains("writing a status failed"));
        anyhow::ensure!(failed.is_none(), "{failed:?}");
        Ok(())
    }

    pub(super) async fn foreign_finalizers_labels_and_annotations_are_kept(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_gateway(http("edge")).await?;
        let marks = json!({"metadata": {
            "finalizers": [KEEP], "labels": {"other.example/a": "b"}, "annotations": {"other.example/c": "d"},
        }});
        let objects = [
            (objects::GATEWAY, "Gateway", "edge"),
            (objects::GATEWAY, "HTTPRoute", "reviews"),
            ("v1", "Service", "edge-weft"),
            ("apps/v1", "Deployment", "edge-weft"),
        ];
        for (version, kind, name) in objects {
            merge(ns, (version, kind), name, marks.clone()).await?;
        }
        let stay = async || {
            for (version, kind, name) in objects {
                let meta = ns.get(version, kind, name).await?["metadata"].take();
                let marked = meta["finalizers"] == json!([KEEP])
                    && meta["labels"]["other.example/a"] == "b"
                    && meta["annotations"]["other.example/c"] == "d";
                anyhow::ensure!(marked, "{kind}: {meta}");
            }
            anyhow::Ok(())
        };
        let more = json!([listener("http", "HTTP", 80), listener("more", "HTTP", 8080)]);
        let mut changed = gateway("edge", more);
        changed["spec"]["infrastructure"] = json!({"labels": {"team": "edge"}});
        ns.gateway(changed).await?;
        eventually("the change to be applied", async || {
            let service = ns.get("v1", "Service", "edge-weft").await?;
            let ports = service["spec"]["ports"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(ports == 2, "{service}");
            let deployment = ns.get("apps/v1", "Deployment", "edge-weft").await?;
            anyhow::ensure!(
                deployment["metadata"]["labels"]["team"] == "edge",
                "{deployment}"
            );
            Ok(())
        })
        .await?;
        stay().await?;
        for (version, kind, name) in objects {
            ns.api(version, kind)
                .delete(name, &Default::default())
                .await?;
        }
        // Gives a faulty controller time to remove them.
        tokio::time::sleep(Duration::from_secs(2)).await;
        stay().await?;
        let nothing = json!({"metadata": {"finalizers": null}});
        for (version, kind, name) in objects {
            merge(ns, (version, kind), name, nothing.clone()).await?;
            wait_until_deleted(ns, version, kind, name).await?;
        }
        Ok(())
    }

    /// With MetalLB, the Gateway shares the Service's address by annotation; elsewhere it has its
    /// own.
    pub(super) async fn ingress_on_a_shared_address_is_not_disrupted(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let share = "metallb.io/allow-shared-ip";
        ns.deploy_reviews("v1").await?;
        ns.apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "ingress", "annotations": {share: "edge"}},
            "spec": {
                "type": "LoadBalancer", "selector": {"app": "reviews"},
                "ports": [{"name": "http", "port": 8081, "targetPort": 8080}],
            },
        }))
        .await?;
        let ingress = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"},
            "spec": {"ingressClassName": "other", "defaultBackend": {"service": {"name": "ingress", "port": {"number": 8081}}}},
        });
        let before = ns.apply(ingress).await?;
        let address = eventually("the address of the ingress Service", async || {
            let service = ns.get("v1", "Service", "ingress").await?;
            let address = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
            address
                .as_str()
                .map(str::to_owned)
                .context("no address yet")
        })
        .await?;
        let response = async || {
            get(&address, 8081, "any", "/reviews/1")
                .await?
                .is(200)
                .map(drop)
        };
        eventually("the ingress to serve", response).await?;
        let annotation = json!({"serviceAnnotations": format!("{share}: edge")});
        ns.apply(parameters("edge", annotation)).await?;
        let mut edge = with_parameters(http("edge"), "edge");
        let metallb = ns
            .in_namespace("metallb-system")
            .list("apps/v1", "Deployment", "")
            .await?;
        if !metallb.is_empty() {
            edge["spec"]["addresses"] = json!([{"type": "IPAddress", "value": address}]);
        }
        let changes = async {
            let own = ns.deploy_gateway(edge).await?;
            anyhow::ensure!(
                metallb.is_empty() || own == address,
                "the Gateway has {own} instead of {address}"
            );
            eventually("the Gateway to serve on the same address", async || {
                get(&own, 80, "any", "/reviews/1").await?.is(200).map(drop)
            })
            .await?;
            let gateways = ns.api(objects::GATEWAY, "Gateway");
            gateways.delete("edge", &Default::default()).await?;
            wait_until_deleted(ns, "v1", "Service", "edge-weft").await
        };
        let mut changes = std::pin::pin!(changes);
        let mut count = 0;
        loop {
            tokio::select! {
                done = changes.as_mut() => break done?,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            response()
                .await
                .with_context(|| format!("request {count} to the ingress"))?;
            count += 1;
        }
        eprintln!("{count} requests to the ingress");
        response().await?;
        let after = ns.get("networking.k8s.io/v1", "Ingress", "shop").await?;
        let version = |of: &Value| of["metadata"]["resourceVersion"].clone();
        anyhow::ensure!(
            version(&before) == version(&after),
            "the object was modified: {after}"
        );
        Ok(())
    }
}
