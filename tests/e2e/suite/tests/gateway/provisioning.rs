//! The objects that run a Gateway: created with it, configured by its parameters, and deleted with
//! it.

cluster_tests! {
    run Unmeshed provisioned_objects_are_deleted_with_their_gateway;
    run Unmeshed existing_service_is_not_overwritten;
    run Unmeshed invalid_parameters_are_reported;
    run Meshed gateway_pod_in_injected_namespace_gets_no_sidecar;
    run Unmeshed gateways_have_separate_addresses_and_pods;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::gateways::{
        gateway, listener, parameters, route, top_conditions, with_parameters,
    };
    use weft_e2e::host::get;
    use weft_e2e::{TestNamespace, eventually, objects};

    const KINDS: [(&str, &str); 5] = [
        ("v1", "ServiceAccount"),
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("policy/v1", "PodDisruptionBudget"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ];

    fn http(name: &str) -> Value {
        gateway(name, json!([listener("http", "HTTP", 80)]))
    }

    async fn check_deleted(
        ns: &TestNamespace,
        (version, kind): (&str, &str),
        name: &str,
    ) -> anyhow::Result<()> {
        let left = ns.api(version, kind).get_opt(name).await?;
        anyhow::ensure!(left.is_none(), "{kind} {name} still exists");
        Ok(())
    }

    pub(super) async fn provisioned_objects_are_deleted_with_their_gateway(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let wishes = json!({
            "minReplicas": "1", "maxReplicas": "3", "cpuRequest": "15m", "memoryLimit": "96Mi",
            "externalTrafficPolicy": "Local", "serviceAnnotations": "example.com/a: \"b\"",
        });
        ns.apply(parameters("wishes", wishes)).await?;
        let mut wished = with_parameters(http("wished"), "wishes");
        wished["spec"]["infrastructure"]["labels"] = json!({"example.com/team": "edge"});
        wished["spec"]["infrastructure"]["annotations"] = json!({"example.com/note": "ours"});
        ns.gateway(wished).await?;
        for (version, kind) in KINDS {
            let object = ns.get(version, kind, "wished-weft").await?;
            let meta = &object["metadata"];
            for (label, value) in [
                ("example.com/team", "edge"),
                ("gateway.networking.k8s.io/gateway-name", "wished"),
                ("gateway.networking.k8s.io/gateway-class-name", "weft"),
            ] {
                anyhow::ensure!(meta["labels"][label] == value, "{kind}: {meta}");
            }
            anyhow::ensure!(
                meta["annotations"]["example.com/note"] == "ours",
                "{kind}: {meta}"
            );
        }
        let service = ns.get("v1", "Service", "wished-weft").await?;
        anyhow::ensure!(
            service["spec"]["externalTrafficPolicy"] == "Local",
            "{service}"
        );
        anyhow::ensure!(
            service["metadata"]["annotations"]["example.com/a"] == "b",
            "{service}"
        );
        let deployment = ns.get("apps/v1", "Deployment", "wished-weft").await?;
        let pod = &deployment["spec"]["template"];
        anyhow::ensure!(
            pod["metadata"]["labels"]["example.com/team"] == "edge",
            "{pod}"
        );
        let resources = &pod["spec"]["containers"][0]["resources"];
        let wanted = json!({"requests": {"cpu": "15m"}, "limits": {"memory": "96Mi"}});
        anyhow::ensure!(
            resources["requests"]["cpu"] == wanted["requests"]["cpu"],
            "{resources}"
        );
        anyhow::ensure!(
            resources["limits"]["memory"] == wanted["limits"]["memory"],
            "{resources}"
        );
        let gateways = ns.api(objects::GATEWAY, "Gateway");
        gateways.delete("wished", &Default::default()).await?;
        for kind in KINDS {
            eventually("all objects to be deleted", async || {
                check_deleted(ns, kind, "wished-weft").await
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn existing_service_is_not_overwritten(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let theirs = objects::service("edge-weft", json!({"app": "reviews"}));
        let before = ns.apply(theirs).await?;
        ns.apply(http("edge")).await?;
        eventually("the Gateway's condition", async || {
            let gateway = ns.get(objects::GATEWAY, "Gateway", "edge").await?;
            let words = [
                "Service",
                "/edge-weft",
                "is not changed",
                "delete or rename it",
            ];
            top_conditions(&gateway)?.is_false("Programmed", "NoResources", &words)
        })
        .await?;
        let after = ns.get("v1", "Service", "edge-weft").await?;
        let version = |of: &Value| of["metadata"]["resourceVersion"].clone();
        anyhow::ensure!(
            version(&before) == version(&after),
            "the Service was modified: {after}"
        );
        let services = ns.api("v1", "Service");
        services.delete("edge-weft", &Default::default()).await?;
        ns.wait_until_programmed("edge").await.map(drop)
    }

    pub(super) async fn invalid_parameters_are_reported(ns: &TestNamespace) -> anyhow::Result<()> {
        let refused = async |words: &[&str]| {
            eventually("InvalidParameters", async || {
                let gateway = ns.get(objects::GATEWAY, "Gateway", "edge").await?;
                top_conditions(&gateway)?.is_false("Accepted", "InvalidParameters", words)
            })
            .await
        };
        ns.apply(with_parameters(http("edge"), "absent")).await?;
        refused(&["ConfigMap", "/absent does not exist"]).await?;
        for (key, value, words) in [
            (
                "replicas",
                "many",
                &["replicas", "many", "between 0 and 1000"][..],
            ),
            ("colour", "red", &["colour", "unknown key", "serviceType"]),
            ("serviceType", "Door", &["serviceType", "Door", "NodePort"]),
        ] {
            ns.apply(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "absent"}, "data": {key: value},
            }))
            .await?;
            refused(words).await?;
        }
        ns.apply(parameters("absent", json!({"replicas": "1"})))
            .await?;
        ns.wait_until_programmed("edge").await.map(drop)
    }

    pub(super) async fn gateway_pod_in_injected_namespace_gets_no_sidecar(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.gateway(http("edge")).await?;
        let labels = "gateway.networking.k8s.io/gateway-name=edge";
        let pods = ns.list("v1", "Pod", labels).await?;
        anyhow::ensure!(pods.len() == 1, "{} pods", pods.len());
        let spec = &pods[0]["spec"];
        anyhow::ensure!(
            objects::names(&spec["containers"]) == ["weft-proxy"],
            "{spec}"
        );
        anyhow::ensure!(objects::names(&spec["initContainers"]).is_empty(), "{spec}");
        Ok(())
    }

    pub(super) async fn gateways_have_separate_addresses_and_pods(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let mut addresses = Vec::new();
        for name in ["one", "two"] {
            let address = ns.gateway(http(name)).await?;
            let rules = json!([{"filters": [
                {"type": "RequestRedirect", "requestRedirect": {"hostname": format!("{name}.example.com")}},
            ]}]);
            let mut own = route("HTTPRoute", name, name, "", rules);
            own["spec"]["hostnames"] = json!([format!("{name}.test")]);
            ns.gateway_route(own).await?;
            addresses.push(address);
        }
        anyhow::ensure!(addresses[0] != addresses[1], "{addresses:?}");
        for (address, statuses) in addresses.iter().zip([[302, 404], [404, 302]]) {
            for (host, status) in ["one.test", "two.test"].into_iter().zip(statuses) {
                eventually("each route to serve only on its Gateway", async || {
                    get(address, 80, host, "/").await?.is(status).map(drop)
                })
                .await?;
            }
        }
        // A change of one Gateway does not restart the other's pods.
        let uid = async |name: &str| {
            let labels = format!("gateway.networking.k8s.io/gateway-name={name}");
            let pods = ns.list("v1", "Pod", &labels).await?;
            anyhow::Ok(
                pods.iter()
                    .map(|pod| pod["metadata"]["uid"].clone())
                    .collect::<Vec<_>>(),
            )
        };
        let before = uid("two").await?;
        let gateways = ns.api(objects::GATEWAY, "Gateway");
        gateways.delete("one", &Default::default()).await?;
        eventually("the first Gateway to be deleted", async || {
            check_deleted(ns, ("apps/v1", "Deployment"), "one-weft").await
        })
        .await?;
        get(&addresses[1], 80, "two.test", "/").await?.is(302)?;
        anyhow::ensure!(
            uid("two").await? == before,
            "the other Gateway's pods were replaced"
        );
        Ok(())
    }
}
