//! Dual stack: pods and Services behave the same on each of their addresses. In single-stack
//! clusters, the one family is tested.

cluster_tests! {
    run Meshed pod_addresses_of_each_family_use_mutual_tls;
    run Meshed strict_pod_rejects_plain_text_on_each_ip_family;
    run Meshed service_addresses_of_each_family_are_routed;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::host::in_url;
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, eventually, identity};

    pub(super) async fn pod_addresses_of_each_family_use_mutual_tls(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let client = identity::spiffe(&ns.namespace, "client");
        for (number, ip) in ns.pod_ips("reviews-v1").await?.iter().enumerate() {
            let path = format!("/reviews/at-{number}");
            let url = format!("http://{}:8080{path}", in_url(ip));
            ns.reachable("client", &url, &["-n", "5"]).await?;
            eventually(
                &format!("requests to {ip} in the log, with the client's identity"),
                async || {
                    let accesses = ns.accesses("reviews-v1", "inbound", &path).await?;
                    let known = accesses.iter().all(|one| one.is("client_id", &client));
                    anyhow::ensure!(known, "{accesses:?}");
                    Ok(())
                },
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn strict_pod_rejects_plain_text_on_each_ip_family(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let mut plain = objects::client("plain");
        plain["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(plain).await?;
        ns.wait_until_ready("plain").await?;
        let addresses = ns.pod_ips("reviews-v1").await?;
        let urls: Vec<String> = addresses
            .iter()
            .map(|ip| format!("http://{}:8080/reviews/plain", in_url(ip)))
            .collect();
        for url in &urls {
            ns.reachable("plain", url, &[]).await?;
        }
        ns.set_mtls("Pod", "reviews-v1", "strict".into()).await?;
        for url in &urls {
            eventually(&format!("plain text to {url} to be rejected"), async || {
                let summary = ns.load("plain", url, &["-n", "5"]).await?;
                anyhow::ensure!(summary.failed() == summary.sent(), "{summary}");
                Ok(())
            })
            .await?;
            ns.reachable("client", url, &[]).await?;
        }
        Ok(())
    }

    fn service_with_families(name: &str, policy: &str, families: Value) -> Value {
        let mut service = objects::service(name, json!({"app": "reviews", "version": "v1"}));
        service["spec"]["ipFamilyPolicy"] = policy.into();
        service["spec"]["ipFamilies"] = families;
        service
    }

    /// Services of all IP families, and of each alone. Their own endpoints are v1; their route
    /// leads to v2.
    pub(super) async fn service_addresses_of_each_family_are_routed(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let families = ns.families().await?;
        let mut services = vec![("all", "PreferDualStack", json!(families))];
        for family in &families {
            let name = if *family == "IPv6" { "six" } else { "four" };
            services.push((name, "SingleStack", json!([family])));
        }
        if let [first, second] = families[..] {
            services.push(("turned", "RequireDualStack", json!([second, first])));
        }
        for (name, policy, own) in services {
            ns.apply(service_with_families(name, policy, own.clone()))
                .await?;
            let rules = json!([{"backendRefs": [to("v2", 1)]}]);
            ns.accepted_route(objects::route("HTTPRoute", name, name, 80, rules))
                .await?;
            let service = ns.get("v1", "Service", name).await?;
            anyhow::ensure!(service["spec"]["ipFamilies"] == own, "{service}");
            let addresses = service["spec"]["clusterIPs"].as_array().cloned();
            let mut urls: Vec<String> = addresses
                .iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|ip| format!("http://{}/reviews/1", in_url(ip)))
                .collect();
            urls.push(format!("http://{name}/reviews/1"));
            for url in urls {
                eventually(&format!("{name} at {url} to be routed"), async || {
                    let summary = ns.load("client", &url, &["-n", "10"]).await?;
                    summary.all("200")?.all_from("v2").map(drop)
                })
                .await?;
            }
        }
        Ok(())
    }
}
