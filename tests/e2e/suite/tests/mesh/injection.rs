//! Which pods get a proxy, and that injected pods start, run and complete normally.

cluster_tests! {
    run Meshed labelled_pod_gets_init_and_proxy_containers;
    run Unmeshed unlabelled_namespace_injects_only_opted_in_pods;
    run Meshed pod_label_overrides_the_namespace_label;
    run Meshed host_network_pod_is_skipped_with_a_reason;
    run Meshed job_with_init_container_is_served_and_completes;
}

mod cases {
    use anyhow::Context;
    use kube::api::PostParams;
    use serde_json::{Value, json};
    use weft_e2e::{TestNamespace, eventually, identity, objects};

    /// Returns the pod as admission changes it, without creating it.
    async fn admitted(ns: &TestNamespace, pod: Value) -> anyhow::Result<Value> {
        let dry = PostParams {
            dry_run: true,
            ..Default::default()
        };
        let pod = ns
            .api("v1", "Pod")
            .create(&dry, &serde_json::from_value(pod)?)
            .await?;
        Ok(serde_json::to_value(pod)?)
    }

    fn has_proxy(pod: &Value) -> bool {
        objects::names(&pod["spec"]["initContainers"]).contains(&"weft-proxy")
    }

    pub(super) async fn labelled_pod_gets_init_and_proxy_containers(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let mut pod = objects::client("client");
        pod["spec"]["initContainers"] = json!([objects::container("early", &["--version"])]);
        let pod = admitted(ns, pod).await?;
        let init = &pod["spec"]["initContainers"];
        anyhow::ensure!(
            objects::names(init) == ["weft-init", "weft-proxy", "early"],
            "the order of init containers is wrong: {init}"
        );
        let (redirect, proxy) = (&init[0]["securityContext"], &init[1]["securityContext"]);
        anyhow::ensure!(
            redirect["capabilities"]["add"] == json!(["NET_ADMIN"]),
            "{redirect}"
        );
        anyhow::ensure!(
            init[1]["restartPolicy"] == "Always",
            "weft-proxy is not a native sidecar: {}",
            init[1]
        );
        anyhow::ensure!(
            proxy["runAsUser"] == 2460 && proxy["readOnlyRootFilesystem"] == true,
            "{proxy}"
        );
        anyhow::ensure!(proxy["capabilities"]["drop"] == json!(["ALL"]), "{proxy}");
        anyhow::ensure!(proxy["capabilities"]["add"].is_null(), "{proxy}");
        let probes = (&init[1]["startupProbe"], &init[1]["readinessProbe"]);
        anyhow::ensure!(!probes.0.is_null() && !probes.1.is_null(), "{}", init[1]);
        Ok(())
    }

    pub(super) async fn unlabelled_namespace_injects_only_opted_in_pods(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let pod = admitted(ns, objects::client("client")).await?;
        anyhow::ensure!(pod["spec"]["initContainers"].is_null(), "{}", pod["spec"]);
        let mut willing = objects::client("willing");
        willing["metadata"]["labels"]["weft.dev/inject"] = "enabled".into();
        anyhow::ensure!(
            has_proxy(&admitted(ns, willing).await?),
            "a pod that opts in should get a proxy"
        );
        Ok(())
    }

    pub(super) async fn pod_label_overrides_the_namespace_label(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let mut unwilling = objects::client("unwilling");
        unwilling["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        anyhow::ensure!(
            !has_proxy(&admitted(ns, unwilling).await?),
            "a pod that opts out should get no proxy"
        );
        Ok(())
    }

    pub(super) async fn host_network_pod_is_skipped_with_a_reason(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let mut pod = objects::client("host");
        pod["spec"]["hostNetwork"] = true.into();
        let pod = admitted(ns, pod).await?;
        anyhow::ensure!(!has_proxy(&pod), "{}", pod["spec"]);
        let reason = pod["metadata"]["annotations"]["weft.dev/skipped"].as_str();
        let reason = reason
            .with_context(|| format!("the pod has no reason annotation: {}", pod["metadata"]))?;
        anyhow::ensure!(reason.contains("hostNetwork"), "{reason}");
        Ok(())
    }

    /// Each container sends one request without retry, so the proxy must serve before they start.
    pub(super) async fn job_with_init_container_is_served_and_completes(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.apply(objects::job("errand", "http://reviews/reviews/errand"))
            .await?;
        eventually("the Job to be complete", async || {
            let job = ns.get("batch/v1", "Job", "errand").await?;
            anyhow::ensure!(job["status"]["succeeded"] == 1, "{}", job["status"]);
            Ok(())
        })
        .await?;
        let accesses = eventually("both requests in the server's log", async || {
            let accesses = ns
                .accesses("reviews-v1", "inbound", "/reviews/errand")
                .await?;
            anyhow::ensure!(accesses.len() == 2, "{accesses:?}");
            Ok(accesses)
        })
        .await?;
        let client = identity::spiffe(&ns.namespace, "client");
        anyhow::ensure!(
            accesses
                .iter()
                .all(|access| access.is("client_id", &client)),
            "{accesses:?}"
        );
        Ok(())
    }
}
