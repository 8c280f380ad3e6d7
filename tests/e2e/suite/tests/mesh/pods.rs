//! Pods that start without the mesh also start in it, or are rejected with the cause.

cluster_tests! {
    run Meshed pods_with_custom_dns_are_served;
    run Meshed namespace_annotations_set_the_limits_a_quota_requires;
    run Meshed pod_security_baseline_rejects_pods_with_the_cause;
    run Meshed pod_with_a_proxy_port_is_rejected_with_the_port;
    run Meshed no_bypass_policy_rejects_pods_that_could_bypass_the_proxy;
}

mod cases {
    use anyhow::Context;
    use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
    use serde_json::{Value, json};
    use weft_e2e::host::{self, in_url};
    use weft_e2e::{TestNamespace, eventually, objects};

    /// Returns the API server's error for the pod, from a dry run; `None` if it is admitted.
    async fn admission_error(ns: &TestNamespace, pod: Value) -> anyhow::Result<Option<String>> {
        let dry = PostParams {
            dry_run: true,
            ..Default::default()
        };
        let pod = serde_json::from_value(pod)?;
        match ns.api("v1", "Pod").create(&dry, &pod).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) => Ok(Some(status.message.clone())),
            Err(error) => Err(error.into()),
        }
    }

    async fn check_rejected(ns: &TestNamespace, pod: Value, words: &[&str]) -> anyhow::Result<()> {
        let refusal = admission_error(ns, pod)
            .await?
            .context("the pod was admitted")?;
        let complete = words.iter().all(|word| refusal.contains(word));
        anyhow::ensure!(complete, "{refusal}");
        Ok(())
    }

    /// Patches the metadata of the test's namespace.
    async fn patch_namespace_metadata(ns: &TestNamespace, metadata: Value) -> anyhow::Result<()> {
        let patch = json!({ "metadata": metadata });
        let (namespaces, patch) = (ns.api("v1", "Namespace"), Patch::Merge(&patch));
        let parameters = PatchParams::default();
        namespaces.patch(&ns.namespace, &parameters, &patch).await?;
        Ok(())
    }

    pub(super) async fn pods_with_custom_dns_are_served(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let address = in_url(&ns.cluster_ip("reviews").await?);
        let ndots = json!({"options": [{"name": "ndots", "value": "1"}]});
        // A documentation address (RFC 5737), at which no DNS server responds.
        let nobody =
            json!({"nameservers": ["192.0.2.1"], "options": [{"name": "timeout", "value": "1"}]});
        for (name, policy, config) in [
            ("dns-default", "Default", Value::Null),
            ("dns-none", "None", nobody),
            ("dns-ndots", "ClusterFirst", ndots),
        ] {
            let mut pod = objects::client(name);
            pod["spec"]["dnsPolicy"] = policy.into();
            if !config.is_null() {
                pod["spec"]["dnsConfig"] = config;
            }
            ns.apply(pod).await?;
        }
        for name in ["dns-default", "dns-none", "dns-ndots"] {
            ns.wait_until_ready(name).await.context(name)?;
            ns.reachable(name, &format!("http://{address}/reviews/1"), &[])
                .await?;
        }
        Ok(())
    }

    pub(super) async fn namespace_annotations_set_the_limits_a_quota_requires(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let hard = json!({
            "requests.cpu": "4", "requests.memory": "4Gi", "limits.cpu": "4", "limits.memory": "4Gi",
        });
        ns.apply(json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"}, "spec": {"hard": hard},
        }))
        .await?;
        let mut pod = objects::client("client");
        pod["spec"]["containers"][0]["resources"]["limits"] =
            json!({"cpu": "100m", "memory": "64Mi"});
        eventually("the quota to be enforced", async || {
            check_rejected(ns, pod.clone(), &["weft-proxy", "limits.cpu"]).await
        })
        .await?;
        let limits =
            json!({"weft.dev/proxy-cpu-limit": "500m", "weft.dev/proxy-memory-limit": "128Mi"});
        patch_namespace_metadata(ns, json!({ "annotations": limits })).await?;
        // The injector learns of the annotations with a delay, by its watch.
        eventually("the pod to be admitted", async || {
            let refusal = admission_error(ns, pod.clone()).await?;
            anyhow::ensure!(refusal.is_none(), "{refusal:?}");
            Ok(())
        })
        .await?;
        ns.apply(pod).await?;
        let pod = ns.wait_until_ready("client").await?;
        for container in [
            &pod["spec"]["initContainers"][0],
            &pod["spec"]["initContainers"][1],
        ] {
            let limits = &container["resources"]["limits"];
            anyhow::ensure!(
                *limits == json!({"cpu": "500m", "memory": "128Mi"}),
                "{container}"
            );
        }
        Ok(())
    }

    pub(super) async fn pod_security_baseline_rejects_pods_with_the_cause(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let label = "pod-security.kubernetes.io/enforce";
        patch_namespace_metadata(ns, json!({"labels": {label: "baseline"}})).await?;
        eventually("the pod to be rejected", async || {
            let words = [
                "weft: pod client: ",
                label,
                "baseline",
                "NET_ADMIN",
                "privileged",
            ];
            check_rejected(ns, objects::client("client"), &words).await
        })
        .await
    }

    pub(super) async fn pod_with_a_proxy_port_is_rejected_with_the_port(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        for port in [15001, 15006, 15020, 15021] {
            let mut pod = objects::client("client");
            pod["spec"]["containers"][0]["ports"] = json!([{ "containerPort": port }]);
            check_rejected(ns, pod, &["container shop", &port.to_string()]).await?;
        }
        Ok(())
    }

    /// `examples/policies/no-bypass.yaml`, renamed and bound to the test's namespace.
    pub(super) async fn no_bypass_policy_rejects_pods_that_could_bypass_the_proxy(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(host::root().join("examples/policies/no-bypass.yaml"))?;
        let text = text.replace("weft-no-bypass", &ns.namespace);
        let mut made = Vec::new();
        for document in text.split("\n---\n") {
            let mut object: Value = serde_norway::from_str(document)?;
            if object["kind"] == "ValidatingAdmissionPolicyBinding" {
                object["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] =
                    ns.namespace.clone().into();
            }
            made.push(object["kind"].as_str().unwrap_or_default().to_owned());
            ns.apply(object).await?;
        }
        let tried = check_policy(ns).await;
        for kind in made {
            let api = ns.api("admissionregistration.k8s.io/v1", &kind);
            api.delete(&ns.namespace, &DeleteParams::default()).await?;
        }
        tried
    }

    async fn check_policy(ns: &TestNamespace) -> anyhow::Result<()> {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut pod = objects::client("client");
            pod["spec"]["containers"][0]["securityContext"] =
                json!({"capabilities": {"drop": ["ALL"]}});
            change(&mut pod["spec"]);
            pod
        };
        // The user is the image's USER; the pod has no runAsUser.
        let unsaid = with(&|spec| spec["securityContext"] = json!({}));
        eventually("the policy to be in effect", async || {
            check_rejected(ns, unsaid.clone(), &["runAsUser"]).await
        })
        .await?;
        let plain = admission_error(ns, with(&|_| {})).await?;
        anyhow::ensure!(plain.is_none(), "a harmless pod was rejected: {plain:?}");
        let keeps = with(&|spec| spec["containers"][0]["securityContext"] = json!({}));
        check_rejected(ns, keeps, &["must drop SETUID"]).await?;
        let adds = json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}});
        let adds = with(&|spec| spec["containers"][0]["securityContext"] = adds.clone());
        check_rejected(ns, adds, &["NET_ADMIN"]).await
    }
}
