//! mTLS modes set by annotations and changed at run time, probes of the kubelet, and a root
//! provided by the user.

cluster_tests! {
    run Meshed strict_namespace_accepts_only_mutual_tls_and_probes;
    run Meshed mtls_mode_changes_without_a_restart;
    run Meshed tcp_probe_checks_the_application;
    run_alone Meshed replaced_root_secret_is_distributed;
}

mod cases {
    use anyhow::Context;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
    use serde_json::{Value, json};
    use weft_e2e::host::in_url;
    use weft_e2e::{TestNamespace, eventually, objects};

    const URL: &str = "http://reviews/reviews/1";

    /// Deploys a pod `plain` without a proxy, to send requests from.
    async fn deploy_plain_client(ns: &TestNamespace) -> anyhow::Result<()> {
        let mut pod = objects::client("plain");
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(pod).await?;
        ns.wait_until_ready("plain").await.map(|_| ())
    }

    /// Waits until all requests of the pod succeed, or all fail.
    async fn wait_until_served(ns: &TestNamespace, pod: &str, served: bool) -> anyhow::Result<()> {
        eventually("the mTLS mode to be in effect", async || {
            let summary = ns.load(pod, URL, &["-n", "10"]).await?;
            let wanted = if served { 0 } else { summary.sent() };
            anyhow::ensure!(summary.failed() == wanted, "{pod}: {summary}");
            Ok(())
        })
        .await
    }

    pub(super) async fn strict_namespace_accepts_only_mutual_tls_and_probes(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.set_mtls("Namespace", &ns.namespace, "strict".into())
            .await?;
        // Readiness probes arrive in plain text.
        ns.deploy_shop(&["v1"]).await?;
        deploy_plain_client(ns).await?;
        ns.load("client", URL, &["-n", "20"]).await?.all("200")?;
        wait_until_served(ns, "plain", false).await?;
        let refused = ns
            .metric(
                "reviews-v1",
                "weft_protocol_errors_total",
                &["listener=\"inbound\"", "error_type=\"plaintext_refused\""],
            )
            .await?;
        anyhow::ensure!(
            refused >= 1.0,
            "{refused} rejected connections were counted"
        );
        let log = ns.log("reviews-v1", "weft-proxy").await?;
        anyhow::ensure!(log.contains("takes mutual TLS only"), "{log}");
        // A request that matches a probe, and one that differs from it.
        let address = format!("http://{}:8080", in_url(&ns.pod_ip("reviews-v1").await?));
        let response = ns
            .load("plain", &format!("{address}/healthz"), &["-n", "5"])
            .await?;
        response.all("200")?;
        let response = ns
            .load("plain", &format!("{address}/healthz?x=1"), &["-n", "5"])
            .await?;
        anyhow::ensure!(response.failed() == response.sent(), "{response}");
        ns.wait_until_ready("reviews-v1").await?;
        anyhow::ensure!(
            ns.restarts("reviews-v1").await? == 0,
            "the pod was restarted"
        );
        Ok(())
    }

    pub(super) async fn mtls_mode_changes_without_a_restart(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        deploy_plain_client(ns).await?;
        ns.set_mtls("Namespace", &ns.namespace, "permissive".into())
            .await?;
        wait_until_served(ns, "plain", true).await?;
        ns.set_mtls("Namespace", &ns.namespace, "strict".into())
            .await?;
        wait_until_served(ns, "plain", false).await?;
        ns.load("client", URL, &["-n", "20"]).await?.all("200")?;
        // The pod's annotation overrides the namespace's.
        ns.set_mtls("Pod", "reviews-v1", "permissive".into())
            .await?;
        wait_until_served(ns, "plain", true).await?;
        // An invalid mode is ignored; the namespace's applies.
        ns.set_mtls("Pod", "reviews-v1", "Permissive".into())
            .await?;
        wait_until_served(ns, "plain", false).await?;
        ns.set_mtls("Pod", "reviews-v1", Value::Null).await?;
        // A single port is open in a strict pod, and closed in a permissive one.
        for (namespace, port, served) in [
            ("strict", "8080=permissive", true),
            ("permissive", "8080=strict", false),
        ] {
            ns.set_mtls("Namespace", &ns.namespace, namespace.into())
                .await?;
            let ports = json!({"weft.dev/mtls-ports": port});
            ns.annotate("Pod", "reviews-v1", ports).await?;
            wait_until_served(ns, "plain", served).await?;
        }
        let none = json!({"weft.dev/mtls-ports": null});
        ns.annotate("Pod", "reviews-v1", none).await?;
        wait_until_served(ns, "plain", true).await?;
        anyhow::ensure!(
            ns.restarts("reviews-v1").await? == 0,
            "the pod was restarted"
        );
        Ok(())
    }

    pub(super) async fn tcp_probe_checks_the_application(ns: &TestNamespace) -> anyhow::Result<()> {
        let probed = |name: &str, port: u16| {
            let mut pod = objects::reviews("v1");
            pod["metadata"]["name"] = name.into();
            pod["spec"]["containers"][0]["readinessProbe"] =
                json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
            pod
        };
        ns.apply(probed("open", 8080)).await?;
        ns.apply(probed("closed", 8081)).await?;
        ns.wait_until_ready("open").await?;
        let ready = |pod: &Value, container: &str| {
            let statuses = pod["status"]["containerStatuses"].as_array();
            let mut statuses = statuses.into_iter().flatten();
            statuses
                .find(|status| status["name"] == container)
                .is_some_and(|status| status["ready"] == true)
        };
        // The pod `closed` was created with `open`: its application runs and was probed.
        eventually("the probe to fail", async || {
            let fields = format!(
                "involvedObject.name=closed,involvedObject.namespace={}",
                ns.namespace
            );
            let events = ns.api("v1", "Event");
            let events = events
                .list(&kube::api::ListParams::default().fields(&fields))
                .await?;
            let reported = events
                .items
                .iter()
                .any(|event| event.data["reason"] == "Unhealthy");
            anyhow::ensure!(reported, "there is no Unhealthy event");
            Ok(())
        })
        .await?;
        let closed = ns.get("v1", "Pod", "closed").await?;
        anyhow::ensure!(
            !ready(&closed, "shop"),
            "the pod should not be ready: nothing listens on 8081"
        );
        Ok(())
    }

    /// Returns a new root and its key, PEM.
    fn new_root() -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "a root of one's own");
        Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
    }

    /// Returns the roots that pods of the namespace get.
    async fn roots(ns: &TestNamespace) -> anyhow::Result<String> {
        let map = ns.get("v1", "ConfigMap", "weft-roots").await?;
        let roots = map["data"]["ca.crt"].as_str().map(str::to_owned);
        roots.context("weft-roots has no ca.crt")
    }

    pub(super) async fn replaced_root_secret_is_distributed(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let before = roots(ns).await?;
        let (certificate, key) = new_root()?;
        let system = TestNamespace {
            client: ns.client.clone(),
            namespace: "weft-system".to_owned(),
        };
        // Like cert-manager writes it. The old root stays trusted for pods that still have its
        // certificates.
        system
            .apply(json!({
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"name": "weft-ca"},
                "stringData": {
                    "tls.crt": certificate, "tls.key": key, "ca.crt": format!("{certificate}{before}"),
                },
            }))
            .await?;
        eventually("the new root next to the old one", async || {
            let now = roots(ns).await?;
            let found = [certificate.trim(), before.trim()]
                .iter()
                .all(|root| now.contains(root));
            anyhow::ensure!(found, "weft-roots holds {now}");
            Ok(())
        })
        .await?;
        // Existing pods keep working; new pods get certificates of the new root.
        ns.load("client", URL, &["-n", "20"]).await?.all("200")?;
        ns.apply(objects::client("second")).await?;
        ns.wait_until_ready("second").await?;
        ns.apply(objects::service("reviews-v2", json!({"version": "v2"})))
            .await?;
        ns.apply(objects::reviews("v2")).await?;
        ns.wait_until_ready("reviews-v2").await?;
        eventually("pods with the new root to reach each other", async || {
            let summary = ns
                .load("second", "http://reviews-v2/reviews/1", &["-n", "20"])
                .await?;
            summary.all("200").map(|_| ())
        })
        .await
    }
}
